"""The transport over plain TCP: a small HTTP/1.1 client for a server that is asked very often.

llhttp (httptools) reads the replies; the rest is what one exchange needs: a connection that is reused when its reply
was read to the end and closed whenever it was not, so that leaving a call is all that cancels it. Waits have one timer
together, which looks twenty times a second: one each was a twentieth of a call. aiohttp, used where there is TLS, takes
some 0.2 ms of CPU a call more.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from its_proxy.upstreams.places import Places
from its_proxy.upstreams.transport import (
    DNS_TTL_S,
    KEEPALIVE_S,
    READ_AHEAD_BYTES,
    SENT_AS_ONE_BYTES,
    Asked,
    TransportError,
    Unreachable,
    lines_of,
)
from its_proxy.upstreams.written import Pieces

MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = "the reply's header is too large"
_OK, _END = (b"HTTP/1.1 200 ", b"HTTP/1.0 200 "), b"\r\n\r\n"
LOOK_S = 0.05
"""By so much a wait may last longer than it should."""


class Head:
    """A reply's status and header fields. `pieces`: all that has come, to the head's end at least.

    Its fields are read when one is asked for that may be there: of most replies, none is."""

    __slots__ = ("_fields", "_pieces", "status")

    def __init__(self, status: int, pieces: list[bytes]) -> None:
        self.status = status
        self._fields: dict[bytes, bytes] | None = None
        end = pieces[0].find(_END) if pieces else -1
        # Of any other status it may be an interim reply's end, and what counts comes behind it.
        is_whole = end > 0 and pieces[0].startswith(_OK)
        self._pieces = [pieces[0][: end + len(_END)]] if is_whole else pieces

    @property
    def fields(self) -> dict[bytes, bytes]:
        """By lower-case name; of a repeated field the last."""
        if self._fields is None:
            self._fields, self._pieces = _Fields(self._pieces).last, []
        return self._fields

    def get(self, name: bytes) -> bytes | None:
        """By lower-case name. One look mostly tells that it is not there, whatever else is."""
        if self._fields is None and name not in b"".join(self._pieces).lower():
            return None
        return self.fields.get(name)

    @property
    def has_length(self) -> bool:
        """Whether its body's end is told; else it ends with the connection."""
        return self.get(b"content-length") is not None or b"chunked" in (self.get(b"transfer-encoding") or b"")


