"""34 faults of an upstream, each met in five ways: what the client is told, and that nobody waits for longer.

All candidates do it: the reply is what the table says. Two of eight do it: the other six decide. ITS_TORTURE=20 does
all of it twenty times over and prints what it saw.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest

from benchmarks.reliability.results import save
from its_proxy.health import Health
from its_proxy.upstreams.retries import RetryBudget
from tests.faults.faults import FAULTS, RETRY_AFTER_S
from tests.faults.places import PLACES
from tests.faults.upstream import FAULTY, MODELS, SECRET, SOUND, faulty_upstream
from tests.serving import Reply, manifest, serving, write_checkpoint

N_TIMES = int(os.environ.get("ITS_TORTURE", "1"))
DEADLINE_S, SLACK_S = 2.0, 0.25
TIMERS = {"connect_timeout_s": 0.3, "first_byte_timeout_s": 0.8, "idle_timeout_s": 0.6}
SEED, N = 100, 8
ALL, TWO = range(SEED, SEED + N), (SEED + 1, SEED + 6)
FULL: dict[str, Any] = {"its": {"stop": "none"}}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"model": "voted", **FULL},
    "counted": {"model": "counted", **FULL},
    "voted stream": {"model": "counted", "stream": True, **FULL},
    "one streamed": {"model": "voted", "stream": True, "its": {"vote": "off"}},
    "passed through": {"model": "passed", "stream": True},
}
VOTED = ("plain", "counted", "voted stream")


class Told(NamedTuple):
    """A status and an error's code; 200 with a code is a stream that breaks off, without one a reply in order."""

    status: int
    code: str | None = None

    def __str__(self) -> str:
        then = ", then" if self.status == 200 and self.code is not None else ""
        return f"{self.status}{then}" + (f" `{self.code}`" if self.code is not None else "")


FINE = Told(200)
LOST, LATE = Told(502, "quorum_lost"), Told(504, "quorum_lost")
BROKEN_OFF, TOO_LATE = Told(200, "upstream_error"), Told(200, "upstream_timeout")
NONSENSE, NONSENSE_WITHIN = Told(502, "bad_upstream_payload"), Told(200, "bad_upstream_payload")
PENDING = Told(503, "model_pending")
BUSY = Told(429, "quorum_lost")

# A candidate asked for plainly, a candidate streamed, and a stream that is handed on; one row a fault.
EXPECTED: dict[str, tuple[Told, Told, Told]] = {
    "accept-then-silence": (LATE, LATE, Told(504, "upstream_timeout")),
    "reset-before-byte": (LOST, LOST, Told(502, "upstream_error")),
    "reset-mid-header": (LOST, LOST, Told(502, "upstream_error")),
    "reset-mid-body": (LOST, LOST, BROKEN_OFF),
    "half-close-mid-SSE": (LOST, LOST, BROKEN_OFF),
    "clean-EOF-no-finish": (LOST, LOST, BROKEN_OFF),
    "missing-DONE-with-finish": (FINE, FINE, FINE),
    "stall-mid-stream": (LATE, LATE, TOO_LATE),
    "trickle-1B/s": (LATE, LATE, TOO_LATE),
    "endless-stream": (LOST, LOST, TOO_LATE),
    "100MB-line": (LOST, LOST, NONSENSE_WITHIN),
    "split-UTF8-across-chunks": (FINE, FINE, FINE),
    "CRLF/LF/CR-mix": (FINE, FINE, FINE),
    "bad-JSON-chunk": (LOST, LOST, NONSENSE_WITHIN),
    "error-in-200-SSE": (LOST, LOST, BROKEN_OFF),
    "html-200": (LOST, LOST, NONSENSE),
    "wrong-content-type-SSE-as-JSON": (LOST, LOST, NONSENSE),
    "short-content-length": (LOST, LOST, BROKEN_OFF),
    "gzip-bomb": (LOST, LOST, NONSENSE),
    "empty-choices": (LOST, LOST, BROKEN_OFF),
    "null-content": (FINE, FINE, FINE),
    "wrong-model-echo": (FINE, FINE, FINE),
    "429-with-RA": (BUSY, BUSY, Told(429, "upstream_busy")),
    "429-without-RA": (BUSY, BUSY, Told(429, "upstream_busy")),
    "500-text": (Told(500, "upstream_rejected"), Told(500, "upstream_rejected"), Told(500, "upstream_rejected")),
    "503-flap": (FINE, FINE, FINE),
    "1xx/304/redirect": (LOST, LOST, Told(502, "upstream_rejected")),
    "duplicate-response": (FINE, FINE, FINE),
    "one-of-N-slow-10x": (FINE, FINE, FINE),
    "all-N-different-faults": (LATE, LATE, NONSENSE),
}
# What takes its time and costs none is met in all ways at once.
PATIENT = {"accept-then-silence", "stall-mid-stream", "trickle-1B/s", "one-of-N-slow-10x"}
# Two of eight are still counted where the fault leaves the candidate whole.
WHOLE = {name for name, (plain, _, _) in EXPECTED.items() if plain == FINE}
SEEN: Counter[tuple[str, str]] = Counter()
LASTED_S: list[float] = [0.0]


