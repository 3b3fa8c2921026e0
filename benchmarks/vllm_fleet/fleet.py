"""What the parts on one alias share: two checkpoints on three servers behind `demo`, and what became of the queries."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.vllm_fleet.clients import Load, Reply
from benchmarks.vllm_fleet.part import Part
from benchmarks.vllm_fleet.prompts import Prompts, read_prompts
from benchmarks.vllm_fleet.servers import DEMO, Place, pair_id

OLD, NEW = "demo-random", "demo-similar"
BOTH = (OLD, NEW)
ALIAS = "demo"
SERVED = ("verified", "unverified")
POLL_S = 1.0

Places = Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Loss:
    """A server that went while queries were in flight: where, and from when until when its end took (load's clock).

    `statuses`: what queries in flight may fail with. 500 is vLLM's own word while it stops.
    """

    place: str
    how: str
    from_s: float
    until_s: float
    statuses: tuple[int, ...] = (502,)


def settings(
    places: Places, weights: Mapping[str, int], drained: str | None = None, poll_s: float = POLL_S
) -> dict[str, Any]:
    """Both checkpoints may stand at every place; the alias decides which of them gets queries."""
    upstreams = {
        name: {"url": place.url, "poll_s": poll_s, **({"drain": True} if name == drained else {})}
        for name, place in places.items()
    }
    models = {
        name: {"upstream": list(places), "checkpoint": str(DEMO / name), "served_name": "demo@{pair}"} for name in BOTH
    }
    return {"upstreams": upstreams, "models": models, "aliases": {ALIAS: {"models": dict(weights)}}}


def judge(part: Part, load: Load, places: Places, losses: Sequence[Loss]) -> None:
    """Every prompt, every reply, and every failure: only queries in flight on a lost server may fail."""
    prompts = read_prompts([start for place in places.values() for start in place.starts], load.queries, BOTH)
    part.check(
        prompts.by_kind["own"] > 0 and not prompts.by_kind["other"] and not prompts.by_kind["unknown"],
        "prompts in the servers' logs that were rewritten for another checkpoint than the server's",
        f"{prompts.by_kind['other']} of {prompts.by_kind.total():,} ({prompts.by_kind['unknown']} unknown)",
    )
    unaccounted = prompts.unaccounted(load.replies, BOTH)
    part.check(
        unaccounted == 0, "answered queries whose pair and target no server's log confirms",
        f"{unaccounted} of {sum(reply.is_answered for reply in load.replies):,}",
    )  # fmt: skip
    excused = {
        (reply.number, status)
        for loss in losses
        for reply in _in_flight(load.replies, prompts, loss)
        for status in loss.statuses
    }
    lost = [reply for reply in load.replies if not reply.is_answered]
    strays = [reply for reply in lost if (reply.number, reply.status) not in excused]
    allowed = ", ".join(map(str, sorted({status for loss in losses for status in loss.statuses})))
    asked = f"queries lost but for those in flight on a lost server, with {allowed}" if losses else "queries lost"
    part.check(not strays, asked, f"{len(strays)} of {len(load.replies):,}{_reasons(strays)}")
    part.add_rows(_loss_row(load.replies, prompts, loss) for loss in losses)
    part.add_rows(_pair_rows(load.replies))


def used_after(replies: Iterable[Reply], place: str, checkpoint: str, from_s: float) -> int:
    """How many queries that began after this moment were answered there."""
    pair = pair_id(checkpoint)
    return sum((r.target, r.pair_id) == (place, pair) and r.began_s > from_s for r in replies)


def _in_flight(replies: Iterable[Reply], prompts: Prompts, loss: Loss) -> list[Reply]:
    """Asked before the server's end was over, not answered before it began, and seen there, or named by the error."""
    received = set().union(*(prompts.at(loss.place, name) for name in BOTH))
    return [
        reply
        for reply in replies
        if reply.began_s < loss.until_s and reply.ended_s > loss.from_s
        and (reply.number in received or f"upstream {loss.place} " in (reply.message or ""))
    ]  # fmt: skip


def _loss_row(replies: Iterable[Reply], prompts: Prompts, loss: Loss) -> dict[str, Any]:
    in_flight = _in_flight(replies, prompts, loss)
    began = [reply for reply in in_flight if reply.began_s < loss.from_s]
    return {
        "what": f"{loss.place} {loss.how} at {loss.from_s:.1f} s",
        "in flight on it": len(began),
        "asked while it went": len(in_flight) - len(began),
        "answered whole": sum(reply.is_answered and not reply.lost for reply in in_flight),
        "answered without the lost candidates": sum(reply.is_answered and reply.lost > 0 for reply in in_flight),
        "failed": ", ".join(
            f"{count} with {status or 'no reply'}"
            for status, count in sorted(Counter(r.status for r in in_flight if not r.is_answered).items())
        ) or "0",
        "longest s": f"{max((reply.ended_s - reply.began_s for reply in in_flight), default=0.0):.1f}",
    }  # fmt: skip


def _pair_rows(replies: Sequence[Reply]) -> list[dict[str, Any]]:
    names = {pair_id(name): name for name in BOTH}
    counts = Counter((names[r.pair_id or ""], r.target) for r in replies if r.is_answered)
    return [
        {"what": f"answered by {name} at {target}", "queries": count}
        for (name, target), count in sorted(counts.items())
    ]


def _reasons(replies: Sequence[Reply]) -> str:
    reasons = Counter((reply.status, reply.message) for reply in replies)
    return "".join(f"; {count} x {status} {message}" for (status, message), count in reasons.most_common(5))
