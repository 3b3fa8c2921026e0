"""A chat-completions stream told as the event sequence of a Response, while it comes.

    async for told in retold(streamed.chunks, Telling(request_body, request_id)): ...

Items follow one another: thoughts, words, calls. An item ends where the next one begins.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import orjson

from its_proxy.protocol.responses import reply
from its_proxy.protocol.responses.request import Json
from its_proxy.protocol.sse import data_of

_FINAL = {"completed": "response.completed", "incomplete": "response.incomplete"}


async def retold(chunks: AsyncIterator[bytes], telling: "Telling") -> AsyncGenerator[bytes, None]:
    """An exchange's stream, whose chunks hold whole lines, as a Response's; comments keep the connection alive."""
    async for chunk in chunks:
        told = []
        for line in chunk.splitlines():
            if line.startswith(b":"):
                told.append(line + b"\n\n")
            elif (data := data_of(line)) and data != b"[DONE]":
                told.append(telling.tell(orjson.loads(data)))
        if told:
            yield b"".join(told)
    for event in telling.end():
        yield event
        await asyncio.sleep(0)  # writing one need not wait for anything, and others are waiting for their turn


class Telling:
    """The state of one streamed Response; every method gives bytes for the client."""

    def __init__(self, request: Mapping[str, Any], request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._n_events = 0
        self._response: Json | None = None
        self._items: list[_Item] = []
        self._finish_reason: Any = None
        self._usage: Any = None

    def tell(self, chunk: Mapping[str, Any]) -> bytes:
        """The events of one chat chunk."""
        told = [self._begin(chunk)] if self._response is None else []
        if "its" in chunk and self._response is not None:
            self._response["its"] = chunk["its"]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in reply.objects_of(chunk.get("choices")):
            if choice.get("index", 0) == 0:
                told += self._choice(choice)
        return b"".join(told)

    def end(self) -> Iterator[bytes]:
        """What ends the Response that the chunks have told, by the event: of a long text each is long."""
        assert self._response is not None, "a stream without a chunk is told as an error"
        ending = reply.ending_of(self._finish_reason, self._usage)
        if self._items:
            self._items[-1].status = ending["status"]  # what was cut off is the last item
        yield from self._end_item()
        self._response |= ending
        self._response["output"] = [item.whole() for item in self._items]
        yield self._event(_FINAL[self._response["status"]], response=self._response)

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The end of a stream that breaks; `error` is the inside of OpenAI's envelope."""
        told = {"code": error.get("code"), "message": error.get("message"), "param": error.get("param")}
        return self._event("error", **told, error=dict(error))

    def _begin(self, chunk: Mapping[str, Any]) -> bytes:
        created, model = chunk.get("created") or 0, chunk.get("model") or self._request.get("model", "")
        self._response = reply.head_of(self._request, self._request_id, created, model)
        return self._event("response.created", response=self._response) + self._event(
            "response.in_progress", response=self._response
        )

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[bytes]:
        [delta] = reply.objects_of([choice.get("delta")]) or [{}]
        if text := reply.text_of(delta.get("reasoning") or delta.get("reasoning_content")):
            yield from self._grow(_Reasoning, text)
        if text := reply.text_of(delta.get("content")):
            yield from self._grow(_Words, text, choice.get("logprobs"))
        elif self._items and not self._items[-1].has_ended:
            self._items[-1].learn(choice.get("logprobs"))  # of words that their server held back
        if text := reply.text_of(delta.get("refusal")):
            yield from self._grow(_Refusal, text)
        for position, piece in enumerate(reply.objects_of(delta.get("tool_calls"))):
            yield from self._call(piece, piece.get("index", position))
        if choice.get("finish_reason") is not None:
            self._finish_reason = choice["finish_reason"]

    def _grow(self, kind: "type[_Item]", text: str, logprobs: Any = None) -> Iterator[bytes]:
        if not self._items or type(self._items[-1]) is not kind:
            yield from self._begin_item(kind(len(self._items), self._request_id))
        yield from self._tell_all(self._items[-1].grow(text, logprobs))

    def _call(self, piece: Mapping[str, Any], number: int) -> Iterator[bytes]:
        [function] = reply.objects_of([piece.get("function")]) or [{}]
        last = self._items[-1] if self._items else None
        if not isinstance(last, _Call) or last.number != number:
            call = _Call(
                len(self._items), self._request_id, number, piece.get("id"), reply.text_of(function.get("name"))
            )
            yield from self._begin_item(call)
        if arguments := reply.text_of(function.get("arguments")):
            yield from self._tell_all(self._items[-1].grow(arguments))

    def _begin_item(self, item: "_Item") -> Iterator[bytes]:
        yield from self._end_item()
        self._items.append(item)
        yield from self._tell_all(item.begin())

    def _end_item(self) -> Iterator[bytes]:
        if self._items and not self._items[-1].has_ended:
            yield from self._tell_all(self._items[-1].end())

    def _tell_all(self, events: "Iterator[tuple[str, Json]]") -> Iterator[bytes]:
        for name, fields in events:
            yield self._event(name, **fields)

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        payload = {"type": kind, "sequence_number": self._n_events, **fields}
        self._n_events += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(payload) + b"\n\n"


