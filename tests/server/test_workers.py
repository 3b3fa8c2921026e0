"""`serve --workers`: several processes that behave as one, whatever becomes of one of them or of their parent."""

import asyncio
import os
import re
import signal
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.server.port import reserved
from its_proxy.server.workers import Worker
from its_proxy.settings import load_settings
from tests.command import command, serve_command
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, write_checkpoint

ASKED = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}


@asynccontextmanager
async def serving(n=2):
    async with (
        scripted_upstream(lambda body, number: Say("hello")) as upstream,
        serve_command("--upstream", upstream.url, "--model", "model", "--workers", n) as server,
    ):
        yield server


def children(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition, timeout_s=60):
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def told(server):
    """Every series of the metrics, asked on a connection of its own."""
    async with aiohttp.ClientSession() as http, http.get(server.url.removesuffix("/v1") + "/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def asked(server):
    """The status of one request, on a connection of its own."""
    async with aiohttp.ClientSession() as http, http.post(f"{server.url}/chat/completions", json=ASKED) as reply:
        return reply.status


async def all_serve(server, n=2):
    await until(lambda: _has(server, n))


async def _has(server, n):
    try:
        return (await told(server))["its_proxy_workers"] == n
    except aiohttp.ClientError:
        return False


async def test_they_share_clients_tell_all_metrics_reload_together_and_end_together():
    async with serving() as server:
        await all_serve(server)
        workers = children(server.process.pid)
        assert [await asked(server) for _ in range(30)] == [200] * 30
        figures = await told(server)
        shares = [figures.get(f'its_proxy_requests_total{{code="200",model="model",worker="{k}"}}', 0) for k in (0, 1)]
        assert sum(shares) == 30
        assert min(shares) > 0, "the kernel gives each of them some, but for once in a billion times"
        server.process.send_signal(signal.SIGHUP)
        done = [f'its_proxy_manifest_reload_total{{result="done",worker="{k}"}}' for k in (0, 1)]

        async def both_have_reloaded():
            figures = await told(server)
            return [figures.get(each) for each in done] == [1, 1]

        await until(both_have_reloaded)
        ended = await server.end(signal.SIGTERM)
        assert ended.code == 0, ended.err
        assert not any(map(is_running, workers))


async def test_one_that_is_killed_is_started_again_and_clients_go_on():
    async with serving() as server:
        await all_serve(server)
        victim, other = children(server.process.pid)
        os.kill(victim, signal.SIGKILL)

        async def is_replaced():
            return len(set(children(server.process.pid)) - {victim, other}) == 1

        await until(is_replaced)
        await all_serve(server)
        assert [await asked(server) for _ in range(10)] == [200] * 10
        ended = await server.end(signal.SIGTERM)
        assert ended.code == 0
        assert re.search(r"^worker [01] has ended \(signal 9\); another one is started$", ended.err, re.MULTILINE)


async def test_none_outlives_the_parent():
    async with serving() as server:
        await all_serve(server)
        workers = children(server.process.pid)
        server.process.kill()

        async def are_gone():
            return not any(map(is_running, workers))

        await until(are_gone)


async def test_a_second_signal_ends_all_at_once():
    async with scripted_upstream(lambda body, number: Say("hello", delay_s=600)) as upstream:
        flags = ("--upstream", upstream.url, "--model", "model", "--workers", 2)
        async with serve_command(*flags) as server:
            await all_serve(server)
            asking = asyncio.create_task(asked(server))
            await upstream.until(lambda: upstream.n_open == 1)
            server.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.2)
            ended = await server.end(signal.SIGINT)
            assert ended.code == 1
            await asyncio.wait({asking})
            assert isinstance(asking.exception(), aiohttp.ClientError)


async def test_what_none_of_them_can_serve_ends_all(tmp_path):
    broken = write_checkpoint(tmp_path / "broken", manifest("random", "none"))
    flags = ("--upstream", "http://127.0.0.1:9/v1", "--model", "model", "--checkpoint", broken, "--port", 0)
    ended = await command("serve", *flags, "--workers", 2)
    assert ended.code == 1
    assert "Error: " in ended.err
    assert "another one" not in ended.err


async def test_a_taken_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        ended = await command("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", port, "--workers", 2)
    assert ended.code == 1
    assert ended.err.startswith(f"Error: cannot listen on 127.0.0.1:{port}: address already in use")
    assert ended.err.count("\n") == 1


async def test_vllm_cannot_be_started_by_several():
    ended = await command("serve", "org/model", "--engine", "vllm", "--workers", 2)
    assert (ended.code, "workers: several servers cannot start vLLM side by side" in ended.err) == (1, True)


def test_a_reserved_port_takes_no_clients_and_lets_workers_in():
    with reserved(load_settings(None, {}, {"port": 0})) as place:
        address = place.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with socket.create_server(address, reuse_port=True) as worker:
            with socket.create_connection(address):
                worker.accept()[0].close()
            with pytest.raises(ConfigError, match="address already in use"):
                reserved(load_settings(None, {}, {"port": address[1]}))


def test_a_worker_knows_what_its_parent_told_it(tmp_path):
    worker = Worker(3, 8080, True, tmp_path / "a:b")
    assert Worker.of({"ITS_WORKER": worker.told()}) == worker
    assert Worker.of({}) is None
