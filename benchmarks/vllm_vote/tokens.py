"""How many tokens does vLLM generate under each stop rule, by its own counter, and is what replies say of it true?

Requests are asked one at a time, and the counter is read when the server is idle: the difference is
what this one request cost, its cancelled candidates included.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.vllm_vote.kept import Kept, Record
from benchmarks.vllm_vote.servers import Servers
from benchmarks.vllm_vote.tables import plain, quantile, table
from its_proxy.candidates import Item
from its_proxy.statistics import Estimate, clustered_interval, paired_difference, wilson
from its_proxy.voting.answers import normal_form

FULL = "none"


@dataclass(frozen=True, slots=True)
class Way:
    """How a query is asked: under which name of `servers.settings`, None for the demo model's own, and with what."""

    its: Mapping[str, Any]
    name: str | None = None
    fields: Callable[[Item], Mapping[str, Any]] = field(default=lambda item: {})


# The full vote stands twice: vLLM's batches round differently from one time to the next, so it differs from itself.
VOTES = {
    FULL: Way({"stop": "none"}),
    "none, again": Way({"stop": "none"}),
    "exact": Way({"stop": "exact"}),
    "exact, first wave": Way({"stop": "exact"}, "first"),
    "beta": Way({"stop": "beta"}),
    "beta, first wave": Way({"stop": "beta"}, "first"),
}


def only_right_ones_end(item: Item) -> dict[str, Any]:
    """Request fields by which a candidate ends with the right answer; one that writes another goes on."""
    return {"ignore_eos": True, "stop": [f"\\boxed{{{item.gold}}}"], "include_stop_str_in_output": True}


# Demo solutions end within a few steps of each other. Here some candidates are far from their end when the vote stops.
STAGGERED = {
    "exact, stragglers": Way({"stop": "exact"}, "long", only_right_ones_end),
    "beta, stragglers": Way({"stop": "beta"}, "long", only_right_ones_end),
    # 150 tokens without an answer: two such candidates end the vote.
    "no answer": Way(
        {"stop": "exact", "vote": "auto"}, "long", lambda item: {"bad_words": ["boxed"], "min_tokens": 150}
    ),
}
COUNTED = {"exact, counted": Way({"stop": "exact"}, "counted")}
WAYS = {**VOTES, **STAGGERED, **COUNTED}
# Asked by many at the same time, when candidates wait for each other and no longer begin together.
CROWD = ("exact", *STAGGERED)
CROWD_SIZE = 16


def waiting(kept: Kept, items: Sequence[Item]) -> list[tuple[Item, str]]:
    """Item by item all ways, so that what changes on the machine meanwhile meets all of them alike.

    Those that are not compared with the full vote get every second item.
    """
    done = {(record["id"], record["way"]) for record in kept.records}
    asked = ((item, way) for place, item in enumerate(items) for way in (VOTES if place % 2 else WAYS))
    return [(item, way) for item, way in asked if (item.id, way) not in done]