class _Item:
    """One item of the output while it grows; its events are (name, fields)."""

    kind = ""
    part_events = ""

    def __init__(self, position: int, request_id: str) -> None:
        self.position = position
        self.name = reply.item_id(self.kind, request_id, position)
        self.has_ended = False
        self.status = "completed"
        self._pieces: list[str] = []
        self._logprobs: list[Json] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def opened(self) -> Json:
        raise NotImplementedError

    def part(self) -> Json:
        raise NotImplementedError

    def whole(self) -> Json:
        return {**self.opened(), "content": [self.part()], "status": self.status}

    def begin(self) -> Iterator[tuple[str, Json]]:
        yield "response.output_item.added", {"output_index": self.position, "item": self.opened()}
        yield "response.content_part.added", {**self._place, "part": self.part()}

    def grow(self, text: str, logprobs: Any = None) -> Iterator[tuple[str, Json]]:
        self._pieces.append(text)
        yield f"{self.part_events}.delta", {**self._place, "delta": text, **self._tokens(logprobs)}

    def learn(self, logprobs: Any) -> None:
        """Log-probabilities of words that were told without them."""

    def end(self) -> Iterator[tuple[str, Json]]:
        self.has_ended = True
        yield f"{self.part_events}.done", {**self._place, **self._said()}
        yield "response.content_part.done", {**self._place, "part": self.part()}
        yield "response.output_item.done", {"output_index": self.position, "item": self.whole()}

    @property
    def _place(self) -> Json:
        return {"item_id": self.name, "output_index": self.position, "content_index": 0}

    def _tokens(self, logprobs: Any) -> Json:
        return {}

    def _said(self) -> Json:
        return {"text": self.text}


class _Reasoning(_Item):
    kind = "rs"
    part_events = "response.reasoning_text"

    def opened(self) -> Json:
        return reply.reasoning_item(self.name)

    def part(self) -> Json:
        return reply.reasoning_part(self.text)


class _Words(_Item):
    kind = "msg"
    part_events = "response.output_text"

    def opened(self) -> Json:
        return reply.message_item(self.name)

    def part(self) -> Json:
        return reply.text_part(self.text, self._logprobs)

    def learn(self, logprobs: Any) -> None:
        self._logprobs += reply.tokens_of(logprobs)

    def _tokens(self, logprobs: Any) -> Json:
        self.learn(logprobs)
        return {"logprobs": reply.tokens_of(logprobs)}

    def _said(self) -> Json:
        return {"text": self.text, "logprobs": self._logprobs}


class _Refusal(_Item):
    kind = "msg"
    part_events = "response.refusal"

    def opened(self) -> Json:
        return reply.message_item(self.name)

    def part(self) -> Json:
        return {"type": "refusal", "refusal": self.text}

    def _said(self) -> Json:
        return {"refusal": self.text}


class _Call(_Item):
    kind = "fc"
    part_events = "response.function_call_arguments"

    def __init__(self, position: int, request_id: str, number: int, call_id: str | None, function: str) -> None:
        super().__init__(position, request_id)
        self.number = number
        self._call_id = call_id
        self._function = function

    def opened(self) -> Json:
        return reply.call_item(self.name, self._call_id, self._function)

    def whole(self) -> Json:
        return {**self.opened(), "arguments": self.text, "status": self.status}

    def begin(self) -> Iterator[tuple[str, Json]]:
        yield "response.output_item.added", {"output_index": self.position, "item": self.opened()}

    def end(self) -> Iterator[tuple[str, Json]]:
        self.has_ended = True
        yield f"{self.part_events}.done", {**self._place, "name": self._function, "arguments": self.text}
        yield "response.output_item.done", {"output_index": self.position, "item": self.whole()}

    @property
    def _place(self) -> Json:
        return {"item_id": self.name, "output_index": self.position}
