"""How a server ends: told first, then without new clients, and once everybody has been answered."""

import asyncio
import signal
import socket
import time
from contextlib import ExitStack

import aiohttp
import pytest
import uvloop

from benchmarks.reliability import rolling_restarts
from its_proxy.server.life import End, drain_s_of, leave
from its_proxy.server.listener import ACCEPTED_AT_ONCE, SETTLE_S
from tests.command import command, ended, serve_command, start
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, model_settings, serving, serving_script, tokens_of, write_checkpoint
from tests.wire import post

ASKED = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}
PATIENT = {"drain_s": 30.0}


REQUEST = post(ASKED)


class Plain(socket.socket):
    """A client that sends without giving the server's loop a turn: what it says waits in the system."""

    @classmethod
    def connected(cls, server, stack: ExitStack) -> "Plain":
        client = stack.enter_context(cls(socket.AF_INET, socket.SOCK_STREAM))
        client.connect(("127.0.0.1", int(server.url.split(":")[2].removesuffix("/v1"))))
        return client

    async def reads_all(self) -> bytes:
        """Until the server ends the connection."""
        self.setblocking(False)
        seen = b""
        async with asyncio.timeout(10):
            while piece := await asyncio.get_running_loop().sock_recv(self, 65536):
                seen += piece
        return seen

    async def reads(self, wanted: bytes) -> bytes:
        self.setblocking(False)
        seen = b""
        async with asyncio.timeout(10):
            while wanted not in seen:
                piece = await asyncio.get_running_loop().sock_recv(self, 65536)
                assert piece, seen
                seen += piece
        self.setblocking(True)
        return seen


async def hog() -> None:
    """Every turn of the loop takes longer than any moment that the server grants."""
    for _ in range(8):
        time.sleep(1.5 * SETTLE_S)
        await asyncio.sleep(0)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


class TestNothingIsLost:
    async def test_who_has_connected_but_was_not_accepted_yet_is_answered(self, stack):
        async with serving_script(Say("hello"), None, **PATIENT) as (server, _):
            clients = [Plain.connected(server, stack) for _ in range(3 * ACCEPTED_AT_ONCE)]
            for client in clients:
                client.sendall(REQUEST)
            await leave(End(), server.site, server.context)
            replies = [await client.reads_all() for client in clients]
        assert all(reply.startswith(b"HTTP/1.1 200") and b"Connection: close" in reply for reply in replies)

    @pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def test_nor_is_anybody_lost_where_the_loop_is_busy(self, stack, loop_factory):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            replies = runner.run(self.replies_of_a_busy_server(stack))
        assert [reply[:12] for reply in replies] == [b"HTTP/1.1 200"] * (3 * ACCEPTED_AT_ONCE)

    async def replies_of_a_busy_server(self, stack):
        async with serving_script(Say("hello"), None, **PATIENT) as (server, _):
            clients = [Plain.connected(server, stack) for _ in range(3 * ACCEPTED_AT_ONCE)]
            for client in clients:
                client.sendall(REQUEST)
            hogging = asyncio.create_task(hog())
            await leave(End(), server.site, server.context)
            replies = [await client.reads_all() for client in clients]
            await hogging
        return replies

    async def test_a_request_on_a_kept_connection_that_has_just_come_is_answered(self, stack):
        async with serving_script(Say("hello"), None, **PATIENT) as (server, _):
            client = Plain.connected(server, stack)
            client.sendall(REQUEST)
            assert b"Connection: close" not in await client.reads(b"hello")
            client.sendall(REQUEST)
            await leave(End(), server.site, server.context)
            assert (await client.reads_all()).startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize("n_sent", [5, len(REQUEST) - 5])
    async def test_a_request_that_is_half_here_may_come_whole(self, stack, n_sent):
        async with serving_script(Say("hello"), None, **PATIENT) as (server, _):
            client = Plain.connected(server, stack)
            client.sendall(REQUEST[:n_sent])
            await server.get("/livez")  # by then the server has read what came before
            ending = asyncio.create_task(leave(End(), server.site, server.context))
            await asyncio.sleep(2 * SETTLE_S)
            client.sendall(REQUEST[n_sent:])
            assert (await client.reads_all()).startswith(b"HTTP/1.1 200")
            await ending

    async def test_a_stream_goes_on_to_its_end_and_its_connection_ends_with_it(self, stack):
        say = Say("one two three", chunk_delay_s=0.1)
        async with serving_script(say, None, **PATIENT) as (server, upstream):
            client = Plain.connected(server, stack)
            client.sendall(post({**ASKED, "stream": True}))
            begun = await client.reads(b"one")
            assert b"Connection: close" not in begun, "it began before the end did"
            await leave(End(), server.site, server.context)
            assert b"data: [DONE]" in await client.reads_all()
            assert (upstream.n_finished, upstream.n_cancelled) == (1, 0)

    async def test_a_connection_that_says_nothing_does_not_hold_the_server(self, stack):
        async with serving_script(Say("hello"), None, **PATIENT) as (server, _):
            silent, kept = Plain.connected(server, stack), Plain.connected(server, stack)
            kept.sendall(REQUEST)
            await kept.reads(b"hello")
            await leave(End(), server.site, server.context)
            assert [await silent.reads_all(), await kept.reads_all()] == [b"", b""]
            assert server.connections == []


