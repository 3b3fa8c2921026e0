"""The plain-TCP transport against raw sockets: what is reused, what is closed, and what is no reply."""

import asyncio
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field

import httptools
import pytest

from its_proxy.upstreams import wire
from its_proxy.upstreams.transport import Asked, TransportError, Unreachable
from its_proxy.upstreams.wire import READ_AHEAD_BYTES, WireTransport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@dataclass
class Peer:
    """A server that answers each request with the next of `answers`; None closes the connection instead."""

    url: str = ""
    answers: list[bytes | None] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    n_connections: int = 0
    n_closed: int = 0
    n_written: int = 0


@asynccontextmanager
async def listening(serve):
    """A server with this handler; ends with all its connections closed."""
    tasks, writers = set(), []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        writers.append(writer)
        with closing(writer), suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await serve(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)  # the sockets themselves are closed a step later


@asynccontextmanager
async def peer(*answers: bytes | None, endless: bytes = b""):
    state = Peer(answers=list(answers))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.n_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), 0
                )
                state.requests.append(head + await reader.readexactly(length))
                answer = state.answers.pop(0) if state.answers else OK
                if answer is None:
                    return
                writer.write(answer)
                while endless:
                    await writer.drain()
                    writer.write(endless)
                    state.n_written += len(endless)
                await writer.drain()
        finally:
            state.n_closed += 1

    async with listening(serve) as state.url:
        yield state


@asynccontextmanager
async def transport_to(url: str, max_connections: int = 100):
    transport = WireTransport(url, {}, max_connections=max_connections, connect_timeout_s=5)
    try:
        yield transport
    finally:
        await transport.close()


ASKED = Asked("POST", "/v1/x", {})


async def ask(
    transport: WireTransport, data: bytes = b"{}", request_id: str | None = None, asked: Asked = ASKED
) -> tuple[int, bytes]:
    response = await transport.open(asked, request_id, [data], 5)
    try:
        body = b""
        while chunk := await response.chunk(5):
            body += chunk
        return response.status, body
    finally:
        response.close()


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_connection_is_reused_when_its_reply_was_read_whole():
    async with peer() as server, transport_to(server.url) as transport:
        assert [await ask(transport) for _ in range(3)] == [(200, b"hi")] * 3
        assert server.n_connections == 1


async def test_the_request_is_whole_and_its_own():
    async with peer() as server, transport_to(server.url) as transport:
        await ask(transport, b"data", "r-1", Asked("POST", "/v1/x", {"A": "b"}))
        host = server.url.removeprefix("http://").encode()
        head = b"POST /v1/x HTTP/1.1\r\nHost: " + host + b"\r\nA: b\r\nX-Request-Id: r-1\r\nContent-Length: 4\r\n\r\n"
        assert server.requests == [head + b"data"]


async def test_a_line_end_in_a_header_field_never_leaves():
    async with peer() as server, transport_to(server.url) as transport:
        with pytest.raises(ValueError, match="line end"):
            Asked("POST", "/v1/x", {"a": "b\r\nc: d"})
        for request_id in ("b\r\nc: d", "b\n", "\n"):
            with pytest.raises(ValueError, match="line end"):
                await ask(transport, b"{}", request_id)
        assert await ask(transport) == (200, b"hi")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK,
    ],
    ids=["chunked", "continue", "hints"],
)
async def test_ways_to_say_it_that_keep_the_connection(answer):
    async with peer(answer) as server, transport_to(server.url) as transport:
        assert await ask(transport) == (200, b"hi")
        assert await ask(transport) == (200, b"hi")
        assert server.n_connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        OK.replace(b"1.1", b"1.0"),
        OK + b"HTTP/1.1 200 OK\r\n",
        OK + OK,
        OK + b"garbage",
    ],
    ids=["close", "http-1.0", "half-more", "twice", "garbage"],
)
async def test_ways_to_say_it_that_cost_the_connection(answer):
    async with peer(answer) as server, transport_to(server.url) as transport:
        assert await ask(transport) == (200, b"hi")
        assert await ask(transport) == (200, b"hi")
        assert server.n_connections == 2


async def test_what_comes_unasked_later_costs_the_connection_and_is_nobody_s_reply():
    said = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(OK)
        await writer.drain()
        writer.write(OK.replace(b"hi", b"no"))
        said.set()
        await reader.read()

    async with listening(serve) as url, transport_to(url) as transport:
        assert await ask(transport) == (200, b"hi")
        await said.wait()
        await asyncio.sleep(0.05)
        assert await ask(transport) == (200, b"hi")


async def test_a_body_without_a_length_ends_with_its_connection():
    async def serve(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")

    async with listening(serve) as url, transport_to(url) as transport:
        assert await ask(transport) == (200, b"hi")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=["closed", "ssh", "two-lengths", "length-and-chunks", "bad-chunk", "large-head", "upgrade"],
)
async def test_what_is_no_reply_is_an_error_and_the_next_call_works(answer):
    async with peer(answer) as server, transport_to(server.url, max_connections=1) as transport:
        with pytest.raises(TransportError) as broken:
            await ask(transport)
        assert not isinstance(broken.value, Unreachable)
        assert await ask(transport) == (200, b"hi")


