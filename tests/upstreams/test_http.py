"""The HTTP upstream against real sockets: well-behaved servers, and those that break off, stall or lie."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest

from its_proxy import __version__
from its_proxy.codesign.errors import (
    BadPayload,
    ItsError,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.upstreams import http as module
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, scripted_upstream

BODY = {"model": "model", "messages": [{"role": "user", "content": "2 + 5?"}]}
COMPLETION = {"choices": [{"index": 0, "message": {"content": "7"}, "finish_reason": "stop"}]}


def reply(payload: Any = COMPLETION, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """An HTTP reply; `length`: what Content-Length claims."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@dataclass
class RawServer:
    """Counts requests and connections; `heads` are the requests' header blocks as they came."""

    url: str = ""
    heads: list[str] = field(default_factory=list)
    n_connections: int = 0
    n_open: int = 0


Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
"""(where to write, number of the request from 0)"""


@asynccontextmanager
async def raw_server(answer: Answer, port: int = 0) -> AsyncIterator[RawServer]:
    state = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        state.n_connections += 1
        state.n_open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ontent-Length" in line), 0)
                await reader.readexactly(length)
                state.heads.append(head.decode())
                await answer(writer, len(state.heads) - 1)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            state.n_open -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


def saying(*replies: bytes) -> Answer:
    """The replies in turn, the last one again and again."""

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(replies[min(number, len(replies) - 1)])

    return answer


def saying_and_closing(data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


def resetting_after(data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.02)
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return answer


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[HttpUpstream]:
    upstream = HttpUpstream("gpu", url, **options)
    try:
        yield upstream
    finally:
        await upstream.close()


async def failure(answer: Answer, **options: Any) -> tuple[ItsError, RawServer]:
    """What one call raises, and what the server saw."""
    async with raw_server(answer) as server, connected(server.url, **options) as upstream:
        with pytest.raises(ItsError) as caught:
            await upstream.complete(BODY, "req-0")
        return caught.value, server


async def read_stream(upstream: HttpUpstream, into: bytearray) -> None:
    async with upstream.stream(BODY, "req-0") as chunks:
        async for chunk in chunks:
            into += chunk


# -- what is sent ------------------------------------------------------------------------------------------------------


async def test_exactly_these_headers_reach_the_upstream():
    async with raw_server(saying(reply())) as server, connected(server.url, key="sk-upstream") as upstream:
        assert await upstream.complete(BODY, "req-3") == COMPLETION
    first, *lines = server.heads[0].rstrip().split("\r\n")
    assert first == "POST /v1/chat/completions HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers == {
        "Host": server.url.removeprefix("http://").removesuffix("/v1"),
        "Authorization": "Bearer sk-upstream",
        "User-Agent": f"its-proxy/{__version__}",
        "X-Request-Id": "req-3",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "Content-Length": headers["Content-Length"],
    }


