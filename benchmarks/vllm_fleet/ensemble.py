"""`demo-three`, a member on each of three servers: one missing, two missing, another quorum, and back."""

import asyncio
from collections import Counter
from typing import Any

from benchmarks.proxy import Proxy, start_proxy
from benchmarks.vllm_fleet.clients import Load, Reply, clients, write_replies
from benchmarks.vllm_fleet.fleet import POLL_S, SERVED, Places
from benchmarks.vllm_fleet.part import Part
from benchmarks.vllm_fleet.prompts import read_prompts, telling
from benchmarks.vllm_fleet.servers import DEMO, PLACES, Place, places

ENSEMBLE = "demo-three"
MEMBERS = ("demo-similar", "demo-dissimilar", "demo-random")
N_CLIENTS = 4
N_ANSWERS = 30  # of each phase


async def ensemble(part: Part, queries: list[str], *, pause_s: float) -> None:
    """Phase by phase under load; the queries of a phase began and ended while nothing changed."""
    queries = telling(queries, MEMBERS)
    part.conditions = (
        f"Members {', '.join(MEMBERS)}, one a server; 9 candidates, 3 a member, stop `exact`; {N_CLIENTS} clients, "
        f"{pause_s:g} s after each reply; at least {N_ANSWERS} replies a phase."
    )
    async with places(part.folder, PLACES, part.progress) as fleet:
        await asyncio.gather(*(fleet[name].start(member) for name, member in zip(PLACES, MEMBERS, strict=True)))
        async with start_proxy(_settings(fleet, 0.5), part.folder) as proxy:
            for name, member in zip(PLACES, MEMBERS, strict=True):
                await proxy.until(member, name, *SERVED)
            async with clients(N_CLIENTS, proxy.url, ENSEMBLE, queries, pause_s=pause_s) as load:
                await _phases(part, proxy, load, fleet)
    write_replies(load.replies, part.folder / "replies.jsonl")
    starts = [start for place in fleet.values() for start in place.starts]
    kinds = read_prompts(starts, queries, MEMBERS).by_kind
    part.check(
        kinds["own"] > 0 and not kinds["other"] and not kinds["unknown"],
        "prompts in the servers' logs that were rewritten for another member",
        f"{kinds['other']} of {kinds.total():,} ({kinds['unknown']} unknown)",
    )


async def _phases(part: Part, proxy: Proxy, load: Load, fleet: Places) -> None:
    two, three = fleet[PLACES[1]], fleet[PLACES[2]]
    await _phase(part, load, "all three members", 200, lost=0)
    await _lose(part, proxy, three)
    await _phase(part, load, f"{MEMBERS[2]} missing", 200, lost=3)
    await _lose(part, proxy, two)
    await _phase(part, load, f"{MEMBERS[1]} missing too, quorum 0.5", 503)
    await proxy.reload(_settings(fleet, 0.3))
    await _phase(part, load, "the same, quorum 0.3", 200, lost=6)
    await proxy.reload(_settings(fleet, 0.5))
    await _phase(part, load, "the same, quorum 0.5 again", 503)
    await _return(part, proxy, two, MEMBERS[1])
    await _phase(part, load, f"{MEMBERS[1]} back", 200, lost=3)
    await _return(part, proxy, three, MEMBERS[2])
    await _phase(part, load, f"{MEMBERS[2]} back", 200, lost=0)


async def _phase(part: Part, load: Load, name: str, status: int, lost: int = 0) -> None:
    part.event(name)
    began_s, n_before = load.now(), len(load.replies)
    while len(replies := _of_phase(load, n_before, began_s)) < N_ANSWERS:
        await asyncio.sleep(0.1)
    statuses = Counter(reply.status for reply in replies)
    n_lost = Counter(reply.lost for reply in replies if reply.is_answered)
    degraded = Counter(reply.degraded for reply in replies if reply.is_answered)
    part.add_rows([_row(name, replies)])
    part.check(set(statuses) == {status}, f"{name}: only status {status}", dict(statuses))
    if status == 200:
        # A vote that is decided before the missing member's turn has come cannot have lost anything to it.
        part.check(set(n_lost) == {lost}, f"{name}: candidates lost a query", dict(n_lost))
        expected = {f"lost {lost}" if lost else None}
        part.check(set(degraded) == expected, f"{name}: marked as degraded", dict(degraded))


def _of_phase(load: Load, n_before: int, began_s: float) -> list[Reply]:
    return [reply for reply in load.replies[n_before:] if reply.began_s > began_s]


def _row(name: str, replies: list[Reply]) -> dict[str, Any]:
    members = Counter(m["model"] for r in replies for m in r.members if m["n"] > m["lost"])
    return {
        "phase": name,
        "queries": len(replies),
        "status": ", ".join(f"{status}: {count}" for status, count in Counter(r.status for r in replies).items()),
        "lost a query": ", ".join(map(str, sorted({r.lost for r in replies if r.is_answered}))) or "-",
        "members that spoke": ", ".join(m for m in MEMBERS if members[m]) or "-",
        "message": next((r.message for r in replies if r.message), "-"),
    }


async def _lose(part: Part, proxy: Proxy, place: Place) -> None:
    await place.stop()
    member = place.starts[-1].checkpoint
    await proxy.until(member, place.name, "pending", timeout_s=30)


async def _return(part: Part, proxy: Proxy, place: Place, member: str) -> None:
    await place.start(member)
    found_s = await proxy.until(member, place.name, *SERVED)
    part.event(f"{place.name} started again; {await proxy.state(member, place.name)} within {found_s:.1f} s")


def _settings(fleet: Places, quorum: float) -> dict[str, Any]:
    upstreams = {name: {"url": place.url, "poll_s": POLL_S} for name, place in fleet.items()}
    models = {
        member: {"upstream": name, "checkpoint": str(DEMO / member), "served_name": "demo@{pair}"}
        for name, member in zip(PLACES, MEMBERS, strict=True)
    }
    ensembles = {ENSEMBLE: {"members": list(MEMBERS)}}
    return {"upstreams": upstreams, "models": models, "ensembles": ensembles, "vote": {"quorum": quorum}}
