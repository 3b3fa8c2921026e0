"""A query's way to a model: which of its targets it is sent to, and where a call goes that was not taken there."""

import random
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from its_proxy.codesign.errors import UpstreamBusy, UpstreamError, UpstreamUnreachable
from its_proxy.handshake import State
from its_proxy.scoped import Entered
from its_proxy.targets import Target, is_unknown_name
from its_proxy.upstreams.base import Body, Completion, RawReply
from its_proxy.upstreams.retries import SAVED_BETWEEN, RetryBudget, tried_once
from its_proxy.upstreams.written import over

_Result = TypeVar("_Result")


def cost_nothing(error: UpstreamError) -> bool:
    """Whether the call certainly began nothing: no connection, no room, or no such name."""
    return isinstance(error, UpstreamUnreachable | UpstreamBusy) or is_unknown_name(error)


def choose(targets: Sequence[Target], besides: Target | None = None) -> Target | None:
    """The serving target with the least candidates in flight; drained ones, those that fail or are busy, and last those
    that are blocked, only where no other is left."""
    if len(targets) == 1:
        [only] = targets
        return only if only.is_serving and only is not besides else None
    serving = [target for target in targets if target.is_serving and target is not besides]
    if len(serving) < 2:
        return serving[0] if serving else None
    # The random number: queries that are planned in the same moment must not all find the same target idle.
    return min(
        serving,
        key=lambda target: (
            target.health.is_blocked,
            target.policy.is_drained,
            target.health.is_avoided,
            target.n_in_flight,
            random.random(),
        ),
    )


def longest_wait(targets: Iterable[Target]) -> UpstreamBusy:
    """What a query is told where whoever could answer it is blocked."""
    waits = [target.health.blocked(target.upstream.name) for target in targets if target.health.is_blocked]
    return max(waits, key=lambda wait: wait.retry_after_s or 0.0)


@dataclass(slots=True)
class Route:
    """One query's way to a model: an Upstream. All its candidates go to one target of several, where the prompt is read
    once; or, `is_spread`, each to the least busy one, so that no target can lose the whole vote.

    A call that certainly cost nothing there (no connection, no room, no such name) is asked once elsewhere, and the
    calls after it go there at once; only where there is no elsewhere may its upstream ask once more. A target that is
    blocked meanwhile gets no further call. `budget`: the model's, of all queries, for calls that leave a busy target.
    `salt` goes along where the upstream is known to take one. `was_begun`: some
    call may have cost something, so the query is not asked again as a whole. `state`: the handshake's, when chosen.
    """

    target: Target
    targets: Sequence[Target]
    salt: str | None = None
    is_spread: bool = False
    budget: RetryBudget = field(default_factory=lambda: RetryBudget(SAVED_BETWEEN))
    was_begun: bool = False
    state: State = field(init=False)
    _probed: Target | None = None

    def __post_init__(self) -> None:
        self.state = self.target.state

    @property
    def name(self) -> str:
        names = [target.upstream.name for target in (self.targets if self.is_spread else (self.target,))]
        return ", ".join(names)

    async def complete(self, body: Body, request_id: str) -> Completion:
        target = self._next()
        try:
            if len(self.targets) == 1:  # mostly so, and then its upstream may make the second try
                completion = await target.complete(self._body(target, body), request_id)
            else:
                with tried_once(self._other(target) is not None):
                    completion = await target.complete(self._body(target, body), request_id)
        except UpstreamError as error:
            self.was_begun |= not cost_nothing(error)
            other = self._elsewhere(target, error)
        else:
            self.was_begun = True
            return completion
        with tried_once():
            return await self._begin(other.complete(self._body(other, body), request_id))

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        target = self._next()
        try:
            with tried_once(self._other(target) is not None):
                stream = target.stream(self._body(target, body), request_id)
                chunks = await self._begin(stream.__aenter__())
        except UpstreamError as error:
            other = self._elsewhere(target, error)
            with tried_once():
                stream = other.stream(self._body(other, body), request_id)
                chunks = await self._begin(stream.__aenter__())
        async with Entered(stream):
            yield chunks

    async def models(self) -> Sequence[Mapping[str, Any]]:
        return await self.target.upstream.models()

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        return await self._next().forward(method, path, body, content_type)

    async def close(self) -> None:
        """The upstreams are the catalog's to close."""

    def _next(self) -> Target:
        """Where the next call goes. Raises UpstreamBusy, the longest wait of all, where nobody may be sent anywhere."""
        target = self.target
        if target.health.is_well and not self.is_spread:
            self.budget.earn()
            return target
        is_blocked = target.health.is_blocked and target is not self._probed
        if self.is_spread or is_blocked:
            target = choose(self.targets) or target
            is_blocked = target.health.is_blocked and target is not self._probed
        if is_blocked:
            raise longest_wait(self.targets)
        if target.health.begin_probe():
            self._probed = target
        if not self.is_spread and target is not self.target:
            self.target, self.state = target, target.state
        self.budget.earn()
        return target

    async def _begin(self, call: Awaitable[_Result]) -> _Result:
        try:
            result = await call
        except UpstreamError as error:
            self.was_begun |= not cost_nothing(error)
            raise
        self.was_begun = True
        return result

    def _body(self, target: Target, body: Body) -> Body:
        if self.salt is not None and getattr(target.upstream, "takes_cache_salt", False):
            return over(body, {"model": target.served_name, "cache_salt": self.salt})
        return body if body.get("model") == target.served_name else over(body, {"model": target.served_name})

    def _elsewhere(self, target: Target, error: UpstreamError) -> Target:
        """Where to ask once more; raises the error where there is nothing to gain."""
        is_promised = target.checkpoint is not None or not is_unknown_name(error)
        if not (cost_nothing(error) and is_promised):
            raise error
        other = self._other(target)
        if other is None or (isinstance(error, UpstreamBusy) and not self.budget.spend()):
            raise error
        self.target, self.state = other, other.state
        return other

    def _other(self, target: Target) -> Target | None:
        """Where a call that `target` did not take may go: where the query's others have gone, if they have."""
        has_moved = self.target is not target and not self.is_spread
        other = self.target if has_moved else choose(self.targets, besides=target)
        return None if other is None or other.health.is_blocked else other


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands in a vote for an ensemble's member that serves nowhere now: each of its candidates is lost."""

    name: str
    reason: str

    async def complete(self, body: Body, request_id: str) -> Completion:
        raise UpstreamUnreachable(self.reason)

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        raise UpstreamUnreachable(self.reason)
        yield

    async def models(self) -> Sequence[Mapping[str, Any]]:
        return ()

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        raise UpstreamUnreachable(self.reason)

    async def close(self) -> None:
        """Nothing is open."""
