"""One request to one served model, answered: plainly or as a stream, voted on, or passed through.

The server and every plug-in answer through this, so that they cannot differ in anything but their doors.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from its_proxy.admission import OPEN_DOOR, Door, Place
from its_proxy.codesign.errors import NotPermitted, RequestError
from its_proxy.codesign.light import light
from its_proxy.deadline import Deadline
from its_proxy.equivalence.comparisons import Comparer
from its_proxy.leader import Listener
from its_proxy.observe import NOBODY, Observer
from its_proxy.outcome import Outcome
from its_proxy.plan import Member, Plan, make_plan, mistrusting, sizes
from its_proxy.protocol.chat import ChatRequest, client_max_tokens
from its_proxy.protocol.its import ItsRequest
from its_proxy.protocol.limits import refuse_many_choices, refuse_many_tokens
from its_proxy.protocol.sse import DONE, completion_events, relayed, role_event
from its_proxy.reply import completion_of, explanation, headers_of
from its_proxy.sampling import Audience, sample
from its_proxy.scoped import Entered
from its_proxy.served import Served
from its_proxy.upstreams.base import Body, Completion, applied, traced
from its_proxy.upstreams.written import over

STREAM_BEGINS_S = 1.0
HEARTBEAT_S = 10.0
EVENTS_A_TURN = 64
"""Of a finished text, before whatever else is waiting in the event loop has its turn."""


@light
@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON object for the client, and headers beside it."""

    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Streamed:
    """Server-sent events as they come, cut at line ends. Iterating raises ItsError where the stream fails midway."""

    headers: dict[str, str]
    chunks: AsyncGenerator[bytes, None]


@light
@dataclass(frozen=True, slots=True)
class Front:
    """What `x-its-applied` says: the pair that a layer before this one has applied, and whether it may be believed."""

    pair_id: str | None = None
    is_trusted: bool = False

    @classmethod
    def said(cls, header: str | None, *, is_trusted: bool) -> "Front":
        """By a request's header; an empty one says nothing, so that a layer between can empty what clients send."""
        return cls(header, is_trusted) if header else NO_FRONT

    @property
    def mark(self) -> str | None:
        """What is believed. Where there is nothing to apply here, it is for the layers behind."""
        return self.pair_id if self.is_trusted else None

    def has_applied(self, served: Served) -> bool:
        """Whether the request is rewritten already, and one candidate of a vote held elsewhere. Raises RequestError
        for another pair than the model's own: both layers would have rewritten it wrongly."""
        mark = self.mark
        if mark is None or served.checkpoint is None:
            return False
        own = None if served.is_ensemble else served.checkpoint.pair_id
        if mark != own:
            raise RequestError(
                f"the layer in front applied pair {mark[:8]}, and {served.name} has "
                + (f"pair {own[:8]}" if own else "no pair of its own"),
                code="pair_mismatch",
                hint="let one layer rewrite, or give both the same checkpoint",
            )
        return True


NO_FRONT = Front()