async def test_without_a_key_no_authorization_is_sent_whatever_the_environment_holds(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2")
    async with raw_server(saying(reply())) as server, connected(server.url) as upstream:
        await upstream.complete(BODY, "req-0")
    assert "uthorization" not in server.heads[0]
    assert "hunter2" not in server.heads[0]


async def test_an_upstreams_cookie_is_not_sent_back():
    answer = saying(reply(COMPLETION, "200 OK", "Set-Cookie: who=first; Path=/"))
    async with raw_server(answer) as server, connected(server.url.replace("127.0.0.1", "localhost")) as upstream:
        await upstream.complete(BODY, "req-0")
        await upstream.complete(BODY, "req-1")
    assert len(server.heads) == 2
    assert "ookie" not in server.heads[1]


async def test_calls_one_after_another_share_a_connection():
    async with raw_server(saying(reply())) as server, connected(server.url) as upstream:
        for number in range(5):
            await upstream.complete(BODY, f"req-{number}")
    assert server.n_connections == 1


async def test_the_body_goes_as_it_is_and_a_stream_asks_to_be_one():
    async with scripted_upstream(lambda body, number: Say("7")) as scripted, connected(scripted.url) as upstream:
        await upstream.complete({**BODY, "unknown": {"field": [1]}}, "req-0")
        async with upstream.stream(BODY, "req-1") as chunks:
            events = b"".join([chunk async for chunk in chunks])
    assert scripted.bodies == [{**BODY, "unknown": {"field": [1]}}, {**BODY, "stream": True}]
    assert events.endswith(b"data: [DONE]\n\n")


async def test_tokenize_is_asked_beside_the_openai_routes_as_vllm_has_it():
    async with raw_server(saying(reply({"tokens": [1]}))) as server, connected(server.url) as upstream:
        answered = await upstream.forward("POST", "tokenize", b"{}", "application/json")
        await upstream.forward("POST", "embeddings", b"{}", "application/json")
    assert json.loads(answered.body) == {"tokens": [1]}
    assert [head.split(" ")[1] for head in server.heads] == ["/tokenize", "/v1/embeddings"]


# -- second tries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_a_busy_upstream_is_asked_once_more(status):
    async with raw_server(saying(reply(b"", status), reply())) as server, connected(server.url) as upstream:
        assert await upstream.complete(BODY, "req-0") == COMPLETION
    assert len(server.heads) == 2


async def test_an_upstream_that_stays_busy_is_asked_twice_and_no_more():
    error, server = await failure(saying(reply(b"", "503 Service Unavailable")))
    assert isinstance(error, UpstreamBusy)
    assert (error.status, error.retry_after_s, len(server.heads)) == (503, None, 2)


async def test_a_short_wait_is_kept():
    answer = saying(reply(b"", "429 Busy", "Retry-After: 1"), reply())
    async with raw_server(answer) as server, connected(server.url) as upstream:
        start = time.monotonic()
        assert await upstream.complete(BODY, "req-0") == COMPLETION
        assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("7", 7, 7), ("86400", 86400, 86400), (formatdate(time.time() + 86400, usegmt=True), 3600, 86400)],
)
async def test_a_long_wait_is_handed_to_the_client_instead(header, low, high):
    error, server = await failure(saying(reply(b"", "429 Busy", f"Retry-After: {header}")))
    assert isinstance(error, UpstreamBusy)
    assert low <= error.retry_after_s <= high
    assert len(server.heads) == 1


@pytest.mark.parametrize("header", ["soon", "-1", "1e9", "\u0661", "", "Sun, 99 Nov 2026 00:00:00 GMT", "9" * 5000])
async def test_a_wait_that_cannot_be_read_is_none(header):
    error, _ = await failure(saying(reply(b"", "429 Busy", f"Retry-After: {header}")))
    assert isinstance(error, UpstreamBusy)
    assert error.retry_after_s is None


async def test_a_date_that_has_passed_means_now():
    answer = saying(reply(b"", "503 Busy", f"Retry-After: {formatdate(0, usegmt=True)}"), reply())
    async with raw_server(answer) as server, connected(server.url) as upstream:
        assert await upstream.complete(BODY, "req-0") == COMPLETION


async def test_a_refused_connection_is_tried_once_more(unused_tcp_port):
    async with connected(f"http://127.0.0.1:{unused_tcp_port}/v1") as upstream:
        call = asyncio.create_task(upstream.complete(BODY, "req-0"))
        await asyncio.sleep(0.01)  # the first try has failed, the second comes 20 ms after it or later
        async with raw_server(saying(reply()), port=unused_tcp_port):
            assert await call == COMPLETION


async def test_an_upstream_that_is_not_there_is_unreachable(unused_tcp_port):
    async with connected(f"http://127.0.0.1:{unused_tcp_port}/v1") as upstream:
        with pytest.raises(UpstreamUnreachable, match="gpu cannot be reached"):
            await upstream.complete(BODY, "req-0")