async def test_a_reply_that_breaks_off_is_an_error():
    async def serve(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi")

    async with listening(serve) as url, transport_to(url) as transport:
        with pytest.raises(TransportError):
            await ask(transport)


async def test_nobody_there_is_told_apart():
    async with listening(None) as url:
        pass
    for address in (url, "http://no-such-host.invalid:80"):
        async with transport_to(address) as transport:
            with pytest.raises(Unreachable):
                await ask(transport)


async def test_a_body_that_nobody_reads_makes_the_server_wait():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    async with peer(head, endless=piece) as server, transport_to(server.url) as transport:
        response = await transport.open(ASKED, None, [b"{}"], 5)
        await asyncio.sleep(0.2)
        held = server.n_written
        await asyncio.sleep(0.2)
        assert server.n_written == held  # the socket's buffers are full, and ours are not growing
        assert len(await response.chunk(5)) < READ_AHEAD_BYTES + 300_000
        async with asyncio.timeout(5):
            while server.n_written == held:  # reading goes on
                await response.chunk(5)
        response.close()


async def test_leaving_a_call_closes_its_connection():
    silent = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    async with peer(silent, silent) as server, transport_to(server.url) as transport:
        call = asyncio.create_task(ask(transport))
        await until(lambda: server.requests)
        call.cancel()
        await until(lambda: server.n_closed == 1)
        response = await transport.open(ASKED, None, [b"{}"], 5)
        response.close()  # before its end
        await until(lambda: server.n_closed == 2)


async def test_a_place_is_given_back_however_a_call_ends():
    silent = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    async with peer(*[silent] * 50) as server, transport_to(server.url, max_connections=2) as transport:
        calls = [asyncio.create_task(ask(transport)) for _ in range(50)]
        while any(not call.done() for call in calls):
            await until(lambda: len(server.requests) - server.n_closed == min(2, sum(not c.done() for c in calls)))
            for call in [call for call in calls if not call.done()][:3]:  # two that run and one that waits
                call.cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        server.answers.clear()
        assert await asyncio.gather(*(ask(transport) for _ in range(4))) == [(200, b"hi")] * 4


async def test_idle_connections_are_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.05)
    async with peer() as server, transport_to(server.url) as transport:
        await asyncio.gather(*(ask(transport) for _ in range(3)))
        await until(lambda: server.n_closed == server.n_connections)


HEADS = {
    "plain": [b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nhi"],
    "odd case, twice": [b"HTTP/1.1 200 OK\r\nRETRY-after: 1\r\nRetry-After: 2\r\nretry-AFTER: 3\r\n\r\n"],
    "in its body": [b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\ncontent-encoding: br"],
    "in a value": [b"HTTP/1.1 200 OK\r\nA: content-encoding: br\r\nContent-Length: 0\r\n\r\n"],
    "in a longer name": [b"HTTP/1.1 200 OK\r\nX-Content-Encoding-X: br\r\nContent-Length: 0\r\n\r\n"],
    "in a reason": [b"HTTP/1.1 200 content-encoding: br\r\nContent-Length: 0\r\n\r\n"],
    "in a trailer": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Encoding: br\r\n\r\n"],
    "cut": [b"HTTP/1.1 200 OK\r\nContent-Enc", b"oding: br\r\nContent-Length: 0\r\n\r", b"\n"],
    "behind hints": [b"HTTP/1.1 103 Hints\r\nRetry-After: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n"],
    "in hints": [
        b"HTTP/1.1 103 Hints\r\nContent-Encoding: br\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
    "another status": [b"HTTP/1.1 429 Busy\r\nRetry-After: 3\r\n\r\n"],
    "no reason": [b"HTTP/1.1 200\r\nContent-Encoding: br\r\n\r\n"],
    "no space": [b"HTTP/1.1 200 OK\r\nContent-Encoding:br\r\n\r\n"],
    "lines before it": [b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n"],
    "odd line ends": [b"HTTP/1.1 200 OK\nContent-Encoding: br\n\nA: b\r\n\r\n"],
    "folded": [b"HTTP/1.1 200 OK\r\nContent-Encoding: b\r\n r\r\nContent-Length: 0\r\n\r\n"],
}


class Told:
    """All that llhttp tells of the first reply that is none in between."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.fields: dict[bytes, bytes] = {}
        self.is_over = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_over:
            self.fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.is_over = self.parser.get_status_code() >= 200
        if not self.is_over:
            self.fields.clear()


@pytest.mark.parametrize("pieces", HEADS.values(), ids=HEADS.keys())
async def test_a_field_is_found_at_one_look_or_by_reading_them_all_alike(pieces):
    told, connection = Told(), wire.Connection()
    connection.connection_made(Mute())
    connection.send(b"", [], 0)
    for piece in pieces:
        with suppress(httptools.HttpParserError):
            told.parser.feed_data(piece)
        connection.data_received(piece)
    if not told.is_over:
        assert connection.head is None
        return
    names = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding", b"retry-after")
    for name in names:
        assert wire.Head(connection.head.status, pieces).get(name) == told.fields.get(name), "asked first"
        assert connection.head.get(name) == told.fields.get(name)
    assert connection.head.fields == told.fields


class Mute(asyncio.Transport):
    def write(self, data) -> None:
        """Goes nowhere."""

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing is open."""
