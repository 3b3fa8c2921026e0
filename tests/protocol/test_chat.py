"""Reading requests: what is kept, and what is taken for what."""

import pytest

from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.chat import USUAL, client_max_tokens, client_seed, read_chat, refuse_denied
from its_proxy.protocol.limits import MAX_FIELDS, MOST_ENTRIES, refuse_excess

MESSAGES = [{"role": "user", "content": "What is 2 + 5?"}]


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


@pytest.mark.parametrize("field", sorted(USUAL - {"messages"}))
@pytest.mark.parametrize(
    "value", [None, True, -1, "x" * 100_000, ["x" * 5_000] * 5_000, {str(n): n for n in range(5_000)}], ids=type
)
def test_of_a_usual_field_nothing_is_refused_for_its_name_or_size(field, value):
    refuse_denied({field: value})
    refuse_excess({field: value})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"priority": 1}, "priority"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"messages": MESSAGES * (MOST_ENTRIES["messages"] + 1)}, "messages"),
        ({"messages": dict.fromkeys(map(str, range(5_000)))}, "messages"),
        ({"stop": ["x"] * (MOST_ENTRIES["stop"] + 1)}, "stop"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({str(n): n for n in range(MAX_FIELDS)}, None),
        ({"stream": 1}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": 1, "content": "a"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ],
)
def test_the_first_thing_that_is_wrong_is_named_however_much_else_is(fields, param):
    """In the order that it always had."""
    wrong = {"its": {"N": 1}, "n": 0}
    with pytest.raises(RequestError) as refused:
        read_chat({"model": "m", "messages": MESSAGES, **wrong, **fields})
    assert refused.value.param == param
    if param != "messages" and not (param or "").startswith("messages["):
        with pytest.raises(RequestError) as refused:
            read_chat({"model": "m", "messages": 5, **wrong, **fields})
        assert refused.value.param == param


def test_the_smaller_of_both_names_is_the_clients_cap():
    assert client_max_tokens({}) is None
    assert client_max_tokens({"max_tokens": None, "max_completion_tokens": 5}) == 5
    assert client_max_tokens({"max_tokens": 3, "max_completion_tokens": 5}) == 3


@pytest.mark.parametrize("seed", [None, 0, -5, 2**62 - 1])
def test_a_seed_is_any_integer_that_still_counts_upwards(seed):
    assert client_seed({"seed": seed}) == seed