def waiting_crowds(kept: Kept, items: Sequence[Item]) -> list[tuple[Sequence[Item], str]]:
    """Crowds of the first half of the items, each in all its ways."""
    done = {(record["id"], record["way"]) for record in kept.records}
    starts = range(0, len(items) // 2 - CROWD_SIZE + 1, CROWD_SIZE)
    crowds = ((items[start : start + CROWD_SIZE], way) for start in starts for way in CROWD)
    return [(crowd, way) for crowd, way in crowds if (crowd[0].id, way) not in done]


async def ask(servers: Servers, model: str, item: Item, name: str, seed: int) -> Record:
    """One request alone, and what it cost."""
    return await _costing(servers, _ask(servers, model, item, name, seed))


async def ask_crowd(servers: Servers, model: str, items: Sequence[Item], name: str, seeds: Sequence[int]) -> Record:
    """One request for each item, all at the same time, as one record: the counter knows only their sum."""

    async def ask_all() -> Record:
        asked = [_ask(servers, model, item, name, seed) for item, seed in zip(items, seeds, strict=True)]
        records = await asyncio.gather(*asked)
        sums = {
            key: sum(record[key] for record in records) for key in ("n_received", "n_started", "n_cancelled", "told")
        }
        return {"way": name, "id": items[0].id, "n_requests": len(items), **sums}

    return await _costing(servers, ask_all())


async def _costing(servers: Servers, asking: Awaitable[Record]) -> Record:
    """What was asked, with the tokens that vLLM generated for it and the requests that it was made to abort."""
    before = await servers.counters()
    record = await asking
    after = await servers.counters()
    n_aborted = record["n_started"] - (after.n_finished - before.n_finished)
    return {**record, "n_generated": after.n_generated - before.n_generated, "n_aborted": n_aborted}


async def _ask(servers: Servers, model: str, item: Item, name: str, seed: int) -> Record:
    way = WAYS[name]
    its = {"vote": "always", "n": 8, "candidates": True, **way.its}
    reply = await servers.ask(item.query, way.name or model, seed=seed, its=its, **way.fields(item))
    if reply.status != 200:
        raise RuntimeError(f"{name}: {reply.status} {reply.json}")
    told, cancelled = reply.json["its"], reply.json["its"]["cancelled"]
    received = [one["completion_tokens"] for one in told["candidates"] if one["state"] != "cancelled"]
    is_counted = cancelled["completion_tokens"] is not None
    return {
        "way": name,
        "id": item.id,
        "n_requests": 1,
        "gold": item.gold,
        "answer": told["answer"],
        "stopped": told["stopped"],
        "n_received": sum(received),
        "n_started": told["n_started"],
        "n_cancelled": cancelled["candidates"],
        "told": cancelled["completion_tokens" if is_counted else "completion_tokens_estimated"],
        "seconds": reply.received_at - reply.sent_at,
    }


_COSTS = """
The first {n} items, asked one at a time, each in every way with the same seeds, 8 candidates. Tokens are differences of
`vllm:generation_tokens_total`, read when the server was idle; intervals are paired by item. `none` stands twice because
vLLM's batches round differently from one time to the next: a full vote may differ from itself. The first wave is
`vote: {{first: auto}}`.
"""

_BIAS = """
### What replies tell of cancelled candidates

`its.cancelled.completion_tokens_estimated` against the truth (vLLM's counter less the tokens of the candidates
received), over the requests that cancelled something; bias is told minus true. In `stragglers` only the right answer
ends a candidate and the others write on; in `no answer` two candidates of 150 tokens or more end the vote without an
answer; `exact, counted` is `usage_policy: exact`, which counts. Alone: one request at a time. In a crowd: {crowd}
queries at the same time, whose sum is one measurement. Where nothing is cancelled the counter can be checked: it and
the replies' `usage` agree to the token in {agreed} of {full} full votes.
"""


def report(kept: Kept, crowds: Kept) -> str:
    rows = {name: kept.where(way=name) for name in WAYS}
    ids = [[record["id"] for record in rows[name]] for name in VOTES]
    if not ids[0] or any(others != ids[0] for others in ids):
        return "Not measured."
    full = rows[FULL] + rows["none, again"]
    biases = [("alone", name, rows[name]) for name in WAYS] + [
        ("crowd", name, crowds.where(way=name)) for name in CROWD
    ]
    return "\n\n".join(
        [
            _COSTS.strip().format(n=len(ids[0])),
            table([_cost_cells(name, rows[name], rows[FULL]) for name in VOTES]),
            _BIAS.strip().format(crowd=CROWD_SIZE, agreed=_n_exact(full), full=len(full)),
            table([_bias_cells(*bias) for bias in biases if any(record["n_cancelled"] for record in bias[2])]),
        ]
    )


def _cost_cells(name: str, rows: Sequence[Record], full: Sequence[Record]) -> dict[str, object]:
    costs, full_costs = ([record["n_generated"] for record in records] for records in (rows, full))
    right, full_right = ([_is_same(record["answer"], record["gold"]) for record in records] for records in (rows, full))
    agreed = [_is_same(one["answer"], other["answer"]) for one, other in zip(rows, full, strict=True)]
    return {
        "stop": name,
        "tokens a query": plain(clustered_interval(costs)),
        "saved, %": _share_of_mean(full_costs, costs, full_costs),
        "calls started": f"{_mean(rows, 'n_started'):.2f}",
        "aborted": f"{_mean(rows, 'n_aborted'):.2f}",
        "answer of the full vote, %": wilson(sum(agreed), len(rows)),
        "right, %": wilson(sum(right), len(rows)),
        "right minus full vote's": paired_difference(right, full_right),
        "median s": f"{quantile([record['seconds'] for record in rows], 0.5):.2f}",
    }


def _bias_cells(asked: str, name: str, rows: Sequence[Record]) -> dict[str, object]:
    rows = [record for record in rows if record["n_cancelled"]]
    told, true = [record["told"] for record in rows], [record["n_generated"] - record["n_received"] for record in rows]
    return {
        "asked": asked,
        "way": name,
        "requests": sum(record["n_requests"] for record in rows),
        "cancelled candidates": sum(record["n_cancelled"] for record in rows),
        "aborted in vLLM": sum(record["n_aborted"] for record in rows),
        "true tokens": sum(true),
        "told": sum(told),
        "bias, % of the true": _share_of_mean(told, true, true),
    }


def _n_exact(rows: Sequence[Record]) -> int:
    """Requests of which the counter says what the received candidates say."""
    return sum(record["n_generated"] == record["n_received"] for record in rows)


def _mean(rows: Sequence[Record], key: str) -> float:
    return float(sum(record[key] for record in rows) / len(rows))


def _share_of_mean(first: Sequence[float], second: Sequence[float], whole: Sequence[float]) -> Estimate:
    """First minus second, paired, as a share of the mean of `whole`, which is taken as known."""
    mean = sum(whole) / len(whole)
    return paired_difference([value / mean for value in first], [value / mean for value in second])


def _is_same(answer: str | None, other: str | None) -> bool:
    if answer is None or other is None:
        return answer is other
    return normal_form(answer) == normal_form(other)
