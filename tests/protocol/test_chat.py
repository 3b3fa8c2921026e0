"""Reading requests: what is kept, and what is taken for what."""

import pytest

from its_proxy.protocol.chat import client_max_tokens, client_seed, read_chat

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


def test_the_smaller_of_both_names_is_the_clients_cap():
    assert client_max_tokens({}) is None
    assert client_max_tokens({"max_tokens": None, "max_completion_tokens": 5}) == 5
    assert client_max_tokens({"max_tokens": 3, "max_completion_tokens": 5}) == 3


@pytest.mark.parametrize("seed", [None, 0, -5, 2**62 - 1])
def test_a_seed_is_any_integer_that_still_counts_upwards(seed):
    assert client_seed({"seed": seed}) == seed