async def test_a_server_that_does_not_accept_is_unreachable_after_the_connect_timeout():
    with closing(socket.socket()) as listener, closing(socket.socket()) as first, closing(socket.socket()) as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):  # they fill the queue of a server that accepts nobody
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        async with connected(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_timeout_s=0.05) as upstream:
            with pytest.raises(UpstreamUnreachable):
                await upstream.complete(BODY, "req-0")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500, 502, 504])
async def test_any_other_refusal_is_final_and_keeps_only_its_status(status):
    error, server = await failure(saying(reply(b"<html>secret traceback</html>", f"{status} Refused")))
    assert isinstance(error, UpstreamRejected)
    assert error.status == status
    assert "secret" not in str(error)
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_not_followed(status):
    async with raw_server(saying(reply())) as elsewhere:
        location = f"Location: {elsewhere.url}/chat/completions"
        error, server = await failure(saying(reply(b"", status, location)), key="sk-upstream")
    assert isinstance(error, UpstreamRejected)
    assert error.status == int(status[:3])
    assert (len(server.heads), elsewhere.heads) == (1, [])


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "304 Not Modified"])
async def test_a_success_without_a_reply_is_none(status):
    error, _ = await failure(saying(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()))
    assert isinstance(error, UpstreamRejected)


async def test_an_outage_is_not_doubled():
    calls = 100

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        # All are in flight before the first is refused; the second tries are refused as well.
        while len(server.heads) < calls:
            await asyncio.sleep(0.005)
        writer.write(reply(b"", "503 Busy"))

    async with raw_server(answer) as server, connected(server.url) as upstream:
        results = await asyncio.gather(
            *(upstream.complete(BODY, f"req-{number}") for number in range(calls)), return_exceptions=True
        )
    assert all(isinstance(result, UpstreamBusy) for result in results)
    assert len(server.heads) <= 1.25 * calls


# -- replies that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"<html>oops secret</html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"choices": [NaN]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{}", "without choices"),
        (b'{"choices": []}', "without choices"),
        (b'{"choices": {}}', "without choices"),
        (b'{"choices": [null]}', "without choices"),
        (b'{"choices": [{}]}', "without a message"),
        (b'{"choices": [{"message": null}]}', "without a message"),
        (b'{"error": {"message": "secret"}}', "without choices"),
        (b'data: {"choices": []}\n\n', "not JSON"),
    ],
)
async def test_a_200_that_is_no_completion_is_a_bad_payload(payload, words):
    error, server = await failure(saying(reply(payload)))
    assert isinstance(error, BadPayload)
    assert words in str(error)
    assert "secret" not in str(error)
    assert len(server.heads) == 1


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
async def test_a_compressed_reply_is_refused_unread(encoding):
    bomb = gzip.compress(b"\0" * 10_000_000)
    error, _ = await failure(saying(reply(bomb, "200 OK", f"Content-Encoding: {encoding}")))
    assert isinstance(error, BadPayload)
    assert "compressed" in str(error)


async def test_a_compressed_stream_is_refused():
    packed = reply(b"\x1f\x8b", "200 OK", "Content-Type: text/event-stream", "Content-Encoding: gzip")
    async with raw_server(saying(packed)) as server, connected(server.url) as upstream:
        with pytest.raises(BadPayload, match="compressed"):
            async with upstream.stream(BODY, "req-0"):
                pass


async def test_a_reply_that_never_ends_is_cut_at_the_cap(monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 100_000)
    n_sent = 0

    async def endless(writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal n_sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"2710\r\n" + b" " * 10_000 + b"\r\n")
            n_sent += 10_000
            await writer.drain()

    error, _ = await failure(endless)
    assert isinstance(error, BadPayload)
    assert "more than 100000 bytes" in str(error)
    assert n_sent < 20_000_000


