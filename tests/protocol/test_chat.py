"""Reading requests: what is kept, and what is taken for what."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.chat import MAX_DEPTH, STRICT_PARSE_BYTES, client_max_tokens, client_seed, read_body, read_chat

MESSAGES = [{"role": "user", "content": "What is 2 + 5?"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=4))
def test_a_good_body_is_read_as_it_was_written(body):
    assert read_body(orjson.dumps(body)) == body


def test_a_large_body_is_read_as_a_small_one_is():
    body = {"text": "x" * STRICT_PARSE_BYTES, "numbers": [1, 2.5, -3], "nested": {"a": None}}
    assert read_body(orjson.dumps(body)) == body


@pytest.mark.parametrize(("levels", "is_read"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_nesting_has_one_limit(levels, is_read):
    data = b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    if is_read:
        assert read_body(data)
    else:
        with pytest.raises(RequestError, match="nested deeper"):
            read_body(data)


def test_unknown_fields_are_kept_and_its_is_taken_out():
    request = read_chat({"model": "m", "messages": MESSAGES, "its": {"n": 3}, "guided_regex": "x", "stream": None})
    assert request.body == {"model": "m", "messages": MESSAGES, "guided_regex": "x", "stream": None}
    assert request.its.n == 3
    assert (request.n, request.is_stream, request.wants_usage) == (1, False, False)


@pytest.mark.parametrize(
    ("fields", "wants"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, False),
        ({"stream": True, "stream_options": None}, False),
        ({"stream": False, "stream_options": {"include_usage": True}}, False),
    ],
)
def test_usage_is_streamed_only_where_it_was_asked_for(fields, wants):
    assert read_chat({"model": "m", "messages": MESSAGES, **fields}).wants_usage is wants


@pytest.mark.parametrize("field", ["priority_hint", "salt", "KV_cache", "transfer_params_x", "user_request_id"])
def test_the_deny_list_does_not_reach_for_its_neighbours(field):
    assert field in read_chat({"model": "m", "messages": MESSAGES, field: 1}).body


def test_the_smaller_of_both_names_is_the_clients_cap():
    assert client_max_tokens({}) is None
    assert client_max_tokens({"max_tokens": None, "max_completion_tokens": 5}) == 5
    assert client_max_tokens({"max_tokens": 3, "max_completion_tokens": 5}) == 3


@pytest.mark.parametrize("seed", [None, 0, -5, 2**62 - 1])
def test_a_seed_is_any_integer_that_still_counts_upwards(seed):
    assert client_seed({"seed": seed}) == seed
