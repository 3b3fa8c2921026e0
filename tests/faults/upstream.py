"""An upstream on raw sockets, which does to each candidate what it was told to: nothing, or one of the faults.

    async with faulty_upstream() as upstream:
        upstream.cue = {101: faults.reset_before_byte}   # by the candidate's seed; the others are answered well

It speaks OpenAI's JSON and SSE byte by byte, because a web framework would not let it misbehave. An answer in good
order says 7, whatever a faulty one lets out says 13: so a vote tells whom it has counted.
"""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.serving import tokens_of

SECRET = "upstream secret text"
SOUND, FAULTY = "7", "13"
MODELS = ("voted", "counted", "passed", "first", "second", "third")
# The answer comes first and is followed by words, so that whoever is cut off has said it already.
_WORDS = " and so, voilà," * 12


@dataclass
class Call:
    """One chat completion that was asked for, and the connection to do as one likes with.

    `number`: which try this is of the same request id, from 0.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: Mapping[str, Any]
    number: int = 0
    says: str = FAULTY
    keeps_open: bool = False

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))

    def pieces(self, **changed: Any) -> list[bytes]:
        """The answer as it is sent: the events of a stream, or one JSON document. `changed`: other than usual."""
        content = changed.get("content", f"\\boxed{{{self.says}}}{_WORDS}")
        finish_reason = changed.get("finish_reason", "stop")
        head = {"id": "c", "created": 1, "model": changed.get("model", self.body["model"])}
        if not self.is_stream:
            choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            document = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return [_json({**document, **changed.get("document", {})})]
        deltas: list[tuple[dict[str, Any], Any]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": word + " "}, None) for word in content.split(" ")] if content is not None else []
        deltas += [({}, finish_reason)] if finish_reason else []
        chunks = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **changed.get("document", {})}
            for delta, reason in deltas
        ]
        return [event({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks] + [
            b"data: [DONE]\n\n" if finish_reason else b""
        ]

    @property
    def content_type(self) -> str:
        return "text/event-stream" if self.is_stream else "application/json"

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def begin(self, status: str = "200 OK", content_type: str | None = None, *headers: str) -> None:
        """The header block of a body that comes in pieces."""
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type or self.content_type}", "Connection: close"]
        await self.send("\r\n".join([*lines, *headers, "Transfer-Encoding: chunked", "\r\n"]).encode())

    async def piece(self, data: bytes) -> None:
        if data:
            await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def answer(self, **changed: Any) -> None:
        """In good order, but for what is `changed`."""
        await self.begin()
        for piece in self.pieces(**changed):
            await self.piece(piece)
        await self.end()

    async def until_left(self) -> None:
        """Says nothing until the other side has gone."""
        while await self.reader.read(2**16):
            pass

    async def reset(self) -> None:
        """Ends the connection with a RST instead of a FIN, once what was said has arrived."""
        await asyncio.sleep(0.01)
        own = self.writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Fault = Callable[[Call], Awaitable[None]]


@dataclass
class FaultyUpstream:
    """`cue`: which fault each seed gets. `n_open`: connections of its own that have not ended.

    `go`: nobody listens at its port any more.
    """

    url: str = ""
    cue: dict[int, Fault] = field(default_factory=dict)
    n_open: int = 0
    go: Callable[[], None] = lambda: None
    _tries: Counter[str] = field(default_factory=Counter)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until a fault or the other side ends it."""
        self.n_open += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):
            pass  # the other side has gone, which is its right
        finally:
            self.n_open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))
        }
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        if head.startswith("GET"):
            await _send_json(writer, {"data": [{"id": name, "object": "model"} for name in MODELS]})
        elif body.get("return_token_ids"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}
            await _send_json(writer, {"choices": [choice], "prompt_token_ids": tokens_of(body["messages"])})
        else:
            request_id = headers["x-request-id"]
            call = Call(reader, writer, body, number=self._tries[request_id])
            self._tries[request_id] += 1
            await self.cue.get(body["seed"], _well)(call)
            return call.keeps_open
        return False


async def _well(call: Call) -> None:
    call.says = SOUND
    await call.answer()


async def _send_json(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    data = _json(document)
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()


def event(document: Any) -> bytes:
    return b"data: " + _json(document) + b"\n\n"


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


@asynccontextmanager
async def faulty_upstream() -> AsyncIterator[FaultyUpstream]:
    """On a free loopback port; its end ends all its connections."""
    upstream, tasks = FaultyUpstream(), set[asyncio.Task[Any]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):  # the test is over
            await upstream.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    upstream.go = server.close
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks)
