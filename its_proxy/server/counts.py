"""What is counted of every request: numbers in dicts, of which Prometheus's families are made when it asks for them.

    requests = Counter(registry, "its_proxy_requests", "Requests answered", ["model", "code"])
    requests.add(1, "model", "200")

The library's own take a lock and find a label's series anew for each count, so that every thread may count; here only
the event loop's does, and a count is a fifth of a microsecond.
"""

import os
import time
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
"""The values of one series' labels, in the order of their names."""
Sample = tuple[str, dict[str, str], float]
"""What its name ends with, the labels beside its series' own, and the number."""


class _Family(Collector):
    """All series of a name. One without labels is there from the start, the others from their first count on."""

    kind: str

    def __init__(self, registry: CollectorRegistry, name: str, says: str, labels: Sequence[str] = ()) -> None:
        self._name, self._says, self._labels = name, says, tuple(labels)
        self._began_at: dict[Labels, float] = {}
        # The library's own switch for these series.
        self._tells_begin = os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() not in ("true", "1", "t")
        registry.register(self)
        if not labels:
            self._begin(())

    def describe(self) -> list[Metric]:
        """For the registry, which refuses two families of one name."""
        return [Metric(self._name, self._says, self.kind)]

    def collect(self) -> Iterator[Metric]:
        family = Metric(self._name, self._says, self.kind)
        for values, began_at in self._began_at.items():
            labels = dict(zip(self._labels, values, strict=True))
            for suffix, more, number in self._samples(values):
                family.add_sample(self._name + suffix, {**labels, **more}, number)
            if self._tells_begin:
                family.add_sample(f"{self._name}_created", labels, began_at)
        yield family

    def _begin(self, values: Labels) -> None:
        """A series, which has counted nothing yet. Raises ValueError."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}")
        self._began_at[values] = time.time()

    @abstractmethod
    def _samples(self, values: Labels) -> list[Sample]: ...


class Counter(_Family):
    kind = "counter"

    def __init__(self, registry: CollectorRegistry, name: str, says: str, labels: Sequence[str] = ()) -> None:
        self._totals: dict[Labels, float] = {}
        super().__init__(registry, name, says, labels)

    def add(self, n: float, *values: str) -> None:
        """Raises ValueError: it only grows."""
        if n < 0:
            raise ValueError(f"{self._name} cannot count {n}")
        if values not in self._totals:
            self._begin(values)
        self._totals[values] += n

    def _begin(self, values: Labels) -> None:
        super()._begin(values)
        self._totals[values] = 0.0

    def _samples(self, values: Labels) -> list[Sample]:
        return [("_total", {}, self._totals[values])]


class Histogram(_Family):
    """`bounds`: the greatest number of each bucket but the last, which takes all that are greater."""

    kind = "histogram"

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        says: str,
        labels: Sequence[str] = (),
        *,
        bounds: tuple[float, ...],
    ) -> None:
        self._bounds = bounds
        self._buckets = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        super().__init__(registry, name, says, labels)

    def observe(self, number: float, *values: str) -> None:
        if values not in self._counts:
            self._begin(values)
        self._counts[values][bisect_left(self._bounds, number)] += 1
        self._sums[values] += number

    def _begin(self, values: Labels) -> None:
        super()._begin(values)
        self._counts[values] = [0] * (len(self._bounds) + 1)
        self._sums[values] = 0.0

    def _samples(self, values: Labels) -> list[Sample]:
        samples: list[Sample] = []
        n = 0.0
        for bucket, n_here in zip(self._buckets, self._counts[values], strict=True):
            n += n_here
            samples.append(("_bucket", {"le": bucket}, n))
        return [*samples, ("_count", {}, n), ("_sum", {}, self._sums[values])]