class _Fields:
    """Reads the header of the reply that `pieces` begin with; interim ones before it tell nothing. `most_bytes`: those
    of the largest."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.last: dict[bytes, bytes] = {}
        self.most_bytes = 0
        self._n_bytes = 0
        self._is_over = False
        self._parser = httptools.HttpResponseParser(self)
        with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):  # whatever is wrong is behind it
            for piece in pieces:
                self._parser.feed_data(piece)
        del self._parser  # the two know each other

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_over:  # a trailer decides nothing
            self.last[name.lower()] = value
            self._n_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self.most_bytes, self._n_bytes = max(self.most_bytes, self._n_bytes), 0
        if self._parser.get_status_code() >= 200:
            self._is_over = True
        elif not self._is_over:
            self.last = {}


class Waits:
    """Open connections, each of which says until when it waits for something."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "Connection") -> None:
        self._connections.add(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def drop(self, connection: "Connection") -> None:
        self._connections.discard(connection)

    def _look(self) -> None:
        now = self._loop.time()
        for connection in self._connections:
            if connection.waits_until <= now:
                connection.give_up()
        self._timer = self._loop.call_later(LOOK_S, self._look) if self._connections else None


class Connection(asyncio.Protocol):
    """One connection, one exchange after another: `send`, then `more` until there is a `head`, then `chunk` until it is
    empty."""

    def __init__(self, waits: Waits | None = None) -> None:
        self.idle_since = 0.0
        self.waits_until = inf
        self._loop = asyncio.get_running_loop()
        self._waits = waits or Waits()
        self._body: list[bytes] = []
        self.on_body = self._body.append  # the parser's callback, without a call of ours for each piece
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._error: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_reading_paused = False
        self._is_awaiting = False
        self._stays = False
        self._pieces: list[bytes] = []
        self._n_held = 0
        self.head: Head | None = None
        self._is_complete = False

    # -- what an exchange does -----------------------------------------------------------------------------------------

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow: the reply was whole, nothing came behind it, and the server stays."""
        return self._is_complete and self._stays and self._error is None and not self._body

    @property
    def is_open(self) -> bool:
        return self._error is None and self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, data: Pieces, n_bytes: int) -> None:
        """`n_bytes`: those of the data."""
        assert self._transport is not None
        # The rest is as the exchange before has left it: one that did not leave it so was the last.
        self.head, self._is_complete, self._is_awaiting = None, False, True
        self._n_held = 0
        if n_bytes <= SENT_AS_ONE_BYTES:
            self._transport.write(b"".join([head, *data]))
        else:
            for piece in (head, *data):
                self._transport.write(piece)

    def more(self, ends_at: float) -> "asyncio.Future[None]":
        """Awaited, it returns when something has come. Raises TransportError where the connection breaks, TimeoutError
        at that moment of the loop's clock."""
        if self._error is not None:
            raise self._error
        self.waits_until = ends_at
        waiter = self._waiter = self._loop.create_future()
        return waiter

    async def chunk(self, within_s: float) -> bytes:
        """Whatever of the body has come; nothing at its end. Raises TransportError where it breaks off, TimeoutError
        where nothing comes for so long."""
        while not self._body:
            if self._is_complete:
                return b""
            await self.more(self._loop.time() + within_s)
        return self._taken()

    def whole(self) -> bytes | None:
        """All that is left of the body, where its end has come."""
        return self._taken() if self._is_complete else None

    def _taken(self) -> bytes:
        data = b"".join(self._body)
        self._body.clear()
        self._n_held = 0
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """At once: what is on its way is lost, and the server learns of it by a reset."""
        if self._error is None:
            self._error = TransportError("closed")
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """It has waited for too long."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._error is None:
            self._error = TransportError(reason)
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods alone
        self._waits.add(self)

    def data_received(self, data: bytes) -> None:
        if not self._is_awaiting:
            # A second reply, or more than the first one's length: whose would it be?
            self._fail("the server sent what nobody asked for")
            return
        self._n_held += len(data)
        if self.head is None:
            self._pieces.append(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._is_complete:
                self._error = TransportError("the server sent what nobody asked for")
            else:
                self._fail("the server sent what is no HTTP reply")
        except httptools.HttpParserUpgrade:
            self._fail("the server wants another protocol")
        if self._n_held > READ_AHEAD_BYTES:
            self._hold_back()
        self._wake()

    def _hold_back(self) -> None:
        if self.head is None:
            if self._n_held > MAX_HEAD_BYTES:
                self._fail(_TOO_LARGE)
        elif self._body and not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._error is None and self.head is not None and not self.head.has_length:
            self._is_complete = True  # by HTTP/1.0's rule the end of the connection is the end of the body
        if self._error is None:
            self._error = TransportError("the server closed the connection")
        self._waits.drop(self)
        del self._parser  # the two know each other, which only the collector would undo
        self._wake()

    # -- httptools' callbacks ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise TransportError("the server sent what nobody asked for")

    def on_headers_complete(self) -> None:
        if self._n_held > MAX_HEAD_BYTES and _Fields(self._pieces).most_bytes > MAX_HEAD_BYTES:
            raise TransportError(_TOO_LARGE)
        status = self._parser.get_status_code()
        if status >= 200:  # of an interim reply: the one that counts follows it
            self.head, self._pieces = Head(status, self._pieces), []

    def on_message_complete(self) -> None:
        if self.head is not None:
            self._is_complete = True
            self._is_awaiting = False
            self._stays = bool(self._parser.should_keep_alive())


class WireResponse:
    """One exchange's answer. Closing it gives the connection back if it may be used again."""

    __slots__ = ("_connection", "_head", "_pool", "status")

    def __init__(self, pool: "WireTransport", connection: Connection, head: Head) -> None:
        self.status = head.status
        self._head = head
        self._pool = pool
        self._connection: Connection | None = connection

    def field(self, name: str) -> str | None:
        value = self._head.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def whole(self) -> bytes | None:
        assert self._connection is not None
        return self._connection.whole()

    def chunk(self, within_s: float) -> Awaitable[bytes]:
        """Raises TransportError, or TimeoutError."""
        assert self._connection is not None
        return self._connection.chunk(within_s)

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._pool.take_back(connection)


class WireTransport:
    """Connections to the server of `url`: at most `max_connections` at a time, idle ones kept for a while. `fields` go
    along with every request."""

    def __init__(self, url: str, fields: Mapping[str, str], *, max_connections: int, connect_timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._lines = lines_of({"Host": parts.netloc.encode("idna").decode(), **fields})
        self._connect_timeout_s = connect_timeout_s
        self._places = Places(max_connections)
        self._idle: deque[Connection] = deque()
        self._addresses: list[tuple[str, int]] = []
        self._resolved_at = float("-inf")
        self._sweep: asyncio.TimerHandle | None = None
        self._waits: Waits | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def open(self, asked: Asked, request_id: str | None, data: Pieces, within_s: float) -> "WireResponse":
        # Asked for once: CPython 3.11 makes a system call of it.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        now, n_bytes = loop.time(), sum(map(len, data))
        connection = self._idle_one(now) if self._places.n_free else None
        if connection is None:
            connection = await self._connection(within_s)
        else:
            self._places.n_free -= 1  # mostly there is all that is needed, and nothing to wait for
        try:
            connection.send(self._head(asked, request_id, n_bytes), data, n_bytes)
            while (head := connection.head) is None:
                await connection.more(now + within_s)
            return WireResponse(self, connection, head)
        except BaseException:
            connection.close()
            self._places.give_back()
            raise

    async def _connection(self, within_s: float) -> Connection:
        """One to send on, with its place."""
        async with asyncio.timeout(within_s):
            await self._places.take()
            try:
                return self._idle_one(asyncio.get_running_loop().time()) or await self._connect()
            except BaseException:
                self._places.give_back()
                raise

    async def close(self) -> None:
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().close()

    def _head(self, asked: Asked, request_id: str | None, n_bytes: int) -> bytes:
        own = "" if request_id is None else f"X-Request-Id: {request_id}\r\n"
        if own.count("\n") > 1:
            raise ValueError("a request's id holds a line end")
        length = f"Content-Length: {n_bytes}\r\n" if n_bytes or asked.method != "GET" else ""
        head = f"{asked.method} {asked.path} HTTP/1.1\r\n{self._lines}{asked.lines}{own}{length}\r\n"
        return head.encode("utf-8", "surrogateescape")

    def take_back(self, connection: Connection) -> None:
        self._places.give_back()
        if self._is_closed or self._loop is None or not (connection.is_open and connection.is_reusable):
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEPALIVE_S, self._sweep_idle)

    def _idle_one(self, now: float) -> Connection | None:
        """The one used last: the others may then grow old and go."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < KEEPALIVE_S and connection.is_open:
                return connection
            connection.close()
        return None

    def _sweep_idle(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEPALIVE_S
        while self._idle and (self._idle[0].idle_since <= oldest or not self._idle[0].is_open):
            self._idle.popleft().close()
        wait_s = self._idle[0].idle_since - oldest if self._idle else None
        self._sweep = None if wait_s is None else loop.call_later(wait_s, self._sweep_idle)

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connect_to_any(await self._resolve())
        except (OSError, TimeoutError):
            self._resolved_at = float("-inf")  # it may have moved
            raise Unreachable("no connection") from None

    async def _connect_to_any(self, addresses: list[tuple[str, int]]) -> Connection:
        """Those of one name in turn. Raises the last one's OSError."""
        loop = asyncio.get_running_loop()
        for host, port in addresses[:-1]:
            with suppress(OSError):
                return (await loop.create_connection(self._made, host, port))[1]
        return (await loop.create_connection(self._made, *addresses[-1]))[1]

    def _made(self) -> Connection:
        if self._waits is None:
            self._waits = Waits()
        return Connection(self._waits)

    async def _resolve(self) -> list[tuple[str, int]]:
        """Looked up again every half minute, so that a name may move. Raises OSError."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._resolved_at >= DNS_TTL_S:
            found: list[Any] = await loop.getaddrinfo(self._host, self._port, type=1)
            self._addresses = list(dict.fromkeys((info[4][0], info[4][1]) for info in found))
            self._resolved_at = loop.time()
        return self._addresses
