"""How many clients may be connected, and what the ones beyond that may still do."""

import asyncio
import socket
from contextlib import AsyncExitStack

import aiohttp
import pytest

from its_proxy.server.listener import SPARE, Site
from tests.scripted import Say
from tests.serving import Server, serving_script
from tests.wire import Wire, connected, post

LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
QUESTION = {"model": "model", "messages": [{"role": "user", "content": "Hi"}]}
N = 16


def count(server: Server, name: str) -> float | None:
    return server.context.metrics.registry.get_sample_value(f"its_proxy_{name}")


async def connect(stack: AsyncExitStack, server: Server, n: int) -> list[Wire]:
    wires = [await stack.enter_async_context(connected(server.url)) for _ in range(n)]
    for wire in wires:  # seen by the server, too
        wire.send(LIVE)
        assert (await wire.reply()).status == 200
    return wires


@pytest.fixture
async def server():
    async with serving_script(Say(), None, max_connections=N) as (server, _):
        yield server


async def test_up_to_the_limit_every_connection_is_alike(server):
    async with AsyncExitStack() as stack:
        for wire in await connect(stack, server, N):
            wire.send(post(QUESTION))
            assert (await wire.reply()).status == 200
    assert count(server, "refused_connections_total") == 0


async def test_beyond_the_limit_the_open_routes_answer_and_others_say_why_not(server):
    async with AsyncExitStack() as stack:
        await connect(stack, server, N)
        for path in (b"/livez", b"/readyz", b"/health"):
            async with connected(server.url) as wire:
                wire.send(LIVE.replace(b"/livez", path))
                assert (await wire.reply()).status == 200
        async with connected(server.url) as wire:
            wire.send(post(QUESTION))
            reply = await wire.reply()
            assert (reply.status, reply.error["code"], reply.headers["connection"]) == (
                503, "too_many_connections", "close")  # fmt: skip
            assert int(reply.headers["retry-after"]) >= 1
            assert await wire.rest() == b""
        assert count(server, "refused_connections_total") == 4


async def test_a_connection_that_ends_makes_room(server):
    async with AsyncExitStack() as stack:
        await connect(stack, server, N - 1)
        for _ in range(3):
            async with connected(server.url) as wire:
                wire.send(post(QUESTION))
                assert (await wire.reply()).status == 200
            await until(lambda: count(server, "open_connections") == N - 1)
    assert count(server, "refused_connections_total") == 0
    await until(lambda: count(server, "open_connections") == 0)


async def test_a_crowd_beyond_the_limit_cannot_keep_the_newest_out(server):
    """The spare connections are a queue that moves: whoever asks at once is answered."""
    async with AsyncExitStack() as stack:
        await connect(stack, server, N)
        crowd = [await stack.enter_async_context(connected(server.url)) for _ in range(3 * SPARE)]
        async with connected(server.url) as wire:
            wire.send(LIVE)
            assert (await wire.reply()).status == 200
        assert await crowd[0].rest() == b""
        assert count(server, "open_connections") <= N + SPARE


async def test_a_crowd_beyond_the_limit_is_soon_gone(server):
    async with AsyncExitStack() as stack:
        await connect(stack, server, N)
        crowd = [await stack.enter_async_context(connected(server.url)) for _ in range(SPARE)]
        for wire in crowd:
            assert await wire.rest() == b""
        await until(lambda: count(server, "open_connections") == N)


async def test_both_addresses_of_localhost_answer(server):
    site = Site(server.site.app, "localhost", 0, N)
    await site.start()
    assert site.listener is not None
    try:
        for opened in site.listener.sockets:
            host, port = opened.getsockname()[:2]
            async with aiohttp.ClientSession() as http:
                url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                async with http.get(f"{url}/livez") as reply:
                    assert reply.status == 200
    finally:
        await site.stop()


async def test_who_has_connected_before_the_end_is_still_served(server):
    """Closing the socket would reset whoever waits in its queue."""
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]  # the loop has no turn meanwhile
    for each in waiting:
        each.sendall(LIVE)
    await server.site.stop()
    for each in waiting:
        each.setblocking(False)
        assert (await asyncio.get_running_loop().sock_recv(each, 4096)).startswith(b"HTTP/1.1 200")
        each.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def until(condition, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
