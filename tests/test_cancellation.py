"""A client that leaves ends all work for it, in every phase: at a scripted upstream, and in the embedded engine.

Each phase prints (`pytest -s`) how long it took from the client's leaving to the last cancelled candidate.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import pytest

from its_proxy import exchange
from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream
from tests.serving import Server, manifest, model_settings, serving, tokens_of, write_checkpoint
from tests.upstreams.conftest import make_checkpoint

ROUNDS = 20
N = 8
PROBLEM, CHAT = "How many eggs are 3 eggs and 4 eggs?", "Hello, who are you?"
HELD, ANSWER = Say(delay_s=600.0), Say("\\boxed{7}")


class Client:
    """A bare connection, so that a test decides how it ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def asking(cls, server: Server, **fields: Any) -> "Client":
        query = fields.pop("query", PROBLEM)
        body = json.dumps({"model": "model", "messages": [{"role": "user", "content": query}], **fields}).encode()
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n")
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return cls(reader, writer)

    async def leave(self, how: str) -> None:
        if how == "half-close":
            self._writer.write_eof()
            return
        if how == "reset":
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.close()

    async def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def voting(tmp_path: Path, script: Script) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    """A server whose `model` votes over an upstream with this script, which sees only clients' calls."""

    def say(body: dict[str, Any], number: int) -> Say:
        return Say("x") if body.get("return_token_ids") else script(body, number)

    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with scripted_upstream(say) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        async with serving(model_settings(upstream.url, checkpoint)) as server:
            yield server, upstream


async def settled(tasks: set[asyncio.Task[Any]], server: Server) -> None:
    """Returns when nothing but `tasks` runs and no request is counted; fails after 5 s."""
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - tasks or gauge(server) != 0:
            await asyncio.sleep(0.002)


def gauge(server: Server, name: str = "inflight_requests") -> float | None:
    return server.context.metrics.registry.get_sample_value(f"its_proxy_{name}")


def first_answers(body: dict[str, Any], number: int) -> Say:
    return ANSWER if body["seed"] == 0 else HELD


def half_answer(body: dict[str, Any], number: int) -> Say:
    return ANSWER if body["seed"] < N // 2 else HELD


def all_hold(body: dict[str, Any], number: int) -> Say:
    return HELD


def long_stream(body: dict[str, Any], number: int) -> Say:
    return Say("word " * 100_000, chunk_delay_s=0.005)


PHASES: dict[str, tuple[Script, dict[str, Any], int, bytes]] = {
    # name: script, request, candidates that are open when the client leaves, what it has read until then
    "plain vote": (all_hold, {}, N, b""),
    "plain vote, one candidate done": (first_answers, {}, N - 1, b""),
    "plain vote, quorum received": (half_answer, {}, N // 2, b""),
    "voted stream before its first candidate": (all_hold, {"stream": True}, N, b""),
    "voted stream after its headers": (first_answers, {"stream": True}, N - 1, b'"role":"assistant"'),
    "first candidate alone": (all_hold, {"query": CHAT}, 1, b""),
    "first candidate alone, streamed": (all_hold, {"query": CHAT, "stream": True}, 1, b""),
    "topped up after the first": (first_answers, {"query": CHAT}, N - 1, b""),
    "no vote, plain": (all_hold, {"model": "model:its-off"}, 1, b""),
    "no vote, stream before its first byte": (all_hold, {"model": "model:its-off", "stream": True}, 1, b""),
    "no vote, mid-stream": (long_stream, {"model": "model:its-off", "stream": True}, 1, b"word word"),
}


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_who_leaves_cancels_all_candidates(tmp_path, phase, how):
    script, fields, n_open, read_until = PHASES[phase]
    async with voting(tmp_path, script) as (server, upstream):
        tasks = asyncio.all_tasks()
        spent = []
        for round_ in range(1, ROUNDS + 1):
            client = await Client.asking(server, seed=0, **fields)
            await upstream.until(lambda: upstream.n_open == n_open)
            if read_until:
                await reads(client, read_until)
            left_at = monotonic()
            await client.leave(how)
            await upstream.until(lambda n=round_ * n_open: upstream.n_cancelled == n)
            spent.append(1000 * (upstream.cancelled_at[-1] - left_at))
        assert upstream.n_open == 0
        await settled(tasks, server)
        assert server.total("client_disconnects_total") == ROUNDS
    report(f"{phase}, {how}", n_open, spent)


async def reads(client: Client, wanted: bytes) -> None:
    """Until the client has seen `wanted`; pieces of a stream come apart, so JSON around words is dropped."""
    seen = b""
    async with asyncio.timeout(5):
        while wanted not in seen and wanted not in b"".join(texts_of(seen)):
            chunk = await client.reader.read(4096)
            assert chunk, seen
            seen += chunk


def texts_of(stream: bytes) -> list[bytes]:
    return [part.partition(b'"')[0] for part in stream.split(b'"content": "')[1:]]


def report(what: str, n_open: int, spent: list[float]) -> None:
    times = f"{len(spent)} of {len(spent)} times" if len(spent) > 1 else "once"
    print(f"\ncancelled: {what}: {times} all {n_open}; ms p50 {median(spent):.1f} max {max(spent):.1f}")


async def test_a_client_who_leaves_between_headers_and_the_first_candidate_cancels_all(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "STREAM_BEGINS_S", 0.01)
    monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.01)
    async with voting(tmp_path, all_hold) as (server, upstream):
        tasks = asyncio.all_tasks()
        for round_ in range(1, ROUNDS + 1):
            client = await Client.asking(server, stream=True)
            await reads(client, b": its-proxy is still working\n\n")
            await client.leave("fin")
            await upstream.until(lambda n=round_ * N: upstream.n_cancelled == n)
        await settled(tasks, server)


