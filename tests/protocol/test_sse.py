"""Streams both ways: a completion told as chunks, and an upstream's events read."""

from collections.abc import AsyncIterator

import orjson
import pytest

from its_proxy.codesign.errors import BadPayload, UpstreamError
from its_proxy.protocol import sse
from its_proxy.protocol.sse import completion_events, read_events


def told(message, **choice):
    completion = {"id": "c", "created": 1, "model": "m", "its": {"n": 2}, "usage": {"total_tokens": 3},
                  "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}  # fmt: skip
    events = completion_events(completion, include_usage=False)
    return [orjson.loads(event.removeprefix(b"data: "))["choices"][0] for event in events]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_comes_first_and_under_its_own_name(name):
    deltas = [choice["delta"] for choice in told({"role": "assistant", "content": "x", name: "hm " * 50})]
    assert "".join(delta.get(name, "") for delta in deltas) == "hm " * 50
    assert [list(delta) for delta in deltas] == [[name]] * 3 + [["content"], []]


def test_whatever_else_a_message_holds_is_told_once():
    deltas = [choice["delta"] for choice in told({"content": None, "audio": {"id": "a"}, "annotations": [], "x": None})]
    assert deltas == [{"audio": {"id": "a"}}, {}]


def test_the_finish_chunk_carries_what_the_choice_said_of_its_end():
    finish = told({"content": ""}, logprobs={"content": []}, stop_reason=13)[-1]
    assert finish == {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": {"content": []}, "stop_reason": 13}


def test_log_probabilities_go_with_the_first_words():
    logprobs = {"content": [{"token": "so", "logprob": -0.1}]}
    choices = told({"reasoning": "hm", "content": "so " * 50}, logprobs=logprobs)
    assert [choice["logprobs"] for choice in choices] == [None, logprobs, *[None] * (len(choices) - 2)]


def test_a_content_in_parts_is_told_whole():
    parts = [{"type": "text", "text": "seven"}]
    assert [choice["delta"] for choice in told({"content": parts})] == [{"content": parts}, {}]


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes, size: int = 5) -> list[dict]:
    return [event async for event in read_events(pieces(data, size))]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
async def test_events_are_read_however_they_are_cut(size, line_end):
    lines = [b'data: {"a":"x\\ny"}', b"", b": ping", b'data:{"a":"\xc3\xa9"}', b"", b"data: [DONE]", b"", b"data: {"]
    assert await read(line_end.join(lines), size) == [{"a": "x\ny"}, {"a": "é"}]


async def test_a_last_event_without_a_line_end_is_read():
    assert await read(b'data: {"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"data: {\n", BadPayload), (b"data: [1]\n", BadPayload), (b'data: {"error": "secret"}\n', UpstreamError)],
)
async def test_what_is_no_event_ends_the_reading(data, error):
    with pytest.raises(error) as caught:
        await read(data)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("bound", ["MAX_STREAM_BYTES", "MAX_EVENT_BYTES"])
async def test_a_stream_without_an_end_is_left(monkeypatch, bound):
    monkeypatch.setattr(sse, bound, 100)
    with pytest.raises(BadPayload, match="too long"):
        await read(b"data: " + b"x" * 200)