class TestSettings:
    async def test_by_default_it_waits_as_long_as_the_longest_request_may_take(self):
        async with scripted_upstream(lambda body, number: Say()) as upstream:
            settings = model_settings(upstream.url, None, vote={"deadline_s": 700})
            async with serving({**settings, "drain_s": None, "vote": {"deadline_s": 20}}) as server:
                assert drain_s_of(server.context) == 10 + 30 + 700
            async with serving({**settings, "drain_s": 3}) as server:
                assert drain_s_of(server.context) == 3


class TestProcess:
    async def test_after_sigterm_it_is_not_ready_and_answers_all_the_same_and_a_second_one_ends_it(self):
        async with scripted_upstream(lambda body, number: Say("hello")) as upstream:
            variables = {"ITS_PROXY_LAME_DUCK_S": "60"}
            async with (
                serve_command("--upstream", upstream.url, **variables) as server,
                aiohttp.ClientSession() as http,
            ):
                root = server.url.removesuffix("/v1")
                server.process.send_signal(signal.SIGTERM)
                while (await status(http, f"{root}/readyz")) != 503:
                    await asyncio.sleep(0.01)
                async with http.post(f"{server.url}/chat/completions", json=ASKED) as reply:
                    assert (reply.status, reply.headers["Connection"]) == (200, "close")
                assert await status(http, f"{root}/livez") == 200
                out = await server.end(signal.SIGTERM)
        assert out.code == 1
        assert "Error: ended at once by a further signal" in out.err

    async def test_ctrl_c_does_not_wait_for_balancers(self):
        async with serve_command("--upstream", "http://127.0.0.1:9/v1", ITS_PROXY_LAME_DUCK_S="3600") as server:
            out = await server.end(signal.SIGINT)
        assert out.code == 0


class TestRollingRestarts:
    """The short form of benchmarks/reliability/rolling_restarts.py."""

    @pytest.mark.parametrize("way", rolling_restarts.WAYS)
    async def test_nobody_notices(self, tmp_path, monkeypatch, way):
        monkeypatch.setattr(rolling_restarts, "LAME_DUCK_S", 1.0)
        monkeypatch.setattr(rolling_restarts, "ANSWERS_S", (0.1, 0.5))
        figures = await rolling_restarts.measure(way, 2, 10, tmp_path)
        assert (figures["ended otherwise"], figures["exit_codes"]) == ({}, {"0": 2})
        assert figures["answered"] == figures["requests"] > 20


class TestSharedPort:
    async def test_a_server_that_cannot_answer_yet_leaves_the_port_to_the_others(self, tmp_path):
        checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other, ExitStack() as stack:
            port, upstream_port = other.getsockname()[1], free_port()
            process = await start(
                *("serve", "--port", port, "--upstream", f"http://127.0.0.1:{upstream_port}/v1"),
                *("--model", "model", "--checkpoint", checkpoint), ITS_PROXY_REUSE_PORT="true",
            )  # fmt: skip
            try:
                await says(process, b'"state":"pending"')
                for _ in range(20):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                other.setblocking(False)
                for _ in range(20):
                    other.accept()[0].close()
                async with scripted_upstream(lambda body, number: Say("x"), port=upstream_port) as upstream:
                    upstream.tokens = lambda body: tokens_of(body["messages"])
                    await says(process, f":{port}/v1".encode())
            finally:
                process.send_signal(signal.SIGTERM)
                assert (await ended(process)).code == 0

    async def test_without_it_a_port_is_nobody_elses(self):
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
            port = other.getsockname()[1]
            out = await command("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", port)
        assert (out.code, "address already in use" in out.err) == (1, True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


async def says(process: asyncio.subprocess.Process, words: bytes) -> None:
    async with asyncio.timeout(60):
        while words not in (line := await process.stderr.readline()):
            assert line, "it has ended"


async def status(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(url) as reply:
        return reply.status
