"""Who may begin now: candidates in flight are counted, what finds no room waits shortly, in turns between callers.

    admission = Admission(Limits(candidates=512, queue=128, queue_s=10.0))
    door = admission.door("team-a", CallerLimits(max_candidates=64, requests_per_minute=600))   # raises: too often
    async with door.admitted([8, 5, 3]) as place:       # raises: no room. Needs 8 slots, or will do with fewer
        place.choice                                    # 0: there was room for 8; 2: under pressure, only for 3
        async with place.candidate():                   # one of them runs, and its slot is free again after it
            ...

What a request needs to begin is granted at once or not at all. What it starts later takes slots one by one, before any
new request: candidates that have run are worth more than those that nobody has paid for yet. Nobody holds a slot while
waiting for another but candidates that run, and those end by themselves, so nothing can deadlock.

Everything here belongs to one event loop and never waits under a lock: slots are counted, and given back in `finally`.
"""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, TypeAlias, get_args

from its_proxy.codesign.errors import NotAdmitted
from its_proxy.codesign.light import light
from its_proxy.waiting import Line, Pace, Tenant, Waiting

Reason: TypeAlias = Literal["rate", "own_candidates", "queue_full", "queue_time"]
REASONS: tuple[Reason, ...] = get_args(Reason)
MAX_IDLE_TENANTS = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Of everybody together: `candidates` in flight, and `queue` requests that may wait for up to `queue_s`."""

    candidates: int = 512
    queue: int = 128
    queue_s: float = 10.0


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Of one caller, and of each tenant that it speaks for; None is as much as all may have."""

    max_candidates: int | None = None
    requests_per_minute: int | None = None


NO_LIMITS = CallerLimits()


class Place(Protocol):
    """Room for one request. `choice`: the position of the granted one among the needs that were asked for."""

    choice: int

    def candidate(self) -> AbstractAsyncContextManager[None]:
        """Holds a slot while a candidate runs; beyond what was granted at first, waits for one."""
        ...


class Door(Protocol):
    """One caller's way in."""

    def admitted(
        self, needs: Sequence[int], begins_with: int | None = None, within_s: float = inf
    ) -> AbstractAsyncContextManager[Place]:
        """Waits for room for the first of `needs` (numbers of slots, the greatest first), or for a later one where
        others wait, too. `begins_with`: so many slots are enough to begin with. Raises NotAdmitted."""
        ...


