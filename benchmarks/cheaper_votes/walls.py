"""The chosen ways before a real vLLM: wall times, and generated tokens by the server's own counter.

Queries come one at a time, or in crowds. All ways of a crowd follow one another, and which of them comes first goes
round, because the first one finds the prompts in no cache. All ways ask with the same seeds.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.cheaper_votes.frontier import FULL, Greedy, Point, Runs, points
from benchmarks.cheaper_votes.replayed import Clock
from benchmarks.vllm_vote.kept import Kept, Record
from benchmarks.vllm_vote.servers import DEMO, RECHECK_S, Servers
from its_proxy.candidates import Item
from its_proxy.voting.answers import normal_form
from tests.real_vllm.server import VllmServer

MODEL = "demo-random"
GREEDY = "greedy"
SEED_STEP = 1000
AT_ONCE, AUTO, EIGHT = "at-once", "auto", "eight"


@dataclass(frozen=True, slots=True)
class Asking:
    """Under which name of `settings` a query is asked, and with what."""

    model: str
    its: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)


def _vote(model: str, n: int, stop: str) -> Asking:
    return Asking(model, {"vote": "always", "n": n, "stop": stop})


# Named as in ways.py where a replay has the same.
ASKED = {
    FULL: _vote(AT_ONCE, 16, "none"),
    "n=8 exact, first 8": _vote(AT_ONCE, 8, "exact"),
    "n=16 beta, first 4": _vote(AUTO, 16, "beta"),
    "n=8 exact, first 5": _vote(AUTO, 8, "exact"),
    "n=8 beta, first 4": _vote(AUTO, 8, "beta"),
    GREEDY: Asking(AT_ONCE, {"vote": "off", "sampling": "client"}, {"temperature": 0}),
}


def settings(model: str, vllm: VllmServer, keep: Path) -> dict[str, Any]:
    """One model under several names: votes of 16 all at once or with a first wave, and of 8 with one."""
    served = {"upstream": "vllm", "served_name": vllm.name, "checkpoint": str(DEMO / model)}
    votes = {AT_ONCE: {"n": 16, "first": 16}, AUTO: {"n": 16, "first": "auto"}, EIGHT: {"n": 8, "first": "auto"}}
    return {
        "upstreams": {"vllm": {"url": vllm.url}},
        "models": {name: {**served, "vote": vote} for name, vote in votes.items()},
        "recheck_s": RECHECK_S,
    }


def waiting(kept: Kept, items: Sequence[Item], at_once: int) -> list[tuple[int, str]]:
    """Crowds by the place of their first item, and in which way to ask them; a last crowd may be smaller."""
    done = {(record["id"], record["way"]) for record in kept.records}
    names = list(ASKED)
    turns = [
        (start, names[(start // at_once + turn) % len(names)])
        for start in range(0, len(items), at_once)
        for turn in range(len(names))
    ]
    return [(start, name) for start, name in turns if (items[start].id, name) not in done]


async def measure(servers: Servers, kept: Kept, items: Sequence[Item], at_once: int, until_s: float) -> bool:
    """Asks what `kept` does not hold yet, until this time of the monotonic clock; whether all has been asked."""
    before = await servers.counters()
    for start, name in waiting(kept, items, at_once):
        if monotonic() > until_s:
            return False
        crowd = range(start, min(start + at_once, len(items)))
        asked = [_ask(servers, items[place], name, SEED_STEP * place) for place in crowd]
        records = await asyncio.gather(*asked)
        # Read once a crowd, for it costs both sides time; the counter knows the sum alone.
        after = await servers.counters()
        n_generated = (after.n_generated - before.n_generated) / len(records)
        before = after
        for record in records:
            kept.add({**record, "n_generated": n_generated})
    return True


async def _ask(servers: Servers, item: Item, name: str, seed: int) -> Record:
    asking = ASKED[name]
    reply = await servers.ask(item.query, asking.model, seed=seed, its=dict(asking.its), **asking.fields)
    if reply.status != 200:
        raise RuntimeError(f"{name}: {reply.status} {reply.json}")
    told = reply.json["its"]
    return {
        "way": name,
        "id": item.id,
        "gold": item.gold,
        "answer": told["answer"],
        "seconds": reply.received_at - reply.sent_at,
        "n_started": told["n_started"],
    }


def found(records: Sequence[Record]) -> tuple[list[Point], Clock] | None:
    """Every way beside the full vote, over the items that all ways were asked; and the clock that they tell of."""
    by_way = _by_way(records)
    ids = _asked_in_all(by_way)
    if not ids:
        return None
    all_runs = {name: _runs(name, [asked[key] for key in ids]) for name, asked in by_way.items()}
    greedy = Greedy(all_runs[GREEDY].is_right[0], all_runs[GREEDY].n_tokens[0])
    return points(list(all_runs.values()), greedy), _clock(all_runs)


def n_items(records: Sequence[Record]) -> int:
    return len(_asked_in_all(_by_way(records)))


def _by_way(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    return {name: {record["id"]: record for record in records if record["way"] == name} for name in ASKED}


def _asked_in_all(by_way: Mapping[str, Mapping[str, Record]]) -> list[str]:
    return sorted(set.intersection(*(set(asked) for asked in by_way.values())))


def _runs(name: str, records: Sequence[Record]) -> Runs:
    forms = np.empty((1, len(records)), dtype=object)
    forms[0] = [record["answer"] and normal_form(record["answer"]) for record in records]
    gold = [normal_form(record["gold"]) for record in records]

    def row(values: Sequence[float]) -> Any:
        return np.array([values], dtype=float)

    return Runs(
        name=name,
        is_right=row([form == right for form, right in zip(forms[0], gold, strict=True)]),
        n_tokens=row([record["n_generated"] for record in records]),
        time=row([record["seconds"] for record in records]),
        n_started=row([record["n_started"] for record in records]),
        forms=forms,
    )


def _clock(all_runs: Mapping[str, Runs]) -> Clock:
    """Seconds a token by how many run, a straight line through the ways whose candidates begin together."""
    together = {GREEDY: 1, "n=8 exact, first 8": 8, FULL: 16}
    paces = [float(np.median(all_runs[name].time * n / all_runs[name].n_tokens)) for name, n in together.items()]
    more, step = np.polyfit(list(together.values()), paces, 1)
    return Clock(step=float(step), more=float(more))
