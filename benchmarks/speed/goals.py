"""The goals: what was to be reached, what may not be fallen short of, and what was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

Results: TypeAlias = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """In words, and whether the goal and the floor below it hold."""

    measured: str
    is_goal: bool
    is_floor: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """`find`: None where nothing was measured. Without it, `elsewhere` tells where it is shown."""

    what: str
    goal: str
    floor: str
    find: Callable[[Results], Found | None] | None = None
    elsewhere: str = ""

    def row(self, results: Results) -> dict[str, str]:
        found = self.find(results) if self.find is not None else None
        return {
            "what": self.what,
            "goal": self.goal,
            "not worse than": self.floor,
            "measured": found.measured if found is not None else self.elsewhere or "not measured",
            "": _verdict(found) if self.find is not None else "",
        }


def _verdict(found: Found | None) -> str:
    if found is None:
        return "not measured"
    return "holds" if found.is_goal else "**floor only**" if found.is_floor else "**does not hold**"


def values(results: Results, scenario: str, target: str, figure: str) -> list[float]:
    """Of all rounds; empty where it was not measured."""
    figures = results.get("rates", {}).get("figures", {})
    found: list[float] = figures.get(scenario, {}).get(target, {}).get(figure, [])
    return found


def middle(results: Results, scenario: str, target: str, figure: str) -> float | None:
    found = values(results, scenario, target, figure)
    return median(found) if found else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of the medians; least and most are of single rounds."""

    value: float
    least: float
    most: float

    def __str__(self) -> str:
        """As text; of one round alone there is nothing to tell but its value."""
        span = "" if self.least == self.most else f" ({self.least:.2f} to {self.most:.2f})"
        return f"{self.value:.2f}{span}"

    @property
    def share(self) -> str:
        return f"1/{1 / self.value:.1f}" if self.value < 1 else f"{self.value:.1f}x"


def ratio(results: Results, scenario: str, one: str, other: str, figure: str = "cpu_ms") -> Ratio | None:
    ours, theirs = (values(results, scenario, name, figure) for name in (one, other))
    if not ours or not theirs or median(theirs) <= 0:
        return None
    each = [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]
    return Ratio(median(ours) / median(theirs), min(each), max(each))


def _json(results: Results) -> Found | None:
    nginx, hub = (ratio(results, "json-64", "its-proxy", name) for name in ("nginx", "its_hub"))
    if nginx is None:
        return None
    beside = f"{hub.share} of its_hub" if hub is not None else "its_hub not measured"
    is_floor = nginx.value <= 10 and (hub is None or hub.value <= 1 / 5)
    return Found(f"{nginx}x nginx, {beside}", nginx.value <= 4, is_floor)


def _slow(results: Results) -> Found | None:
    share = ratio(results, "slow-64", "its-proxy", "direct", "per_second")
    return share and Found(str(share), share.value >= 0.92, share.value >= 0.85)


def _sse(results: Results) -> Found | None:
    found = ratio(results, "sse-64", "its-proxy", "nginx")
    return found and Found(f"{found}x nginx", found.value <= 3, found.value <= 6)


def _paced(results: Results) -> Found | None:
    """Judged at the pace that asks more; the other is told beside it."""
    judged, beside = _paced_at(results, "paced-50ms"), _paced_at(results, "paced-100ms")
    if judged is None or beside is None:
        return judged
    return Found(f"{judged.measured} (every 100 ms: {beside.measured})", judged.is_goal, judged.is_floor)


def _paced_at(results: Results, scenario: str) -> Found | None:
    found = ratio(results, scenario, "its-proxy", "nginx")
    ours, direct = (middle(results, scenario, name, "gap_p99") for name in ("its-proxy", "direct"))
    if found is None or ours is None or direct is None:
        return None
    added_ms, lost = ours - direct, sum(values(results, scenario, "its-proxy", "failed"))
    is_well = added_ms <= 50 and not lost
    text = f"p99 of the stalls {added_ms:+.1f} ms, CPU {found}x nginx, {lost:.0f} lost"
    return Found(text, is_well and found.value <= 3, is_well and found.value <= 8)


