"""Who waits for room, and who is known: the lines that admission serves, and what it remembers of each tenant."""

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic


class Tenant:
    """What one caller has here, and how often it has come lately: a bucket of tokens, one a request.

    `limits`: the object that its limits were last set from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.limits: object = None
        self.n_in_flight = 0
        self.n_waiting = 0
        self.max_candidates = sys.maxsize
        self._per_minute: int | None = None
        self._tokens = 0.0
        self._counted_at = monotonic()

    def set_limits(self, max_candidates: int | None, requests_per_minute: int | None) -> None:
        self.max_candidates = max_candidates or sys.maxsize
        if requests_per_minute != self._per_minute:
            self._per_minute = requests_per_minute
            self._tokens = float(self._per_minute or 0)

    def spend(self) -> float:
        """Takes a token; where there is none, the seconds until there is one."""
        if self._per_minute is None:
            return 0.0
        self._refill()
        if self._tokens < 1.0:
            return (1.0 - self._tokens) * 60.0 / self._per_minute
        self._tokens -= 1.0
        return 0.0

    def _refill(self) -> None:
        now = monotonic()
        per_minute = self._per_minute or 0
        self._tokens = min(float(per_minute), self._tokens + (now - self._counted_at) * per_minute / 60.0)
        self._counted_at = now

    @property
    def room(self) -> int:
        """How many more slots it may have."""
        return self.max_candidates - self.n_in_flight

    @property
    def is_idle(self) -> bool:
        return not (self.n_in_flight or self.n_waiting)

    @property
    def is_rested(self) -> bool:
        if self._per_minute is None:
            return True
        self._refill()
        return self._tokens >= self._per_minute


@dataclass(slots=True, eq=False)
class Waiting:
    """One request, or one further candidate, in a line. `n_granted` 0: not yet."""

    needs: tuple[int, ...]
    begins_with: int | None = None
    choice: int = 0
    n_granted: int = 0
    future: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Line:
    """Who waits, in turns by tenant; of one tenant the first comes first."""

    def __init__(self) -> None:
        self.n = 0
        self._by_tenant: OrderedDict[Tenant, deque[Waiting]] = OrderedDict()

    def add(self, tenant: Tenant, waiting: Waiting) -> None:
        self._by_tenant.setdefault(tenant, deque()).append(waiting)
        tenant.n_waiting += 1
        self.n += 1

    def remove(self, tenant: Tenant, waiting: Waiting) -> None:
        own = self._by_tenant.get(tenant, deque())
        if waiting in own:
            own.remove(waiting)
            tenant.n_waiting -= 1
            self.n -= 1
        if not own:
            self._by_tenant.pop(tenant, None)

    def heads(self) -> Iterator[tuple[Tenant, Waiting]]:
        for tenant, own in self._by_tenant.items():
            yield tenant, own[0]

    def turn(self, tenant: Tenant) -> None:
        """It has had its turn."""
        if tenant in self._by_tenant:
            self._by_tenant.move_to_end(tenant)

    def longest(self, newcomer: Tenant) -> Tenant:
        """Whoever has most here; the newcomer itself where others have no more than it."""
        most = max(self._by_tenant, key=lambda tenant: len(self._by_tenant[tenant]))
        own = len(self._by_tenant.get(newcomer, ()))
        return newcomer if own >= len(self._by_tenant[most]) else most

    def last_of(self, tenant: Tenant) -> Waiting:
        return self._by_tenant[tenant][-1]


class Pace:
    """How fast the queue moves, since it was last empty and of late."""

    def __init__(self) -> None:
        self._since = monotonic()
        self._n = 0.0

    def begin(self) -> None:
        self._since, self._n = monotonic(), 0.0

    def count(self, window_s: float) -> None:
        """One has left it for its place. What is older than some windows hardly counts any more."""
        self._n += 1
        now = monotonic()
        if now - self._since > 2 * window_s:
            self._since, self._n = now - window_s, self._n * window_s / (now - self._since)

    def seconds_each(self) -> float:
        return (monotonic() - self._since) / max(1.0, self._n)