@pytest.fixture(scope="module", autouse=True)
def table(request):
    yield
    if N_TIMES > 1:
        print(f"\nEach {N_TIMES} times, replies as the contract says:")
        for (fault, way), count in sorted(SEEN.items()):
            print(f"{fault:32} {way:24} {count:6}")
        write_down(has_failed=request.session.testsfailed > 0)


def write_down(*, has_failed: bool) -> None:
    """For docs/reliability.md; a part of the table alone is not written down, unless it failed."""
    wanted = {(fault, f"all: {way}") for fault in FAULTS | PLACES for way in WAYS}
    wanted |= {(fault, f"two: {way}") for fault in FAULTS for way in VOTED}
    wanted |= {(place, f"two: {way}") for place in PLACES for way in ("plain", "voted stream")}
    is_whole = all(SEEN[cell] >= N_TIMES for cell in wanted)
    if not (is_whole or has_failed):
        return
    figures = {
        "faults": len(FAULTS | PLACES),
        "times_each": N_TIMES,
        "replies": len(wanted) * N_TIMES,
        "as_told": sum(min(SEEN[cell], N_TIMES) for cell in wanted),
        "latest_over_deadline_ms": round(1000 * max(0.0, max(LASTED_S) - DEADLINE_S)),
    }
    told = {fault: {way: str(expected(fault, way)) for way in WAYS} for fault in FAULTS}
    told |= {place: {way: str(told_at(place, way)) for way in WAYS} for place in PLACES}
    conditions = {"deadline, s": DEADLINE_S, **{name.replace("_s", ", s"): value for name, value in TIMERS.items()}}
    save("faults", figures, is_whole and not has_failed, conditions, goal=__doc__.partition("\n")[0],
         command=f"ITS_TORTURE={N_TIMES} python -m pytest tests/faults/test_matrix.py", told=told)  # fmt: skip


@asynccontextmanager
async def served(folder, place: str | None = None):
    """A server before a faulty upstream, and one `place` more where another upstream should be."""
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    models = {name: {"upstream": "gpu", "checkpoint": checkpoint} for name in MODELS if name != "passed"}
    models["counted"]["vote"] = {"usage_policy": "exact"}
    models["passed"] = {"upstream": "gpu"}
    async with faulty_upstream() as upstream:
        upstreams = {"gpu": {"url": upstream.url, **TIMERS}}
        ensembles = {}
        if place is not None:
            upstreams["place"] = {"url": place, **TIMERS}
            models |= {name: {**models[name], "upstream": "place"} for name in ("voted", "counted", "passed")}
            ensembles = {"four": {"members": ["first", "second", "third", "voted"], "n": N}}
        settings = {"upstreams": upstreams, "models": models, "ensembles": ensembles}
        async with serving({**settings, "vote": {"deadline_s": DEADLINE_S}}, wait=False) as server:
            async with asyncio.timeout(10):
                while any(target.state == "pending" for target in server.context.catalog.targets()
                          if target.upstream.name == "gpu"):  # fmt: skip
                    await asyncio.sleep(0.01)
            yield server, upstream


async def asked(server, fields: Mapping[str, Any]) -> Reply:
    """One reply, which no fault may hold up for longer than the deadline and a little. What this process only waited
    for a core is the machine's; what it computed, blocking its own loop, is not forgiven."""
    for target in server.context.catalog.targets():
        target.health = Health()  # each fault is met by a server that suspects nothing, and has tried nothing twice
        target.upstream._budget = RetryBudget()
    started, waited_s = monotonic(), waited_for_a_core_s()
    reply = await server.ask("How many are 3 + 4?", seed=SEED, **fields)
    LASTED_S.append(monotonic() - started - (waited_for_a_core_s() - waited_s))
    assert LASTED_S[-1] < DEADLINE_S + SLACK_S
    return reply


def waited_for_a_core_s() -> float:
    """How long this thread has been ready to run and was not run, by Linux's own count; 0 elsewhere."""
    count = Path("/proc/thread-self/schedstat")
    return int(count.read_text().split()[1]) / 1e9 if count.exists() else 0.0


def told_by(reply: Reply) -> Told:
    """What a reply comes to, read as strictly as a client could."""
    assert reply.headers["x-request-id"]
    assert not re.search(rb"<html|Traceback|127\.0\.0\.1|%b" % SECRET.encode(), reply.raw)
    assert SECRET not in str(reply.headers)
    if reply.headers["Content-Type"] == "text/event-stream":
        *chunks, last = reply.chunks
        if "error" in last:
            assert not any("its" in chunk for chunk in chunks)
            return Told(reply.status, last["error"]["code"])
        finishes = [choice.get("finish_reason") for chunk in [*chunks, last] for choice in chunk.get("choices", [])]
        assert "stop" in finishes
        return Told(reply.status)
    if reply.status == 200:
        assert reply.json["choices"][0]["finish_reason"] == "stop"
        return Told(200)
    if reply.status in (429, 503):
        assert int(reply.headers["Retry-After"]) >= 1
    if reply.status == 504:
        assert reply.headers["x-should-retry"] == "false"
    return Told(reply.status, reply.error["code"])


