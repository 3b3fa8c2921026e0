"""One request: its head, its body once that has come, and what becomes known of it while it is answered."""

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from its_proxy.server.http.response import Stream, head

if TYPE_CHECKING:
    from its_proxy.server.context import Context
    from its_proxy.server.dialect import Dialect
    from its_proxy.server.http.connection import Connection
    from its_proxy.server.traces import RequestSpan


class Refused(Exception):
    """An error that is HTTP's own, by its status. `allow`: the methods that a route has instead."""

    def __init__(self, status: int, allow: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.allow = allow


class Request:
    """`target`: as the client wrote it; `path`: without its query; `tail`: the name at the end of a route's path.
    `fields`: by their names in lower case, of those in `repeated` the first.

    The server's own notes: `id`; `model`, the configured name that it resolved to, which logs and metrics may say;
    `phase`, how far it is when its client leaves: receiving, queued, answering or streaming; `stream`, the reply whose
    status has left, from when on an error can only be told as an event.
    """

    context: "Context"
    dialect: "Dialect"
    # Most of this stays as it is, and so is not set anew for each.
    id = ""
    route = "none"
    tail = ""
    model = "other"
    phase = "receiving"
    span: "RequestSpan | None" = None
    stream: Stream | None = None
    n_bytes = 0
    is_whole = False
    _waiter: asyncio.Future[None] | None = None
    _is_told_to_go_on = False

    def __init__(
        self,
        connection: "Connection",
        method: str,
        target: str,
        version: str,
        fields: Mapping[bytes, bytes],
        repeated: Collection[bytes],
        is_kept: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.path = target.partition("?")[0] if "?" in target else target
        self.version = version
        self.is_kept = is_kept
        self.fields = fields
        self.repeated = repeated
        self._most_bytes = connection.app.max_body_bytes
        self._chunks: list[bytes] = []
        self._failure = 413 if int(fields.get(b"content-length", 0)) > self._most_bytes else 0

    # -- what handlers ask ---------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> str | None:
        """By its name in lower case; of a repeated field the first."""
        value = self.fields.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape").rstrip(" \t")

    def is_repeated(self, name: bytes) -> bool:
        return name in self.repeated

    async def read(self) -> bytes:
        """The whole body, which is not kept; the request is being answered from then on. Raises Refused: 400, 408, 413
        or 415."""
        if self.fields.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415)
        while not (self.is_whole or self._failure):
            if b"expect" in self.fields and not self._is_told_to_go_on:
                self._is_told_to_go_on = True
                self.connection.tell_to_go_on()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failure:
            raise Refused(self._failure)
        self.phase = "answering"
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def begin(self, fields: Mapping[str, str]) -> Stream:
        """Sends a stream's head. Raises ConnectionResetError."""
        self.phase = "streaming"
        is_chunked = self.version != "1.0"
        is_last = self.connection.is_last(self) or not is_chunked
        framing = "Transfer-Encoding: chunked\r\n" if is_chunked else ""
        self.connection.write(head(200, self.id, fields, framing + ("Connection: close\r\n" if is_last else "")))
        self.stream = Stream(self.connection, is_chunked=is_chunked, is_last=is_last)
        return self.stream

    # -- what its connection asks and tells ----------------------------------------------------------------------------

    def framing(self) -> bytes:
        """The header lines that say where the body ends."""
        names = (b"content-length", b"transfer-encoding")
        return b"".join(b"%b: %b\r\n" % (name, self.fields[name]) for name in names if name in self.fields)

    def feed(self, chunk: bytes) -> None:
        """A piece of the body, up to what may be kept of it."""
        self.n_bytes += len(chunk)
        if self.n_bytes > self._most_bytes:
            self.fail(413)
        elif not self._failure:
            self._chunks.append(chunk)

    def end(self) -> None:
        self.is_whole = True
        if self._waiter is not None:
            self._wake()

    def fail(self, status: int) -> None:
        """For whoever reads the body; nobody waits for the rest."""
        self._failure = self._failure or status
        self._chunks.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