@pytest.mark.parametrize(
    "answer",
    [
        resetting_after(b""),
        resetting_after(b"HTTP/1.1 200 OK\r\nContent-"),
        resetting_after(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        saying_and_closing(b""),
        saying_and_closing(b"HTTP/1.1 200"),
        saying_and_closing(reply(length=10_000)),
        saying_and_closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"),
        saying_and_closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{}\r\n"),
        saying_and_closing(b"nonsense\r\n\r\n"),
        saying_and_closing(b"HTTP/1.1 200 OK\r\n" + b"A: " + b"a" * 100_000 + b"\r\n\r\n"),
        saying_and_closing(b"HTTP/1.1 999999 OK\r\n\r\n"),
    ],
    ids=["reset", "reset in the head", "reset in the body", "closed", "closed in the head", "short of its length",
         "short of a chunk", "bad chunk", "nonsense", "endless header", "bad status"],
)  # fmt: skip
async def test_a_connection_that_breaks_off_loses_the_call_and_is_not_retried(answer):
    error, server = await failure(answer)
    assert isinstance(error, UpstreamError)
    assert not isinstance(error, UpstreamBusy | UpstreamUnreachable)
    assert len(server.heads) == 1


async def test_a_connection_that_breaks_in_the_middle_of_a_stream_is_told():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw_server(resetting_after(head + b"8\r\ndata: 1\n\r\n")) as server, connected(server.url) as upstream:
        got = bytearray()
        with pytest.raises(UpstreamError, match="in the middle"):
            await read_stream(upstream, got)
    assert got == b"data: 1\n"


async def test_a_stream_that_is_none_is_refused():
    async with raw_server(saying(reply())) as server, connected(server.url) as upstream:
        with pytest.raises(BadPayload, match="asked for a stream"):
            async with upstream.stream(BODY, "req-0"):
                pass


@pytest.mark.parametrize("payload", [b"{}", b'{"data": {}}', b'{"data": null}', b"[]", b"<html>"])
async def test_a_model_list_that_is_none_is_a_bad_payload(payload):
    async with raw_server(saying(reply(payload))) as server, connected(server.url) as upstream:
        with pytest.raises(BadPayload):
            await upstream.models()


async def test_a_url_without_a_model_list_is_told_what_such_a_url_looks_like():
    async with raw_server(saying(reply(b"{}", "404 Not Found"))) as server, connected(server.url) as upstream:
        with pytest.raises(
            UpstreamRejected, match=r"has no list of models below /\S*: .* URL mostly ends in /v1"
        ) as caught:
            await upstream.models()
    assert caught.value.status == 404


async def test_odd_cards_of_a_model_list_are_passed_over():
    async with raw_server(saying(reply({"data": [1, {"id": "a"}, None]}))) as server, connected(server.url) as upstream:
        assert await upstream.models() == [{"id": "a"}]


async def test_a_forwarded_routes_error_keeps_its_status_and_not_its_text():
    async with raw_server(saying(reply(b"secret traceback", "422 No"))) as server, connected(server.url) as upstream:
        with pytest.raises(UpstreamRejected) as caught:
            await upstream.forward("POST", "embeddings", b"{}", "application/json")
    assert caught.value.status == 422
    assert "secret" not in str(caught.value)


async def test_a_forwarded_routes_reply_comes_byte_for_byte():
    odd = b'{"a":  1, "a": 2}\n'
    answer = saying(reply(odd, "200 OK", "Content-Type: application/x-odd"))
    async with raw_server(answer) as server, connected(server.url) as upstream:
        answered = await upstream.forward("POST", "embeddings", b"{}", "application/json")
    assert (answered.status, answered.content_type, answered.body) == (200, "application/x-odd", odd)


# -- time --------------------------------------------------------------------------------------------------------------


async def silent(writer: asyncio.StreamWriter, number: int) -> None:
    await asyncio.sleep(60)


async def halfway(writer: asyncio.StreamWriter, number: int) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"choices"')
    await writer.drain()
    await asyncio.sleep(60)


async def test_a_server_that_never_answers_times_out_and_is_not_asked_again():
    error, server = await failure(silent, first_byte_timeout_s=0.05)
    assert isinstance(error, UpstreamTimeout)
    assert len(server.heads) == 1


async def test_a_server_that_falls_silent_in_its_reply_times_out():
    error, server = await failure(halfway, idle_timeout_s=0.05)
    assert isinstance(error, UpstreamTimeout)
    assert "in the middle" in str(error)
    assert len(server.heads) == 1


async def test_a_slow_reply_that_keeps_coming_is_waited_for():
    async def dribble(writer: asyncio.StreamWriter, number: int) -> None:
        for byte in reply():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.002)

    async with raw_server(dribble) as server, connected(server.url, idle_timeout_s=0.2) as upstream:
        assert await upstream.complete(BODY, "req-0") == COMPLETION