async def asked_in(server, ways: Iterable[str], fault: str) -> list[tuple[str, Reply]]:
    """All the ways, N_TIMES each."""
    replies: list[tuple[str, Reply]] = []
    for _ in range(N_TIMES):
        if fault in PATIENT:
            replies += zip(ways, await asyncio.gather(*(asked(server, WAYS[way]) for way in ways)), strict=True)
        else:
            replies += [(way, await asked(server, WAYS[way])) for way in ways]
    return replies


def its_of(reply: Reply) -> dict[str, Any]:
    if reply.headers["Content-Type"] == "text/event-stream":
        return next(chunk["its"] for chunk in reply.chunks if "its" in chunk)
    return reply.json["its"]


def expected(fault: str, way: str) -> Told:
    if fault == "trickle-1B/s" and way == "voted stream":
        return Told(200, LATE.code)  # its headers go out before the deadline
    plain, streamed, handed_on = EXPECTED[fault]
    return {"plain": plain, "counted": streamed, "voted stream": streamed}.get(way, handed_on)


def told_at(place: str, way: str) -> Told:
    """A pair is only served where its handshake was heard."""
    code = "upstream_tls" if place == "tls-expired" else "upstream_unreachable"
    return Told(502, code) if way == "passed through" else PENDING


async def test_the_table_has_all_the_faults():
    assert len(FAULTS | PLACES) == 34
    assert EXPECTED.keys() == FAULTS.keys()


@pytest.mark.timeout(60 * N_TIMES)
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_all_candidates_suffer_is_told_as_the_contract_says(fault, tmp_path):
    async with served(tmp_path) as (server, upstream):
        upstream.cue = dict.fromkeys(ALL, FAULTS[fault])
        for way, reply in await asked_in(server, WAYS, fault):
            assert told_by(reply) == expected(fault, way), way
            if fault == "429-with-RA":
                assert int(reply.headers["Retry-After"]) >= RETRY_AFTER_S
            if told_by(reply) == FINE and way in VOTED and fault != "null-content":
                assert its_of(reply)["votes"] == {FAULTY: N}
            SEEN[fault, f"all: {way}"] += 1
        async with asyncio.timeout(2):
            while upstream.n_open:
                await asyncio.sleep(0.01)


@pytest.mark.timeout(60 * N_TIMES)
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_two_of_eight_suffer_leaves_the_vote_to_the_others(fault, tmp_path):
    async with served(tmp_path) as (server, upstream):
        upstream.cue = dict.fromkeys(TWO, FAULTS[fault])
        for way, reply in await asked_in(server, VOTED, fault):
            assert told_by(reply) == FINE, way
            its = its_of(reply)
            assert its["answer"] == SOUND
            n_lost = 0 if fault in WHOLE else 2
            n_empty = 2 if fault == "null-content" else 0
            assert its["votes"] == {SOUND: 6, **({FAULTY: 2} if not n_lost and not n_empty else {})}
            assert (its["lost"], sum(its["abstained"].values())) == (n_lost, n_empty)
            late = ", deadline" if its["stopped"] == "deadline" else ""
            assert its["degraded"] == (f"lost 2{late}" if n_lost else None)
            if way != "voted stream":
                assert reply.headers["x-its-votes"] == f"{N - n_lost}/{N - n_lost}/{N}"
            SEEN[fault, f"two: {way}"] += 1


@pytest.mark.parametrize("place", PLACES)
async def test_an_upstream_that_nobody_reaches_is_told_and_costs_an_ensemble_its_member(place, tmp_path):
    async with PLACES[place](tmp_path) as url, served(tmp_path, url) as (server, _):
        for way, reply in await asked_in(server, WAYS, place):
            assert told_by(reply) == told_at(place, way), way
            SEEN[place, f"all: {way}"] += 1
        for stream in (False, True) * N_TIMES:
            reply = await asked(server, {"model": "four", "stream": stream, **FULL})
            assert told_by(reply) == FINE
            assert (its_of(reply)["votes"], its_of(reply)["lost"]) == ({SOUND: 6}, 2)
            SEEN[place, f"two: {'voted stream' if stream else 'plain'}"] += 1


@pytest.mark.parametrize("way", WAYS)
async def test_an_upstream_that_goes_after_its_handshake_is_a_bad_gateway_to_the_first_who_asks(way, tmp_path):
    async with served(tmp_path) as (server, upstream):
        upstream.go()
        reply = await asked(server, WAYS[way])
    assert told_by(reply) == (LOST if way in VOTED else Told(502, "upstream_unreachable"))
