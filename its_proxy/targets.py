"""Where a model runs: its targets, each with the verdict on it, its load and its health.

A target gets queries only while its handshake holds. It is examined once at the start, and again when its
upstream comes back, its model list changes, the pair's name answers 404, or `recheck_s` has passed.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import (
    ModelUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnreachable,
)
from its_proxy.handshake import NO_MANIFEST, PENDING, State, Verdict, examine
from its_proxy.health import Health
from its_proxy.scoped import Entered
from its_proxy.upstreams.base import APPLIED, Body, Completion, RawReply, Upstream, applied, is_text

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
LONGEST_HINT_S = 10.0
"""What clients are told to wait at most: a server that is back is noticed before the next examination is due."""


_VERIFIED: tuple[State, ...] = ("verified", "none")
_BELIEVED: tuple[State, ...] = (*_VERIFIED, "unverified")


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may change of a target while it serves.

    `needs_verified`: unverified is not enough. `recheck_s`: seconds between routine examinations, None for never.
    `is_drained`: no new query, as long as there is another target.
    """

    needs_verified: bool = False
    weights: Literal["check", "skip"] = "check"
    recheck_s: float | None = None
    is_drained: bool = False


DEFAULT_POLICY = Policy()


class Target:
    """One upstream model that queries may be sent to. `checkpoint` None: passed through, nothing to examine.

    `is_local`: the upstream reads the very weight files of the checkpoint.
    """

    def __init__(
        self,
        model: str,
        upstream: Upstream,
        served_name: str,
        checkpoint: Checkpoint | None,
        *,
        verdict: Verdict = PENDING,
        is_local: bool = False,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self.model = model
        self.upstream = upstream
        self.served_name = served_name
        self.checkpoint = checkpoint
        self.pair_id = checkpoint.pair_id if checkpoint is not None else None
        self.verdict = NO_MANIFEST if checkpoint is None and verdict is PENDING else verdict
        self.is_local = is_local
        self.policy = policy
        self.n_in_flight = 0
        self.health = Health()
        self.n_aborted = 0
        self.retry_in_s = FIRST_RETRY_S
        self._n_suspicions = 0
        self._examination: asyncio.Timeout | None = None
        self._wake = asyncio.Event()

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for targets that are the same to a server whose settings are read again."""
        return (self.model, id(self.upstream), self.served_name, self.pair_id)

    @property
    def state(self) -> State:
        return self.verdict.state

    @property
    def is_serving(self) -> bool:
        return self.verdict.state in (_VERIFIED if self.policy.needs_verified else _BELIEVED)

    def require_serving(self) -> None:
        """Raises ModelUnavailable, with the reason, unless queries may be sent here."""
        if self.is_serving:
            return
        if self.state == "pending":
            raise ModelUnavailable(
                f"{self.model} is not ready: {self.verdict.reason}",
                code="model_pending",
                retry_after_s=min(self.retry_in_s, LONGEST_HINT_S),
            )
        raise ModelUnavailable(
            f"{self.model} is not served: {self.verdict.reason}", code=f"model_{self.state}",
            hint="the checkpoint's manifest and the live server disagree"
            if self.state == "mismatch" else "handshake: require is set for it",
        )  # fmt: skip

    # -- the verdict ---------------------------------------------------------------------------------------------------

    async def watch(self, on_change: Callable[[Verdict], None]) -> None:
        """Keeps the verdict up to date for as long as it runs; ends only where nothing can change any more.

        What a watch before this one has found, as before a reload, stands until something calls for more.
        """
        is_known = self.state != "pending"
        while self.checkpoint is not None:
            if not is_known:
                await self._judge(self.checkpoint, on_change)
            is_known = False
            if self.is_local and self.state != "pending":
                return
            await self._pause()

    async def _judge(self, checkpoint: Checkpoint, on_change: Callable[[Verdict], None]) -> None:
        """One examination and the verdict that follows from it; one that is cut short leaves none, and is due again."""
        self._wake.clear()
        n_suspicions, verdict = self._n_suspicions, None
        self._examination = limit = asyncio.timeout(None)
        try:
            async with limit:
                verdict = await self._examined(checkpoint)
        except TimeoutError:
            pass
        finally:
            if self._examination is limit:  # not that of a watch which has taken over
                self._examination = None
            if verdict is None:
                self._wake.set()
        if verdict is None or n_suspicions != self._n_suspicions:
            return  # what was examined may not be what stands there now
        if self.state == "pending" and verdict != self.verdict:
            self.health.answered()  # whatever failed is not what was examined now
        # The figures in a reason change a little each time; why a target is pending is worth telling.
        is_news = verdict.state != self.state or (verdict.state == "pending" and verdict != self.verdict)
        self.verdict = verdict
        if is_news:
            on_change(verdict)

    def recheck(self) -> None:
        """Examine again soon; until then the verdict stands."""
        self._wake.set()

    def suspect(self, reason: str) -> bool:
        """Examine again before anything else is sent here; whether that changed the verdict.

        A local one is beyond doubt: this process computes from files that it has read, and its watch has ended.
        """
        if self.is_local:
            return False
        if self._examination is not None and not self._examination.expired():
            self._examination.reschedule(0)  # it may be waiting for a reply from what is there no more
        was_serving = self.checkpoint is not None and self.state in ("verified", "unverified")
        if was_serving:
            self.verdict = Verdict("pending", reason)
            self._n_suspicions += 1
            self.retry_in_s = FIRST_RETRY_S
            self._wake.set()
        return was_serving

    async def _examined(self, checkpoint: Checkpoint) -> Verdict:
        report = await examine(
            checkpoint, self.upstream, self.served_name, is_local=self.is_local, weights=self.policy.weights
        )
        if report.verdict.state == "pending" and self.state in ("verified", "unverified") and await self._is_listed():
            # The server is there under the pair's name and had no room for a probe: load is no reason to leave it.
            return self.verdict
        return report.verdict

    async def _is_listed(self) -> bool:
        try:
            return any(card.get("id") == self.served_name for card in await self.upstream.models())
        except UpstreamError:
            return False

    async def _pause(self) -> None:
        """Until the next examination is due, or something calls for one."""
        is_pending = self.state == "pending"
        wait_s = self.retry_in_s * random.uniform(0.75, 1.25) if is_pending else self.policy.recheck_s
        self.retry_in_s = min(2 * self.retry_in_s, LAST_RETRY_S) if is_pending else FIRST_RETRY_S
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return
        if is_pending:
            await asyncio.sleep(FIRST_RETRY_S)  # many lost calls wake at once, and one examination answers them all

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def complete(self, body: Body, request_id: str) -> Completion:
        # What `_Counted` and `applied` do, without their objects: every candidate comes by here.
        self.n_in_flight += 1
        token = APPLIED.set(self._mark)
        try:
            completion = await self.upstream.complete(body, request_id)
        except BaseException as error:
            self.broken_off(error, is_route_known=not is_text(body))
            raise
        finally:
            APPLIED.reset(token)
            self.n_in_flight -= 1
        if not self.health.is_well:
            self.health.answered()
        return completion

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        with _Counted(self, is_route_known=not is_text(body)):
            stream = self.upstream.stream(body, request_id)
            with applied(self._mark):  # only while it begins: who reads the stream may be another task
                chunks = await stream.__aenter__()
            async with Entered(stream):
                yield chunks

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        with _Counted(self, is_route_known=False), applied(self._mark):
            return await self.upstream.forward(method, path, body, content_type)

    @property
    def _mark(self) -> str | None:
        """What is passed through may bear the mark of a layer in front."""
        return self.pair_id or APPLIED.get()

    def broken_off(self, error: BaseException, *, is_route_known: bool) -> None:
        """What a call has ended by. On a route that the upstream may lack, as `/v1/completions`, a 404 says nothing
        about the model."""
        if isinstance(error, UpstreamError):
            if is_route_known or not is_unknown_name(error):
                self.failed(error)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.n_aborted += 1

    def failed(self, error: UpstreamError) -> None:
        """A 4xx is about the request and never ejects, but a 404 for the pair's own name is about the target."""
        if isinstance(error, UpstreamUnreachable) and self.checkpoint is not None:
            self.suspect(str(error))
        elif is_unknown_name(error) and self.checkpoint is not None:
            self.suspect(f"upstream {self.upstream.name} answered 404 to {self.served_name}")
        elif isinstance(error, UpstreamBusy):
            self.health.refused(error)
        elif not (isinstance(error, UpstreamRejected) and error.status < 500):
            self._wake.set()  # a broken connection may be the end of the server that was examined
            self.health.failed(error)


class _Counted:
    """One call: in flight while it runs, and counted for the target's health by how it ends."""

    __slots__ = ("_is_route_known", "_target")

    def __init__(self, target: Target, *, is_route_known: bool = True) -> None:
        self._target = target
        self._is_route_known = is_route_known

    def __enter__(self) -> None:
        self._target.n_in_flight += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._target.n_in_flight -= 1
        if error is None:
            self._target.health.answered()
        else:
            self._target.broken_off(error, is_route_known=self._is_route_known)


def is_unknown_name(error: UpstreamError) -> bool:
    return isinstance(error, UpstreamRejected) and error.status == 404