async def test_a_stream_may_wait_for_its_first_event_as_long_as_a_plain_call():
    async def queued(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.write(b"data: 1\n\n")
        writer.close()

    async with raw_server(queued) as server, connected(server.url, idle_timeout_s=0.05) as upstream:
        read = bytearray()
        await read_stream(upstream, read)
    assert read == b"data: 1\n\n"


async def test_a_stream_that_falls_silent_times_out():
    async def stall(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await asyncio.sleep(60)

    async with raw_server(stall) as server, connected(server.url, idle_timeout_s=0.05) as upstream:
        with pytest.raises(UpstreamTimeout):
            await read_stream(upstream, bytearray())


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [silent, halfway])
async def test_leaving_a_call_closes_its_connection(answer):
    async with raw_server(answer) as server, connected(server.url) as upstream:
        call = asyncio.create_task(upstream.complete(BODY, "req-0"))
        while not server.heads:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not upstream._transport._idle
        assert upstream._transport._places.n_free == 1024


async def test_after_500_calls_that_were_left_new_ones_work_and_no_connection_is_kept():
    def script(body: dict[str, Any], number: int) -> Say:
        return Say(delay_s=60.0) if number < 500 else Say("7")

    async with scripted_upstream(script) as scripted, connected(scripted.url, max_connections=64) as upstream:
        for round_ in range(10):
            calls = [asyncio.create_task(upstream.complete(BODY, f"req-{k}")) for k in range(50)]
            await scripted.until(lambda n=50 * (round_ + 1): len(scripted.bodies) == n)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls)
        await scripted.until(lambda: scripted.n_cancelled == 500)
        for number in range(10):
            assert (await upstream.complete(BODY, f"again-{number}"))["choices"][0]["message"]["content"] == "7"
        assert len(upstream._transport._idle) == 1
        assert upstream._transport._places.n_free == 64


async def test_a_call_that_waits_for_a_free_connection_can_be_left_too():
    slow = Say(delay_s=60.0)
    async with (
        scripted_upstream(lambda body, number: slow) as scripted,
        connected(scripted.url, max_connections=1) as upstream,
    ):
        calls = [asyncio.create_task(upstream.complete(BODY, f"req-{k}")) for k in range(3)]
        await scripted.until(lambda: len(scripted.bodies) == 1)
        for call in reversed(calls):
            call.cancel()
        await asyncio.wait(calls)
        await scripted.until(lambda: scripted.n_cancelled == 1)
        assert len(scripted.bodies) == 1


async def test_a_stream_that_is_left_closes_its_connection():
    long = Say("word " * 1000, chunk_delay_s=0.005)
    async with scripted_upstream(lambda body, number: long) as scripted, connected(scripted.url) as upstream:
        async with upstream.stream(BODY, "req-0") as chunks:
            await anext(aiter(chunks))
        await scripted.until(lambda: scripted.n_cancelled == 1)
