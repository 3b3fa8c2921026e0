"""A streamed candidate put together again: the same completion as a plain call's, and its cost known at any moment."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from its_proxy import streamed
from its_proxy.codesign.errors import BadPayload, UpstreamError, UpstreamRejected
from its_proxy.streamed import STREAM_OPTIONS, Spent, complete_streamed
from its_proxy.upstreams.base import Completion

HEAD = {"id": "c-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}


class Streaming:
    """An upstream whose stream is written out: events, or bytes as they are."""

    name = "streaming"

    def __init__(self, *events: dict[str, Any] | bytes, status: int = 200, size: int = 7) -> None:
        self._bytes = b"".join(
            e if isinstance(e, bytes) else b"data: " + json.dumps(e).encode() + b"\n\n" for e in events
        )
        self._status = status
        self._size = size
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def complete(self, body: Mapping[str, Any], request_id: str) -> Completion:
        self.asked.append(("plain", body))
        return {"choices": [{"message": {"content": "plain"}, "finish_reason": "stop"}]}

    @asynccontextmanager
    async def stream(self, body: Mapping[str, Any], request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(("stream", body))
        if self._status != 200:
            raise UpstreamRejected("no", status=self._status)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(self._bytes), self._size):
                yield self._bytes[start : start + self._size]

        yield chunks()


def chunk(delta: dict[str, Any] | None, usage: Any = None, **choice: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None, **choice}]
    return {**HEAD, "choices": choices, "usage": usage}


def usage(n: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n}


OPENING = chunk({"role": "assistant", "content": ""}, usage(0))
DONE = b"data: [DONE]\n\n"


async def assembled(*events: dict[str, Any] | bytes, spent: Spent | None = None, **options: Any) -> Completion:
    return await complete_streamed(Streaming(*events, **options), {"model": "m"}, "req", spent or Spent())  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 50, 10_000])
async def test_pieces_become_the_plain_completion_however_they_are_cut(size):
    token = {"token": "4", "logprob": -0.1}
    completion = await assembled(
        {**OPENING, "prompt_token_ids": [1, 2]},
        chunk({"reasoning": "hm, "}, usage(1), token_ids=[5], logprobs={"content": [token]}),
        chunk({"reasoning": "é"}, usage(2), token_ids=[6], logprobs={"content": [token, token]}),
        chunk({"content": "4"}, usage(3), token_ids=[7]),
        chunk({"content": "2"}, usage(4), finish_reason="stop", stop_reason=13, token_ids=[8]),
        {**chunk(None, usage(4)), "system_fingerprint": "fp"},
        DONE,
        size=size,
    )
    assert completion == {
        "id": "c-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "system_fingerprint": "fp",
        "prompt_token_ids": [1, 2],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "42", "reasoning": "hm, é"},
                "logprobs": {"content": [token, token, token]},
                "finish_reason": "stop",
                "stop_reason": 13,
                "token_ids": [5, 6, 7, 8],
            }
        ],
        "usage": usage(4),
    }


async def test_tool_calls_are_joined_by_their_number():
    def call(index: int, **function: Any) -> dict[str, Any]:
        return {"index": index, "function": function}

    completion = await assembled(
        OPENING,
        chunk({"content": None, "tool_calls": [{"id": "a", "type": "function", **call(0, name="f", arguments="")}]}),
        chunk(
            {
                "tool_calls": [
                    {"id": "b", "type": "function", **call(1, name="g", arguments='{"y"')},
                    call(0, arguments='{"x": '),
                ]
            }
        ),
        chunk({"tool_calls": [call(1, arguments=": 2}"), call(0, arguments="1}")]}, finish_reason="tool_calls"),
        DONE,
    )
    assert completion["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"y": 2}'}},
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "refusal", "something_new"])
async def test_any_text_that_comes_in_pieces_is_kept_under_its_own_name(name):
    completion = await assembled(OPENING, chunk({name: "a"}), chunk({name: "b"}, finish_reason="stop"), DONE)
    assert completion["choices"][0]["message"][name] == "ab"


@pytest.mark.parametrize("delta", [{"reasoning": "hm"}, {"tool_calls": [{"index": 0, "id": "a"}]}])
async def test_a_message_of_thoughts_or_calls_alone_has_no_content(delta):
    completion = await assembled(OPENING, chunk(delta, finish_reason="stop"), DONE)
    assert completion["choices"][0]["message"]["content"] is None
    empty = await assembled(OPENING, chunk({}, finish_reason="stop"), DONE)
    assert empty["choices"][0]["message"]["content"] == ""


async def test_the_count_goes_along_and_the_last_one_stands():
    spent = Spent()
    with pytest.raises(UpstreamError, match="in the middle"):
        await assembled(OPENING, chunk({"content": "a"}, usage(1)), chunk({"content": "b"}, usage(2)), spent=spent)
    assert (spent.usage, spent.is_live) == (usage(2), True)


async def test_a_server_that_does_not_count_along_is_not_taken_for_one():
    spent = Spent()
    events = [chunk({"content": "a"}), chunk({}, finish_reason="stop"), chunk(None, usage(1)), DONE]
    assert (await assembled(*events, spent=spent))["usage"] == usage(1)
    assert not spent.is_live
    at_the_end = [chunk({"content": "a"}), chunk({}, usage(1), finish_reason="stop"), DONE]
    await assembled(*at_the_end, spent=spent)
    assert not spent.is_live


async def test_a_stream_without_any_usage_gives_a_completion_without_one():
    completion = await assembled(chunk({"content": "a"}, finish_reason="stop"), DONE)
    assert "usage" not in completion


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([OPENING, chunk({"content": "a"}), DONE], UpstreamError),
        ([], UpstreamError),
        ([OPENING, {"error": {"message": "secret"}}], UpstreamError),
        ([b"data: {\n\n"], BadPayload),
        ([b"data: 1\n\n"], BadPayload),
        ([{"choices": {"0": 1}}], BadPayload),
        ([chunk({"tool_calls": ["x"]})], BadPayload),
        ([chunk({"tool_calls": [{"index": "0"}]})], BadPayload),
    ],
)
async def test_what_is_no_whole_candidate_is_an_error(events, error):
    with pytest.raises(error) as caught:
        await assembled(*events)
    assert "secret" not in str(caught.value)


async def test_comments_other_choices_and_unknown_lines_are_passed_over():
    other = {**HEAD, "choices": [{"index": 1, "delta": {"content": "no"}}]}
    noise = b": ping\r\n\r\nevent: x\nid: 3\nretry: 5\n\n"
    completion = await assembled(
        noise, other, chunk({"content": "yes"}, finish_reason="stop"), b"data:[DONE]\r\n", b"data: {"
    )
    assert completion["choices"][0]["message"]["content"] == "yes"


async def test_what_only_a_plain_call_brings_is_asked_for_plainly():
    upstream = Streaming()
    completion = await complete_streamed(upstream, {"prompt_logprobs": 0}, "req", Spent())  # type: ignore[arg-type]
    assert completion["choices"][0]["message"]["content"] == "plain"
    assert [how for how, _ in upstream.asked] == ["plain"]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_our_options_is_asked_plainly(status):
    upstream = Streaming(status=status)
    completion = await complete_streamed(upstream, {"model": "m"}, "req", Spent())  # type: ignore[arg-type]
    assert completion["choices"][0]["message"]["content"] == "plain"
    assert upstream.asked == [("stream", {"model": "m", "stream_options": STREAM_OPTIONS}), ("plain", {"model": "m"})]


async def test_any_other_refusal_is_final():
    upstream = Streaming(status=404)
    with pytest.raises(UpstreamRejected):
        await complete_streamed(upstream, {"model": "m"}, "req", Spent())  # type: ignore[arg-type]
    assert [how for how, _ in upstream.asked] == ["stream"]


@pytest.mark.parametrize("name", ["content", "reasoning"])
async def test_a_candidate_without_an_end_is_left_at_the_cap(monkeypatch, name):
    monkeypatch.setattr(streamed, "MAX_TEXT_CHARS", 100)
    with pytest.raises(BadPayload, match="too long"):
        await assembled(*[chunk({name: "so it goes "})] * 20, chunk({}, finish_reason="stop"), DONE)
