"""A shared port: whoever connects while one of its servers leaves gets to another one, and nobody is refused."""

import asyncio
import socket
import sys

import pytest

from its_proxy.server.deaf import deafen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux's")


def listening(port: int = 0) -> socket.socket:
    opened = socket.create_server(("127.0.0.1", port), reuse_port=True)
    opened.setblocking(False)
    return opened


async def connect(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    async with asyncio.timeout(20):
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


async def test_who_comes_to_a_deaf_socket_is_taken_by_the_next_one():
    with listening() as old:
        port = old.getsockname()[1]
        with await connect(port):
            assert deafen(old)
            accepted, _ = old.accept()  # who had come before is there all the same
            accepted.close()
        coming = asyncio.create_task(connect(port))
        await asyncio.sleep(0.2)
        assert not coming.done()
        with pytest.raises(BlockingIOError):
            old.accept()
        new = listening(port)
    with new, await coming:
        accepted, _ = new.accept()
        accepted.close()


async def test_a_connection_that_was_open_before_goes_on():
    with listening() as old, await connect(old.getsockname()[1]) as client:
        accepted, _ = old.accept()
        with accepted:
            assert deafen(old)
            accepted.send(b"still here")
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"still here"
