"""From one checkpoint to the next across three servers under load, and servers that are lost under load."""

import asyncio

from benchmarks.proxy import Proxy, start_proxy
from benchmarks.vllm_fleet.clients import Load, clients, write_replies
from benchmarks.vllm_fleet.fleet import ALIAS, BOTH, NEW, OLD, SERVED, Loss, Places, judge, settings, used_after
from benchmarks.vllm_fleet.part import Part
from benchmarks.vllm_fleet.prompts import telling
from benchmarks.vllm_fleet.servers import PLACES, Place, places

N_CLIENTS = 8
N_SETTLED = 60  # queries answered before, between and after the steps


async def roll_over(part: Part, queries: list[str], *, pause_s: float, kills: bool) -> None:
    """Server by server to the new checkpoint; `kills`: meanwhile another one is killed and started again."""
    queries = telling(queries, BOTH)
    _describe(part, queries, pause_s)
    losses: list[Loss] = []
    async with places(part.folder, PLACES, part.progress) as fleet:
        await asyncio.gather(*(place.start(OLD) for place in fleet.values()))
        async with start_proxy(settings(fleet, {OLD: 100, NEW: 0}), part.folder) as proxy:
            await asyncio.gather(*(proxy.until(OLD, name, *SERVED) for name in fleet))
            async with clients(N_CLIENTS, proxy.url, ALIAS, queries, pause_s=pause_s) as load:
                part.event(f"{N_CLIENTS} clients begin, all servers hold {OLD}")
                await load.until_answered(N_SETTLED)
                for n_rolled, place in enumerate(fleet.values()):
                    victim = fleet[PLACES[1]] if kills and n_rolled == 0 else None
                    await _roll(part, proxy, load, fleet, place, n_rolled, losses, victim)
                    await load.until_answered(N_SETTLED)
                part.event("all servers hold and serve the new checkpoint")
                last_change_s = load.now()
                await load.until_answered(N_SETTLED)
    write_replies(load.replies, part.folder / "replies.jsonl")
    judge(part, load, fleet, losses)
    for name in PLACES:
        n = used_after(load.replies, name, NEW, last_change_s)
        part.check(n > 0, f"queries that {NEW} at {name} answered at the end", n)


async def _roll(
    part: Part,
    proxy: Proxy,
    load: Load,
    fleet: Places,
    place: Place,
    n_rolled: int,
    losses: list[Loss],
    victim: Place | None,
) -> None:
    """One server: drain, stop, start with the new checkpoint, wait for its handshake, move the weights."""
    n_old = len(fleet) - n_rolled
    # The last server of the old checkpoint falls idle only if the alias sends nothing to that checkpoint any more.
    before = {OLD: n_old, NEW: n_rolled} if n_old > 1 else {OLD: 0, NEW: 1}
    await proxy.reload(settings(fleet, before, drained=place.name))
    waited_s = await proxy.until_drained(place.name)
    part.event(f"{place.name} drained after {waited_s:.1f} s, the last 2 of them idle; it is stopped")
    await place.stop()
    if victim is None:
        await place.start(NEW)
    else:
        await asyncio.gather(place.start(NEW), _kill(part, proxy, load, victim, losses))
    found_s = await proxy.until(NEW, place.name, *SERVED)
    state = await proxy.state(NEW, place.name)
    part.event(f"{place.name} answers with {NEW}; {state} within {found_s:.1f} s of its first answer")
    await proxy.reload(settings(fleet, {OLD: n_old - 1, NEW: n_rolled + 1}))
    part.event(f"weights {OLD}: {n_old - 1}, {NEW}: {n_rolled + 1}")


async def lose(part: Part, queries: list[str], *, pause_s: float) -> None:
    """One server is killed, another one stopped without having been drained; each comes back."""
    queries = telling(queries, BOTH)
    _describe(part, queries, pause_s)
    losses: list[Loss] = []
    back: dict[str, float] = {}
    async with places(part.folder, PLACES, part.progress) as fleet:
        await asyncio.gather(*(place.start(OLD) for place in fleet.values()))
        async with start_proxy(settings(fleet, {OLD: 1}), part.folder) as proxy:
            await asyncio.gather(*(proxy.until(OLD, name, *SERVED) for name in fleet))
            async with clients(N_CLIENTS, proxy.url, ALIAS, queries, pause_s=pause_s) as load:
                part.event(f"{N_CLIENTS} clients begin")
                for lose_it, name in ((_kill, PLACES[1]), (_stop, PLACES[2])):
                    await load.until_answered(N_SETTLED)
                    await lose_it(part, proxy, load, fleet[name], losses)
                    back[name] = load.now()
                await load.until_answered(N_SETTLED)
    write_replies(load.replies, part.folder / "replies.jsonl")
    judge(part, load, fleet, losses)
    for name, from_s in back.items():
        n = used_after(load.replies, name, OLD, from_s)
        part.check(n > 0, f"queries that {name} answered after it had come back", n)


async def _kill(part: Part, proxy: Proxy, load: Load, victim: Place, losses: list[Loss]) -> None:
    await proxy.until_busy(victim.name)
    from_s = load.now()
    victim.kill()
    losses.append(Loss(victim.name, "killed (SIGKILL)", from_s, load.now()))
    part.event(f"{victim.name} killed")
    await _come_back(part, proxy, victim)


async def _stop(part: Part, proxy: Proxy, load: Load, victim: Place, losses: list[Loss]) -> None:
    await proxy.until_busy(victim.name)
    from_s = load.now()
    await victim.stop()
    losses.append(Loss(victim.name, "stopped without draining (SIGTERM)", from_s, load.now(), (500, 502)))
    part.event(f"{victim.name} stopped without draining, within {load.now() - from_s:.1f} s")
    await _come_back(part, proxy, victim)


async def _come_back(part: Part, proxy: Proxy, victim: Place) -> None:
    missed_s = await proxy.until(OLD, victim.name, "pending", timeout_s=30)
    part.event(f"{victim.name} gets no queries any more, noticed within {missed_s:.1f} s")
    await victim.start(OLD)
    found_s = await proxy.until(OLD, victim.name, *SERVED)
    part.event(f"{victim.name} started again; {await proxy.state(OLD, victim.name)} within {found_s:.1f} s")


def _describe(part: Part, queries: list[str], pause_s: float) -> None:
    pause = f", {pause_s:g} s after each reply" if pause_s else ", each the next query at once"
    part.conditions = (
        f"{N_CLIENTS} clients{pause}; {len(queries)} distinct queries in turn; 8 candidates, stop `exact`."
    )
