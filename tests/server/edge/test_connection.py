"""What a slow client may take of the server: its time limits, and how much waits for whoever does not read."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.scripted import Say, ScriptedUpstream
from tests.serving import Server, manifest, serving_script, write_checkpoint
from tests.wire import Wire, connected, post

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
QUESTION = {"model": "model", "messages": [{"role": "user", "content": "How many eggs are 3 eggs and 4 eggs?"}]}
ENDLESS = Say("word " * 2_000_000, chunk_delay_s=0)
BRIEF = {"header_s": 0.2, "body_s": 0.2, "write_idle_s": 0.3, "keepalive_s": 0.3}
LONG = {"header_s": 60.0, "body_s": 60.0, "write_idle_s": 60.0, "keepalive_s": 60.0}


@asynccontextmanager
async def server_with(say: Say | None = None, **limits: Any) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    """Whatever is not named waits for a minute, so that only the named limit can end a connection."""
    async with serving_script(say or Say("\\boxed{7}"), None, **{**LONG, **limits}) as pair:
        yield pair


def count(server: Server, name: str, **labels: str) -> float | None:
    return server.context.metrics.registry.get_sample_value(f"its_proxy_{name}", labels)


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


class TestHeaders:
    async def test_that_never_end_are_told_so_and_the_connection_is_closed(self):
        async with server_with(header_s=0.2) as (server, _), connected(server.url) as wire:
            wire.send(HEAD)
            reply = await wire.reply()
            assert (reply.status, reply.error["code"], reply.headers["connection"]) == (408, "request_timeout", "close")
            assert await wire.rest() == b""
            assert count(server, "request_receive_timeouts_total", part="header") == 1

    async def test_that_come_in_drops_have_no_more_time(self):
        async with server_with(header_s=0.2) as (server, _), connected(server.url) as wire:
            dripping = asyncio.create_task(drip(wire, HEAD + b"X-A: " + b"a" * 5000))
            assert (await wire.reply()).status == 408
            assert await wire.rest() == b""
            dripping.cancel()

    async def test_of_a_client_that_says_nothing_are_not_waited_for(self):
        """And not answered: a client would take it for the reply to what it is about to ask."""
        async with server_with(header_s=0.2) as (server, _), connected(server.url) as wire:
            assert await wire.rest() == b""
            assert count(server, "request_receive_timeouts_total", part="header") == 1

    async def test_of_a_further_request_have_their_own_time(self):
        async with server_with(header_s=0.2) as (server, _), connected(server.url) as wire:
            wire.send(LIVE)
            assert (await wire.reply()).status == 200
            await asyncio.sleep(0.4)  # idle, and not slow
            wire.send(LIVE)
            assert (await wire.reply()).status == 200
            wire.send(HEAD)
            assert (await wire.reply()).status == 408
            assert await wire.rest() == b""

    async def test_sent_too_early_do_not_end_the_answer_before_them(self):
        async with (
            server_with(Say("\\boxed{7}", delay_s=0.5), header_s=0.1) as (server, _),
            connected(server.url) as wire,
        ):
            wire.send(post(QUESTION))
            await asyncio.sleep(0.05)
            wire.send(HEAD)
            assert (await wire.reply()).status == 200
            assert (await wire.reply()).status == 408


class TestABody:
    async def test_that_stops_is_told_so_and_the_connection_is_closed(self):
        async with server_with(body_s=0.2) as (server, upstream), connected(server.url) as wire:
            wire.send(post(QUESTION)[:-5])
            reply = await wire.reply()
            assert (reply.status, reply.error["code"], reply.headers["connection"]) == (408, "request_timeout", "close")
            assert await wire.rest() == b""
            await asyncio.sleep(0.1)
            assert count(server, "request_receive_timeouts_total", part="body") == 1
            assert upstream.bodies == []

    async def test_that_comes_in_drops_is_no_better(self):
        async with server_with(body_s=0.2) as (server, _), connected(server.url) as wire:
            dripping = asyncio.create_task(drip(wire, post({**QUESTION, "user": "u" * 5000})))
            assert (await wire.reply()).status == 408
            dripping.cancel()

    async def test_that_keeps_coming_may_take_longer(self):
        async with server_with(body_s=0.2) as (server, _), connected(server.url) as wire:
            request = post({**QUESTION, "user": "u" * 12_000})
            for start in range(0, len(request), 1000):
                wire.send(request[start : start + 1000])
                await asyncio.sleep(0.05)
            assert (await wire.reply()).status == 200

    async def test_in_chunks_has_the_same_time(self):
        async with server_with(body_s=0.2) as (server, _), connected(server.url) as wire:
            wire.send(HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod\r\n')
            assert (await wire.reply()).status == 408

    async def test_of_chunks_that_hold_nearly_nothing_is_slow(self):
        async with server_with(body_s=0.2) as (server, _), connected(server.url) as wire:
            wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            padding = asyncio.create_task(drip(wire, b"1;" + b"x" * 500 + b"\r\n{\r\n", 1000))
            assert (await wire.reply()).status == 408
            padding.cancel()

    async def test_is_not_waited_for_where_its_answer_is_known(self):
        key = {"keys": [{"name": "team", "env": "KEY"}]}
        async with server_with(environ={"KEY": "k"}, **key) as (server, _), connected(server.url) as wire:
            wire.send(post(QUESTION)[:-5])
            assert (await wire.reply()).status == 401
            assert await wire.rest() == b""


class TestAnIdleConnection:
    async def test_is_closed_after_a_while(self):
        async with server_with(keepalive_s=0.2) as (server, _), connected(server.url) as wire:
            wire.send(LIVE)
            assert (await wire.reply()).status == 200
            assert await wire.rest() == b""
            assert count(server, "request_receive_timeouts_total", part="header") is None
            await until(lambda: count(server, "open_connections") == 0)

    async def test_is_kept_until_then(self):
        async with (
            server_with(header_s=0.1, body_s=0.1, write_idle_s=0.1) as (server, _),
            connected(server.url) as wire,
        ):
            for _ in range(3):
                wire.send(LIVE)
                assert (await wire.reply()).status == 200
                await asyncio.sleep(0.3)


class TestAReader:
    async def test_who_reads_nothing_is_closed_and_its_upstream_call_cancelled(self):
        async with (
            server_with(ENDLESS, write_idle_s=0.3) as (server, upstream),
            connected(server.url, limit=1024) as wire,
        ):
            wire.send(post({**QUESTION, "stream": True}))
            await upstream.until(lambda: upstream.n_cancelled == 1, 20)
            assert count(server, "slow_client_closed_total") == 1
            assert upstream.n_open == 0

    async def test_who_reads_nothing_makes_the_upstream_wait(self):
        """What piles up here is bounded, however much there is to come."""
        async with server_with(ENDLESS) as (server, upstream), connected(server.url, limit=1024) as wire:
            wire.send(post({**QUESTION, "stream": True}))
            await until(lambda: server.connections)
            [connection] = server.connections
            await until(lambda: connection.is_paused, 20)
            waits = [connection.transport.get_write_buffer_size()]
            for _ in range(20):
                await asyncio.sleep(0.01)
                waits.append(connection.transport.get_write_buffer_size())
            assert 0 < max(waits) <= 256 * 1024
            assert upstream.n_open == 1

    async def test_who_reads_slowly_is_left_alone(self):
        async with (
            server_with(ENDLESS, write_idle_s=0.2) as (server, upstream),
            connected(server.url, limit=1024) as wire,
        ):
            wire.send(post({**QUESTION, "stream": True}))
            for _ in range(40):
                await asyncio.sleep(0.02)
                await wire.reader.read(262_144)
            assert count(server, "slow_client_closed_total") == 0
            assert upstream.n_open == 1

    async def test_who_waits_for_a_slow_model_is_left_alone(self):
        async with server_with(Say(delay_s=1.0), **BRIEF) as (server, _):
            assert (await server.ask()).status == 200


REFUSED = {
    "slow headers": HEAD,
    "a slow body": post(QUESTION)[:-5],
    "a malformed request": b"GET / odd\r\n\r\n",
    "a malformed body": HEAD + b"Transfer-Encoding: chunked\r\n\r\nodd\r\n",
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED.keys())
async def test_a_refused_client_leaves_nothing_for_the_collector(request_):
    """A crowd of them would hold everybody up when it comes."""
    async with server_with(header_s=0.1, body_s=0.1) as (server, _):
        gc.disable()
        try:
            async with connected(server.url) as wire:
                wire.send(request_)
                await until(lambda: server.connections)
                [connection] = map(weakref.ref, server.connections)
                await wire.rest()
            await until(lambda: connection() is None)
        finally:
            gc.enable()


STREAMED = {"stream": True}
PASSED, VOTED, HOLDS = "passed through", "voted", Say(delay_s=600.0)
HALF_CLOSED: dict[str, tuple[str, Say, dict[str, Any], int]] = {
    "plain": (PASSED, HOLDS, {}, 1),
    "streamed, before its first byte": (PASSED, HOLDS, STREAMED, 1),
    "streamed, while it is read": (PASSED, Say("word " * 100_000, chunk_delay_s=0.005), STREAMED, 1),
    "streamed, while it is not read": (PASSED, ENDLESS, STREAMED, 1),
    "voted": (VOTED, HOLDS, {}, 8),
    "voted and streamed": (VOTED, HOLDS, STREAMED, 8),
}


@pytest.mark.parametrize(("kind", "say", "fields", "n_open"), HALF_CLOSED.values(), ids=HALF_CLOSED.keys())
async def test_who_half_closes_has_left(tmp_path, kind, say, fields, n_open):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random")) if kind == VOTED else None
    n_rounds = 3 if say is ENDLESS else 20
    async with serving_script(say, checkpoint, **LONG) as (server, upstream):
        for round_ in range(1, n_rounds + 1):
            async with connected(server.url, limit=1024) as wire:
                wire.send(post({**QUESTION, **fields}))
                await upstream.until(lambda: upstream.n_open == n_open)
                if say is ENDLESS:
                    await until(lambda: any(c.is_paused for c in server.connections), 20)
                elif say is not HOLDS:
                    await wire.reader.read(100)
                wire.writer.write_eof()
                await upstream.until(lambda n=round_ * n_open: upstream.n_cancelled == n)
        await until(lambda: count(server, "open_connections") == 0 and count(server, "inflight_requests") == 0)
        assert server.total("client_disconnects_total") == n_rounds


async def drip(wire: Wire, data: bytes, n_times: int = 1) -> None:
    """Byte by byte; or whole, so many times."""
    for drop in [data] * n_times if n_times > 1 else [bytes([byte]) for byte in data]:
        wire.send(drop)
        await asyncio.sleep(0.01)