class Admission:
    """`n_rejected` counts by reason; `n_reduced` the requests that were admitted with less than their first need."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.n_in_flight = 0
        self.n_reduced = 0
        self.n_rejected: Counter[Reason] = Counter(dict.fromkeys(REASONS, 0))
        self._limits = limits
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()
        self._requests = Line()
        self._further = Line()
        self._pace = Pace()

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return self._requests.n

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        """What runs goes on; who waits may have room now."""
        self._limits = limits
        self._grant()

    def door(self, tenant: str, limits: CallerLimits = NO_LIMITS) -> Door:
        """One request arrives. Raises NotAdmitted where the tenant sends more of them than it may."""
        if limits.requests_per_minute is not None and (wait_s := self._tenant(tenant, limits).spend()) > 0:
            raise self._refusal("rate", f"more than {limits.requests_per_minute} requests a minute", wait_s)
        return _Door(self, tenant, limits)

    async def place(
        self, name: str, limits: CallerLimits, needs: Sequence[int], begins_with: int | None, within_s: float
    ) -> "_Place":
        """Waits for it, where there was none at once; whoever cancels the wait frees the place in the queue."""
        tenant = self._tenant(name, limits)
        waiting = Waiting(tuple(needs), begins_with)
        if not self._requests.n:
            self._pace.begin()
        self._requests.add(tenant, waiting)
        self._grant()
        if self._requests.n > self._limits.queue or self._expected_s > self._limits.queue_s:
            self._turn_away(tenant)
        try:
            async with asyncio.timeout(min(self._limits.queue_s, within_s)):
                await self._until_granted(self._requests, tenant, waiting)
        except TimeoutError:
            raise self._refusal_of(tenant, waiting, "queue_time") from None
        self.n_reduced += waiting.choice > 0
        return _Place(self, tenant, waiting.choice, waiting.n_granted)

    def place_at_once(self, name: str, limits: CallerLimits, need: int, begins_with: int | None) -> "_Place | None":
        """Mostly nobody waits and there is room: then there is nothing to wait for, and no timer to set."""
        tenant = self._tenant(name, limits)
        need = min(need, self._limits.candidates, tenant.max_candidates)
        if self._requests.n or self._further.n or need > min(self._limits.candidates - self.n_in_flight, tenant.room):
            return None
        n_granted = need if begins_with is None else min(need, begins_with)
        self.n_in_flight += n_granted
        tenant.n_in_flight += n_granted
        return _Place(self, tenant, 0, n_granted)

    async def take(self, tenant: Tenant) -> None:
        """One more slot, for a request that has begun."""
        waiting = Waiting((1,))
        self._further.add(tenant, waiting)
        self._grant()
        await self._until_granted(self._further, tenant, waiting)

    def release(self, tenant: Tenant, n: int) -> None:
        self.n_in_flight -= n
        tenant.n_in_flight -= n
        if self._requests.n or self._further.n:
            self._grant()

    async def _until_granted(self, line: Line, tenant: Tenant, waiting: Waiting) -> None:
        try:
            if not waiting.n_granted:
                await waiting.future
        except BaseException:
            # The grant and the end of the wait may have come in the same turn of the loop.
            if waiting.n_granted:
                self.release(tenant, waiting.n_granted)
            else:
                line.remove(tenant, waiting)
                self._grant()  # it may have stood before others for whom there is room
            raise

    @property
    def _expected_s(self) -> float:
        """How long the last in the queue will wait, if it goes on as of late."""
        return self._requests.n * self._pace.seconds_each()

    # -- who is next ---------------------------------------------------------------------------------------------------

    def _grant(self) -> None:
        while self._serve(self._further) or self._serve(self._requests):
            pass

    def _serve(self, line: Line) -> bool:
        """Grants the next in turn what it waits for, if there is room."""
        room = self._limits.candidates - self.n_in_flight
        if room <= 0:
            return False
        for tenant, waiting in line.heads():
            # Only what stands alone may choose: under pressure all take the least.
            first = 0 if line.n == 1 else len(waiting.needs) - 1
            for choice in range(first, len(waiting.needs)):
                if self._need(tenant, waiting, choice) <= min(room, tenant.room):
                    line.remove(tenant, waiting)
                    line.turn(tenant)
                    self._give(tenant, waiting, choice)
                    if line is self._requests:
                        self._pace.count(self._limits.queue_s)
                    return True
            if not self._is_at_own_limit(tenant, waiting):
                return False  # it is its turn: who needs less must not overtake it for ever
        return False

    def _give(self, tenant: Tenant, waiting: Waiting, choice: int) -> None:
        need = self._need(tenant, waiting, choice)
        waiting.choice = choice
        waiting.n_granted = need if waiting.begins_with is None else min(need, waiting.begins_with)
        self.n_in_flight += waiting.n_granted
        tenant.n_in_flight += waiting.n_granted
        if not waiting.future.done():
            waiting.future.set_result(None)

    def _need(self, tenant: Tenant, waiting: Waiting, choice: int) -> int:
        """What is needed at once; who needs more than is ever there runs one after the other."""
        return min(waiting.needs[choice], self._limits.candidates, tenant.max_candidates)

    def _is_at_own_limit(self, tenant: Tenant, waiting: Waiting) -> bool:
        return self._need(tenant, waiting, len(waiting.needs) - 1) > tenant.room

    # -- who is refused ------------------------------------------------------------------------------------------------

    def _turn_away(self, newcomer: Tenant) -> None:
        """The queue is longer than it may be, or than can be served in time: the last of the tenant that has most in it
        goes, so that nobody fills it alone, and at once, for it would wait in vain."""
        tenant = self._requests.longest(newcomer)
        waiting = self._requests.last_of(tenant)
        self._requests.remove(tenant, waiting)
        if not waiting.future.done():  # else it is leaving by itself
            waiting.future.set_exception(self._refusal_of(tenant, waiting, "queue_full"))

    def _refusal_of(self, tenant: Tenant, waiting: Waiting, reason: Reason) -> NotAdmitted:
        # Spread, so that those who are refused together do not come back together.
        retry_after_s = random.uniform(0.5, 1.5) * max(2.0, min(self._expected_s, self._limits.queue_s))
        if self._is_at_own_limit(tenant, waiting):
            message = f"{tenant.n_in_flight} of your candidates are in flight, and no more may be"
            return self._refusal("own_candidates", message, retry_after_s)
        return self._refusal(reason, "as many candidates are in flight as this server runs at once", retry_after_s)

    def _refusal(self, reason: Reason, message: str, retry_after_s: float) -> NotAdmitted:
        self.n_rejected[reason] += 1
        return NotAdmitted(message, is_callers=reason in ("rate", "own_candidates"), retry_after_s=retry_after_s)

    # -- whom it knows -------------------------------------------------------------------------------------------------

    def _tenant(self, name: str, limits: CallerLimits) -> Tenant:
        if (tenant := self._tenants.get(name)) is None:
            if len(self._tenants) >= MAX_IDLE_TENANTS:
                self._prune()
            tenant = self._tenants[name] = Tenant(name)
        if tenant.limits is not limits:
            tenant.limits = limits
            tenant.set_limits(limits.max_candidates, limits.requests_per_minute)
        return tenant

    def _prune(self) -> None:
        """A front may name any number of tenants: beyond some thousands the idle ones are forgotten, first those of
        whom nothing is worth remembering, for they may send as much as ever, and the oldest first."""
        idle = [tenant for tenant in self._tenants.values() if tenant.is_idle]
        idle.sort(key=lambda tenant: not tenant.is_rested)
        for tenant in idle[: MAX_IDLE_TENANTS // 2]:
            del self._tenants[tenant.name]


@light
@dataclass(frozen=True, slots=True)
class _Door:
    admission: Admission
    tenant: str
    limits: CallerLimits

    def admitted(
        self, needs: Sequence[int], begins_with: int | None = None, within_s: float = inf
    ) -> AbstractAsyncContextManager[Place]:
        return _Admitted(self, needs, begins_with, within_s)


class _Admitted:
    """A place from when there is one to the end of the block."""

    __slots__ = ("_begins_with", "_door", "_needs", "_place", "_within_s")

    def __init__(self, door: _Door, needs: Sequence[int], begins_with: int | None, within_s: float) -> None:
        self._door = door
        self._needs = needs
        self._begins_with = begins_with
        self._within_s = within_s

    async def __aenter__(self) -> Place:
        door, needs, begins_with = self._door, self._needs, self._begins_with
        place = door.admission.place_at_once(door.tenant, door.limits, needs[0], begins_with)
        if place is None:
            place = await door.admission.place(door.tenant, door.limits, needs, begins_with, self._within_s)
        self._place = place
        return place

    async def __aexit__(self, *_: object) -> None:
        self._place.leave()


class _Place:
    """Entered once for each candidate: its slot, from when there is one to the end of the block."""

    __slots__ = ("_admission", "_n_left", "_tenant", "choice")

    def __init__(self, admission: Admission, tenant: Tenant, choice: int, n_granted: int) -> None:
        self.choice = choice
        self._admission = admission
        self._tenant = tenant
        self._n_left = n_granted

    def candidate(self) -> "_Place":
        return self

    async def __aenter__(self) -> None:
        if self._n_left:
            self._n_left -= 1
        else:
            await self._admission.take(self._tenant)

    async def __aexit__(self, *_: object) -> None:
        self._admission.release(self._tenant, 1)

    def leave(self) -> None:
        """Gives back what no candidate has used."""
        if self._n_left:
            self._admission.release(self._tenant, self._n_left)
            self._n_left = 0


class _AnyPlace:
    choice = 0

    def candidate(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class _OpenDoor:
    def admitted(
        self, needs: Sequence[int], begins_with: int | None = None, within_s: float = inf
    ) -> AbstractAsyncContextManager[Place]:
        return nullcontext(ANYWHERE)


ANYWHERE: Place = _AnyPlace()
OPEN_DOOR: Door = _OpenDoor()
"""For those who limit nothing."""