@light
@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for: choices of what is passed through, and tokens of all its candidates together."""

    n: int = 1024
    tokens: int = sys.maxsize


NO_LIMITS = Limits()


def _ignore(outcome: Outcome) -> None:
    """For those who count nothing."""


@light
@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """`members`: as this request asks them. `rights`: what the caller may override. `door`: where room for its
    candidates is waited for, within the same deadline that they have. `observer`: who watches the calls. `comparer`:
    whoever compares answers that are written differently. Raises the ItsError family."""

    chat: ChatRequest
    served: Served
    members: Sequence[Member]
    request_id: str
    rights: frozenset[str] = frozenset()
    front: Front = NO_FRONT
    limits: Limits = NO_LIMITS
    on_outcome: Callable[[Outcome], None] = _ignore
    door: Door = OPEN_DOOR
    observer: Observer = NOBODY
    comparer: Comparer | None = None

    @property
    def is_passed_through(self) -> bool:
        """No manifest, or a layer in front has applied it: the request goes on as it came."""
        has_manifest = self.served.checkpoint is not None or self.served.is_ensemble
        return not has_manifest or (self.front is not NO_FRONT and self.front.has_applied(self.served))

    async def reply(self) -> Reply:
        """The whole answer; or, where it is asked to `explain`, the plan for it."""
        self.served.require_serving()
        deadline = self._deadline()
        if self.is_passed_through:
            body = self._untouched()
            async with self._room([self.chat.n], None, deadline):
                return Reply(await self._pass_on(body, deadline), {})
        plan = self.plan()
        if self.chat.its.explain:
            return Reply(explanation(plan), headers_of(plan))
        plans = (plan,) if plan.n == 1 else sizes(plan, self.chat)
        async with self._room_for(plans, deadline) as place:
            outcome = await self._sample(plans[place.choice], place, deadline)
        return Reply(self._completion(outcome), headers_of(outcome.plan, outcome))

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Streamed]:
        """The same as events. Entering waits for the first candidate or a second, so that an early failure is raised
        while there is still a status to say it with; leaving cancels whatever still runs."""
        self.served.require_serving()
        deadline = self._deadline()
        if self.is_passed_through:
            body = self._untouched()
            async with (
                self._room([self.chat.n], None, deadline),
                self._relay(body, {}, deadline) as streamed,
            ):
                yield streamed
            return
        plans = sizes(self.plan(), self.chat)
        async with self._room_for(plans, deadline) as place:
            plan = plans[place.choice]
            streaming = (
                self._relay(self._single(plan), headers_of(plan), deadline)
                if plan.n == 1
                else self._vote(plan, place, deadline)
            )
            async with streaming as streamed:
                yield streamed

    def _room_for(self, plans: Sequence[Plan], deadline: Deadline) -> AbstractAsyncContextManager[Place]:
        """Its `choice` says which of the plans there is room for."""
        begins_with = 1 if plans[0].starts_with_one else None
        return self._room([plan.n_first or plan.n for plan in plans], begins_with, deadline)

    def _room(
        self, needs: Sequence[int], begins_with: int | None, deadline: Deadline
    ) -> AbstractAsyncContextManager[Place]:
        self.served.require_open()
        return self.door.admitted(needs, begins_with, deadline.left_s)

    def plan(self) -> Plan:
        """Raises NotPermitted for what needs a right that the caller lacks."""
        its = self.chat.its
        if its.explain or its.candidates:
            _require_rights(its, self.rights)
        plan = make_plan(self.chat, self.members, self.served.rules, self.rights, self.chat.model)
        n_tokens = sum([planned.n * (planned.max_tokens or 0) for planned in plan.members])
        refuse_many_tokens(n_tokens, self.limits.tokens)
        front = self.front
        return mistrusting(plan) if front.pair_id is not None and not front.is_trusted else plan

    async def _pass_on(self, body: Body, deadline: Deadline) -> Completion:
        member = self.members[0]
        with self.observer.call(member) as call, applied(self.front.mark), traced(call.traceparent):
            with deadline.held():
                completion = await member.upstream.complete(body, self.request_id)
            call.told("ok", completion)
        return completion

    def _deadline(self) -> Deadline:
        return Deadline(self.served.rules.deadline_s)

    def _untouched(self) -> dict[str, Any]:
        """The client's own body, under the name that the upstream knows."""
        if self.chat.its.model_fields_set:
            raise RequestError(
                f"{self.served.name} is passed through here, so nothing is rewritten or voted on",
                param="its",
                hint="leave its out",
            )
        refuse_many_choices(self.chat.body, self.limits.n)
        refuse_many_tokens(self.chat.n * (client_max_tokens(self.chat.body) or 0), self.limits.tokens)
        return {**self.chat.body, "model": self.members[0].served_name}

    def _single(self, plan: Plan) -> Body:
        """One candidate needs no vote, so nothing holds its words back: the upstream's own stream is relayed."""
        options = self.chat.body.get("stream_options")
        told = {} if options is None else {"stream_options": options}
        return over(plan.members[0].body, {"seed": plan.seed, **told})

    @asynccontextmanager
    async def _relay(self, body: Body, headers: Mapping[str, str], deadline: Deadline) -> AsyncIterator[Streamed]:
        with self.observer.call(self.members[0]) as call:
            stream = self.members[0].upstream.stream(body, self.request_id)
            # Only while it begins: who reads the stream may be another task.
            with applied(self.front.mark), traced(call.traceparent), deadline.held():
                chunks = await stream.__aenter__()
            async with Entered(stream), aclosing(relayed(chunks, deadline.held())) as whole:
                yield Streamed(dict(headers), whole)

    @asynccontextmanager
    async def _vote(self, plan: Plan, place: Place, deadline: Deadline) -> AsyncIterator[Streamed]:
        listener = Listener(plan, self.chat.its)
        async with _running(self._sample(plan, place, deadline, listener)) as vote:
            async with _running(listener.has_begun.wait()) as first:
                await asyncio.wait({vote, first}, timeout=STREAM_BEGINS_S, return_when=asyncio.FIRST_COMPLETED)
            if vote.done():
                await vote  # raises what it failed with
            async with aclosing(self._events(plan, vote, listener)) as events:
                yield Streamed(headers_of(plan), events)

    def _sample(
        self, plan: Plan, place: Place, deadline: Deadline, audience: Audience | None = None
    ) -> Coroutine[Any, Any, Outcome]:
        return sample(
            plan,
            self.request_id,
            audience,
            place=place,
            deadline=deadline,
            observer=self.observer,
            comparer=self.comparer,
        )

    async def _events(
        self, plan: Plan, vote: "asyncio.Task[Outcome]", listener: Listener
    ) -> AsyncGenerator[bytes, None]:
        created = int(time.time())
        yield role_event(self._completion_id, created, plan.model)
        head = {"id": self._completion_id, "created": created, "model": plan.model}
        async with aclosing(listener.events(vote, head, HEARTBEAT_S)) as news:
            async for told in news:
                yield told
        outcome = await vote
        completion = listener.untold(self._completion(outcome) | head, outcome)
        events = completion_events(completion, include_usage=self.chat.wants_usage)
        for number, event in enumerate(events, start=1):
            yield event
            if number % EVENTS_A_TURN == 0:
                # Nothing else need wait here: a client that reads fast enough takes a long text in one turn.
                await asyncio.sleep(0)
        yield DONE

    def _completion(self, outcome: Outcome) -> dict[str, Any]:
        self.on_outcome(outcome)
        return completion_of(
            outcome,
            completion_id=self._completion_id,
            created=int(time.time()),
            with_candidates=self.chat.its.candidates,
        )

    @property
    def _completion_id(self) -> str:
        return f"chatcmpl-{self.request_id}"


def _require_rights(its: ItsRequest, rights: frozenset[str]) -> None:
    for right in ("explain", "candidates"):
        if getattr(its, right) and right not in rights:
            raise NotPermitted(f"{right} is not among this key's rights", param=f"its.{right}")


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that never outlives the block, however it is left: the client may go at any await."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would report what nobody waits for any more