def _vote(results: Results) -> Found | None:
    ours = middle(results, "vote-16", "its-proxy", "cpu_ms")
    if ours is None:
        return None
    hub = ratio(results, "vote-16", "its-proxy", "its_hub")
    beside = f"{hub.share} of its_hub" if hub is not None else "its_hub not measured"
    seen = values(results, "vote-16", "its-proxy", "cpu_ms")
    text = f"{ours:.3f} ms ({min(seen):.3f} to {max(seen):.3f}), {beside}"
    return Found(text, ours <= 0.5, hub is not None and hub.value <= 1 / 4)


def _added(results: Results) -> Found | None:
    direct, nginx, ours = (middle(results, "json-1", name, "p50") for name in ("direct", "nginx", "its-proxy"))
    if direct is None or nginx is None or ours is None or nginx <= direct:
        return None
    times = (ours - direct) / (nginx - direct)
    return Found(f"{times:.2f}x: {ours - direct:.3f} ms, nginx {nginx - direct:.3f} ms", times <= 2, times <= 4)


def _crowd(results: Results) -> Found | None:
    failed, answered = (values(results, "json-512", "its-proxy", name) for name in ("failed", "answered"))
    if not answered:
        return None
    return Found(f"{sum(failed):.0f} of {sum(answered) + sum(failed):,.0f}", not sum(failed), not sum(failed))


def _start(results: Results) -> Found | None:
    started = results.get("starts", {}).get("figures", {}).get("its-proxy")
    if started is None:
        return None
    mib, ready_s = median(started["idle_mib"]), median(started["ready_s"])
    text = f"{mib:.1f} MiB, {ready_s:.2f} s"
    return Found(text, mib <= 50 and ready_s <= 0.8, mib <= 65 and ready_s <= 1.5)


def _chat(results: Results) -> Found | None:
    figures = results.get("chat", {}).get("figures")
    if figures is None:
        return None
    voted, plain = (figures[name]["counters"]["tokens"] for name in ("voted", "plain"))
    return Found(f"{voted / plain:.2f}x", voted / plain <= 1.3, voted / plain <= 2)


def _draws(results: Results) -> Found | None:
    figures = results.get("draws", {}).get("figures")
    if figures is None:
        return None
    took = {name: median(each) for name, each in figures.items()}
    text = "; ".join(f"{name} {us:.0f} us" for name, us in took.items())
    return Found(text, took["random"] <= 50 and max(took.values()) <= 1000, max(took.values()) <= 1000)


_STUDY = "[cheaper-votes.md](cheaper-votes.md)"
GOALS = (
    Goal("JSON with rewrite, 64 at a time, CPU", "<= 4x nginx", "<= 10x nginx and 1/5 of its_hub", _json),
    Goal("50 ms upstream, 64 at a time, requests a second against direct", ">= 0.92", ">= 0.85", _slow),
    Goal("SSE passed through, 64 at a time, 17 events, CPU", "<= 3x nginx", "<= 6x nginx", _sse),
    Goal(
        "2,000 concurrent paced streams, an event every 50 ms",
        "no added stall over 50 ms p99, CPU <= 3x nginx",
        "<= 8x nginx",
        _paced,
    ),
    Goal("vote of 8 (8 calls), 16 at a time, CPU", "<= 0.5 ms", "<= 1/4 of its_hub", _vote),
    Goal("added p50, one at a time, against nginx's", "<= 2x", "<= 4x", _added),
    Goal("512 at a time: failed or unfinished", "0", "0", _crowd),
    Goal("idle RSS, start to ready", "<= 50 MiB, <= 0.8 s", "<= 65 MiB, <= 1.5 s", _start),
    Goal("tokens saved at equal maj@16 accuracy, p95 wall <= 1.5x the full vote", ">= 50%", ">= 35%", elsewhere=_STUDY),
    Goal("answerless chat, 200 requests to a voted model: generated tokens against plain", "<= 1.3x", "<= 2x", _chat),
    Goal(
        "generated tokens per right answer against one greedy call", "stated with interval", "stated", elsewhere=_STUDY
    ),
    Goal("draw from a pool of 100,000 personas", "random <= 50 us", "any <= 1 ms", _draws),
)
