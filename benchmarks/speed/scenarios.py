"""What is asked: the kind, how many ask at a time, and how the upstream behaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.targets import Kind, Target
from benchmarks.speed.upstream import Behaviour

AT_ONCE = Behaviour()
QUESTION = "A baker has 3 loaves and bakes 4 more. How many loaves are there now?"
LARGE = QUESTION + " It is a long story." * 50_000


@dataclass(frozen=True, slots=True)
class Once:
    """Every connection asks once, the first of them within `ramp_s`; for streams that last."""

    ramp_s: float
    at_most_s: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """`only`: those that are worth their time here; None for all that can."""

    name: str
    says: str
    kind: Kind
    connections: int
    is_stream: bool = False
    prompt: str = QUESTION
    upstream: Behaviour = AT_ONCE
    once: Once | None = None
    only: tuple[str, ...] | None = None

    def is_for(self, target: Target) -> bool:
        is_wanted = self.only is None or target.name in self.only
        return is_wanted and self.kind in target.asks and self.connections <= target.most

    @property
    def fields(self) -> Mapping[str, Any]:
        return {"messages": [{"role": "user", "content": self.prompt}], **({"stream": True} if self.is_stream else {})}


_FAST = ("direct", "nginx", "its-proxy")
_STREAMING = (*_FAST, "plain")
CONCURRENCY = (1, 16, 64, 256, 512)


def scenarios(is_quick: bool) -> tuple[Scenario, ...]:
    """Quick: fewer and shorter streams."""
    return (
        *(Scenario(f"passed-{c}", f"JSON passed through, {c} at a time", "passed", c, only=_FAST) for c in (1, 64)),
        *(Scenario(f"json-{c}", f"JSON rewritten, {c} at a time", "rewritten", c) for c in CONCURRENCY),
        Scenario("slow-64", "JSON rewritten, the model takes 50 ms, 64 at a time", "rewritten", 64,
                 upstream=Behaviour(50)),
        Scenario("sse-1", "a stream of 17 events, one at a time", "passed", 1, is_stream=True),
        Scenario("sse-64", "a stream of 17 events, 64 at a time", "passed", 64, is_stream=True),
        Scenario("sse-rewritten-64", "the same, rewritten", "rewritten", 64, is_stream=True, only=("its-proxy",)),
        _paced(is_quick, 50, _STREAMING),
        _paced(is_quick, 100, _FAST),
        _paced(is_quick, 20, _FAST),
        Scenario("vote-1", "a vote of 8, one at a time", "vote", 1),
        Scenario("vote-16", "a vote of 8, 16 at a time", "vote", 16),
        Scenario("vote-stream-16", "a vote of 8 answered as a stream, 16 at a time", "vote", 16, is_stream=True,
                 only=("its-proxy",)),
        Scenario("large-4", "a prompt of 1 MB, 4 at a time", "rewritten", 4, prompt=LARGE),
        Scenario("large-passed-4", "the same, passed through", "passed", 4, prompt=LARGE, only=("its-proxy",)),
    )  # fmt: skip


def _paced(is_quick: bool, every_ms: int, only: tuple[str, ...]) -> Scenario:
    """Streams of five seconds that begin over half of that, so all run side by side, and not in step."""
    n_streams, length_ms = (300, 1500) if is_quick else (2000, 5000)
    n_events = length_ms // every_ms
    return Scenario(
        f"paced-{every_ms}ms",
        f"{n_streams:,} streams side by side, an event of each every {every_ms} ms",
        "passed",
        n_streams,
        is_stream=True,
        upstream=Behaviour(0, n_events, every_ms),
        once=Once(ramp_s=length_ms / 2000, at_most_s=20),
        only=only,
    )