async def test_a_client_who_half_closes_has_left(tmp_path):
    async with voting(tmp_path, all_hold) as (server, upstream):
        tasks = asyncio.all_tasks()
        for round_ in range(1, ROUNDS + 1):
            client = await Client.asking(server)
            await upstream.until(lambda: upstream.n_open == N)
            await client.leave("half-close")
            await upstream.until(lambda n=round_ * N: upstream.n_cancelled == n)
            await client.close()
        await settled(tasks, server)


async def test_clients_who_leave_at_once_take_only_their_own_candidates_along(tmp_path):
    async with voting(tmp_path, all_hold) as (server, upstream):
        tasks = asyncio.all_tasks()
        clients = [await Client.asking(server) for _ in range(20)]
        await upstream.until(lambda: upstream.n_open == 20 * N)
        left_at = monotonic()
        for client in clients[::2]:
            await client.leave("fin")
        await upstream.until(lambda: upstream.n_cancelled == 10 * N)
        report("10 of 20 clients at once", 10 * N, [1000 * (upstream.cancelled_at[-1] - left_at)])
        await asyncio.sleep(0.05)
        assert upstream.n_open == 10 * N
        for client in clients[1::2]:
            await client.leave("reset")
        await upstream.until(lambda: upstream.n_open == 0)
        await settled(tasks, server)


async def test_a_decided_vote_cancels_the_rest_at_the_upstream(tmp_path):
    def five_answer(body: dict[str, Any], number: int) -> Say:
        return ANSWER if body["seed"] < 5 else HELD

    async with voting(tmp_path, five_answer) as (server, upstream):
        for round_ in range(1, ROUNDS + 1):
            status, reply = await server.chat(PROBLEM, seed=0)
            assert (status, reply["its"]["stopped"], reply["its"]["cancelled"]["candidates"]) == (200, "decided", 3)
            await upstream.until(lambda n=round_ * 3: upstream.n_cancelled == n)
        assert upstream.n_open == 0


async def test_an_unanswerable_question_cancels_the_rest_at_the_upstream(tmp_path):
    def two_talk(body: dict[str, Any], number: int) -> Say:
        return Say("It depends.") if body["seed"] < 2 else HELD

    async with voting(tmp_path, two_talk) as (server, upstream):
        status, reply = await server.chat(PROBLEM, seed=0)
        assert (status, reply["its"]["stopped"]) == (200, "no_answer")
        await upstream.until(lambda: upstream.n_cancelled == 6)
        assert upstream.n_open == 0


async def test_a_deadline_cancels_what_is_open_at_the_upstream(tmp_path):
    def say(body: dict[str, Any], number: int) -> Say:
        return Say("x") if body.get("return_token_ids") else HELD

    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with scripted_upstream(say) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        async with serving({**model_settings(upstream.url, checkpoint), "vote.deadline_s": 0.1}) as server:
            status, reply = await server.chat(PROBLEM)
            assert (status, reply["error"]["code"]) == (504, "quorum_lost")
            await upstream.until(lambda: upstream.n_cancelled == N)


# -- the embedded engine -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_winded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose replies last much longer than a test waits."""
    pytest.importorskip("torch")
    folder = make_checkpoint(tmp_path_factory.mktemp("long") / "model", seed=1, context=8192)
    document = manifest("random", probes=[])
    document["vote"]["max_tokens"] = 8000
    return write_checkpoint(folder, document)


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"model": "model:its-off", "stream": True}],
                         ids=["plain vote", "voted stream", "stream"])  # fmt: skip
async def test_a_client_who_leaves_ends_its_rows_in_the_engine(long_winded, fields, how):
    n_rows = 1 if "model" in fields else N
    async with serving({"models": {"model": {"checkpoint": long_winded}}}) as server:
        (engine,) = server.context.catalog.upstreams
        assert isinstance(engine, EmbeddedUpstream)
        tasks = asyncio.all_tasks()
        spent = []
        for round_ in range(1, ROUNDS + 1):
            client = await Client.asking(server, its={"vote": "always"} if n_rows > 1 else {}, **fields)
            await until(lambda: engine.stats.running > 0)
            left_at = monotonic()
            await client.leave(how)
            await until(lambda n=round_ * n_rows: is_idle(engine) and engine.stats.started >= n)
            spent.append(1000 * (monotonic() - left_at))
        stats = engine.stats
        assert stats.cancelled + stats.finished == stats.started == ROUNDS * n_rows
        assert stats.cancelled >= ROUNDS * n_rows // 2
        await settled(tasks, server)
    report(f"embedded, {'stream' if n_rows == 1 else 'vote'} {fields}, {how}", n_rows, spent)


async def test_a_decided_vote_ends_the_other_rows_in_the_engine(long_winded):
    async with serving({"models": {"model": {"checkpoint": long_winded}}}) as server:
        (engine,) = server.context.catalog.upstreams
        status, reply = await server.chat(PROBLEM, seed=3)
        assert (status, reply["its"]["stopped"]) == (200, "no_answer")
        assert reply["its"]["cancelled"]["candidates"] > 0
        await until(lambda: is_idle(engine))
        assert engine.stats.cancelled == reply["its"]["cancelled"]["candidates"]


def is_idle(engine: EmbeddedUpstream) -> bool:
    return engine.stats.running == engine.stats.queued == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
