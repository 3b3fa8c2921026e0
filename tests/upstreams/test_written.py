"""Bodies in pieces: the same JSON, and what several calls share is there once."""

import orjson
import pytest

from its_proxy.upstreams.written import SHARED_CHARS, SharedJson

MESSAGES = [{"role": "user", "content": "Hi"}]
LONG = "x" * (SHARED_CHARS + 1)
BODIES = {
    "usual": {"model": "m", "messages": MESSAGES, "seed": 1},
    "nothing": {},
    "small alone": {"model": "m"},
    "large alone": {"messages": MESSAGES, "tools": [{"a": 1}]},
    "an odd key": {"model": "m", 'a"\\b': {"a": None}, "é": LONG},
    "empty ones": {"messages": [], "logit_bias": {}},
    "one value twice": {"a": LONG, "b": LONG, "seed": 2},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_the_pieces_together_are_the_body(body):
    with SharedJson().written(body) as pieces:
        assert orjson.loads(b"".join(pieces)) == body


def test_calls_that_share_a_value_share_its_text():
    shared = SharedJson()
    with (
        shared.written({"messages": MESSAGES, "seed": 1}) as one,
        shared.written({"messages": MESSAGES, "seed": 2}) as two,
    ):
        assert {id(piece) for piece in one} & {id(piece) for piece in two if b"content" in piece}
        assert b"".join(one) != b"".join(two)


def test_values_that_are_only_equal_are_none_of_each_others_business():
    shared = SharedJson()
    messages = [{"role": "user", "content": "Hi"}]
    with shared.written({"messages": MESSAGES}) as before:
        messages[0]["content"] = "Ho"
        with shared.written({"messages": messages}) as after:
            assert orjson.loads(b"".join(before)) == {"messages": MESSAGES}
            assert orjson.loads(b"".join(after)) == {"messages": messages}


def test_nothing_is_kept_when_all_have_left():
    shared = SharedJson()
    messages = [{"role": "user", "content": "Hi"}]
    with shared.written({"messages": messages}):
        pass
    messages[0]["content"] = "Ho"
    with shared.written({"messages": messages}) as pieces:
        assert orjson.loads(b"".join(pieces)) == {"messages": messages}


def test_what_cannot_be_written_leaves_nothing_behind():
    shared = SharedJson()
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(TypeError), shared.written({"messages": messages, "tools": [object()]}):
        raise AssertionError
    messages[0]["content"] = "Ho"
    with shared.written({"messages": messages}) as pieces:
        assert orjson.loads(b"".join(pieces)) == {"messages": messages}
