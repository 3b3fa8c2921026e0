"""One query -> candidates -> one vote, over any upstream: one task group, one deadline.

Candidates are separate calls with seeds of their own. A first wave may be smaller than n: then more are
started when those that run cannot decide the vote any more; where answers disagree, as many again. As soon as the vote
cannot change, the others are cancelled, each by closing its own call; when the caller leaves, all of them are.
Answers that are written differently are compared before they are counted, as far as the deadline allows.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from time import monotonic
from typing import Any, Protocol

from its_proxy.admission import ANYWHERE, Place
from its_proxy.alone import ask_alone
from its_proxy.codesign.errors import (
    ItsError,
    NoConsensus,
    NoVote,
    QuorumLost,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from its_proxy.deadline import Deadline
from its_proxy.equivalence.comparisons import NO_WORKERS, OFF, Comparer, Comparisons
from its_proxy.observe import NOBODY, Observer
from its_proxy.outcome import Candidate, Outcome, State, Stopped, read_candidate
from its_proxy.plan import Plan, PlannedMember
from its_proxy.streamed import Spent, complete_streamed
from its_proxy.upstreams.base import APPLIED, Completion, applied, traced
from its_proxy.upstreams.retries import one_query
from its_proxy.upstreams.written import over
from its_proxy.voting.stop import is_decided, n_to_start
from its_proxy.voting.tally import Ballot, Vote, majority_vote


class Audience(Protocol):
    """Who hears of a vote while it is held; it holds nobody up and raises nothing."""

    @property
    def hears_first(self) -> bool:
        """Whether the first candidate is asked as a stream, and `heard` told its pieces."""
        ...

    def heard(self, delta: Mapping[str, Any]) -> None: ...

    def received(self, candidate: Candidate, n_started: int) -> None: ...


async def sample(
    plan: Plan,
    request_id: str,
    audience: Audience | None = None,
    *,
    place: Place = ANYWHERE,
    deadline: Deadline | None = None,
    observer: Observer = NOBODY,
    comparer: Comparer | None = None,
) -> Outcome:
    """Carries out a plan. `audience`: who hears of it meanwhile.

    `place`: the room that it has; candidates beyond it wait. `deadline`: one that counts already, as in a queue.

    Raises the upstream's error where no candidate came, and VoteError where the caller insists on a vote.
    """
    deadline = deadline or Deadline(plan.rules.deadline_s)
    if plan.n == 1 and not plan.is_vote and audience is None:
        return await ask_alone(plan, request_id, deadline=deadline, observer=observer)
    query = _Query(plan, request_id, audience, place, observer)
    try:
        with deadline.held(), one_query(), applied(_common_pair(plan)):
            stopped = await query.run()
    except UpstreamTimeout:
        stopped = "deadline"
    candidates, seconds = query.finish(), query.elapsed()
    comparisons = NO_WORKERS
    if plan.is_vote:
        comparisons = await _compare(plan, candidates, comparer, max(0.0, deadline.left_s))
    return _conclude(plan, candidates, stopped, seconds, comparisons)


def _common_pair(plan: Plan) -> str | None:
    """Said once for all candidates, which inherit it, it costs a fraction; each call says its own where they differ."""
    checkpoint = plan.members[0].member.checkpoint
    return checkpoint.pair_id if checkpoint is not None and len(plan.members) == 1 else APPLIED.get()


async def _compare(
    plan: Plan, candidates: Sequence[Candidate], comparer: Comparer | None, within_s: float
) -> Comparisons:
    """All that were received, whatever stopped the vote: so classes and agreement depend on nothing else."""
    if plan.rules.equivalence == "off":
        return OFF
    if comparer is None:
        return NO_WORKERS
    return await comparer.compare_all([ballot.answer for ballot in _ballots(candidates)], within_s)


class _Query:
    """The state of one query in flight."""

    def __init__(
        self, plan: Plan, request_id: str, audience: Audience | None, place: Place, observer: Observer
    ) -> None:
        self._plan = plan
        self._request_id = request_id
        self._audience = audience
        self._place = place
        self._observer = observer
        self._started_at = monotonic()
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._arrived: list[Candidate] = []
        self._has_arrived = asyncio.Event()
        self._defect: Exception | None = None
        self._received: dict[int, Candidate] = {}
        self._has_completion = False
        self._n_started = 0
        self._begun_s: dict[int, float] = {}
        self._spent: dict[int, Spent] = {}

    def elapsed(self) -> float:
        return monotonic() - self._started_at

    async def run(self) -> Stopped:
        self._start(1 if self._plan.starts_with_one else self._plan.wave)
        try:
            while len(self._received) < self._plan.n:
                await self._receive_arrived()
                if (stopped := self._stopped()) is not None:
                    return stopped
                if self._is_refused():
                    if len(self._received) == self._n_started:
                        break
                    continue
                if n_more := self._n_more():
                    self._start(n_more)
            return "complete"
        finally:
            await self._end()

    def finish(self) -> tuple[Candidate, ...]:
        """Every candidate that was asked, those that never arrived marked as cancelled (or lost to the deadline). They
        get their slots in turn, so that those which still waited for one are the last."""
        self._receive_waiting()
        received = self._received
        return tuple([received.get(index) or self._cut_off(index) for index in range(len(self._begun_s))])

    def _n_more(self) -> int:
        """How many candidates to start now: the whole wave behind a first candidate, then what the vote needs."""
        plan, wave = self._plan, self._plan.wave
        if self._n_started < wave:
            # The first candidate alone holds an answer, or was lost: either way the vote begins.
            return wave - self._n_started
        if self._n_started == plan.n:
            return 0
        finished = self._finished()
        n_running = self._n_started - len(self._received)
        expected = len(finished) + n_running
        ballots = _ballots(finished)
        needed = n_to_start(
            plan.rules.stop,
            ballots,
            _weight_of(finished, "no_answer"),
            [self._weight(index) for index in range(self._n_started) if index not in self._received],
            [self._weight(index) for index in range(self._n_started, plan.n)],
            plan.rules.min_agreement,
        )
        if needed and len({ballot.answer.form for ballot in ballots}) > 1:
            # Every top-up lasts as long as a candidate, so there should be few: docs/cheaper-votes.md has the figures.
            needed = max(needed, self._n_started)
        has_lost = len(finished) < len(self._received)
        needed = max(needed, plan.n_choices - expected, _quorum(plan) - expected if has_lost else 0)
        if n_running == 0:
            needed = max(needed, 1)  # undecided with nothing on its way
        return min(needed, plan.n - self._n_started)

    # Tasks of its own: a TaskGroup's bookkeeping was a twentieth of a vote.

    def _start(self, n: int) -> None:
        for index in range(self._n_started, self._n_started + n):
            self._tasks.append(self._loop.create_task(self._bring(index)))
        self._n_started += n

    async def _bring(self, index: int) -> None:
        try:
            candidate = await self._ask(index)
        except Exception as defect:  # no upstream's: those are candidates that were lost
            self._defect = defect
        else:
            self._arrived.append(candidate)
        self._has_arrived.set()

    async def _end(self) -> None:
        """Nothing runs on, however often the caller is cancelled meanwhile. Raises what none of them should have."""
        running = [task for task in self._tasks if not task.done()]
        for task in running:
            task.cancel()
        is_cancelled = False
        while running:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError:
                is_cancelled = True
            running = [task for task in running if not task.done()]
        if is_cancelled:
            raise asyncio.CancelledError
        if self._defect is not None:
            raise self._defect

    async def _ask(self, index: int) -> Candidate:
        planned = self._plan.member_of(index)
        async with self._place.candidate():
            self._begun_s[index] = monotonic() - self._started_at
            if self._observer is NOBODY:
                return await self._tried(index, planned)
            with self._observer.call(planned.member, index) as call, traced(call.traceparent):
                candidate = await self._tried(index, planned)
                call.told(candidate.state, candidate.completion, candidate.error)
            return candidate

    async def _tried(self, index: int, planned: PlannedMember) -> Candidate:
        try:
            return self._heard(index, planned, await self._complete(index, planned))
        except UpstreamError as error:
            # Its frames hold all that had been read of the reply, and the vote may last long yet.
            lost = error.with_traceback(None)
            return replace(self._cut_off(index), state="lost", error=lost, finished_s=self.elapsed())

    def _heard(self, index: int, planned: PlannedMember, completion: Completion) -> Candidate:
        """Raises BadPayload."""
        state, answer = read_candidate(completion, self._plan.rules.answer, self._plan.is_valid)
        weight, error, finished_s = planned.member.weight, None, monotonic() - self._started_at
        first_token_s = self._first_token_s(index) if self._spent else None
        # By position: Python builds a dict for what has a name, and each candidate is made here.
        return Candidate(
            index, self._plan.seed + index, weight, state, completion, answer, error,
            finished_s, self._begun_s[index], first_token_s,
        )  # fmt: skip

    def _complete(self, index: int, planned: PlannedMember) -> Awaitable[Completion]:
        body, request_id = over(planned.body, {"seed": self._plan.seed + index}), f"{self._request_id}-{index}"
        heard = self._audience.heard if self._audience and self._audience.hears_first and index == 0 else None
        if heard is not None or (self._plan.rules.usage_policy == "exact" and self._plan.n > 1):
            spent = self._spent.setdefault(index, Spent())
            return complete_streamed(planned.member.upstream, body, request_id, spent, heard)
        return planned.member.upstream.complete(body, request_id)

    def _cut_off(self, index: int) -> Candidate:
        """A candidate of which no completion has been received."""
        return Candidate(
            index,
            self._plan.seed + index,
            self._weight(index),
            "cancelled",
            started_s=self._begun_s[index],
            first_token_s=self._first_token_s(index),
            spent=self._spent_by(index),
        )

    def _first_token_s(self, index: int) -> float | None:
        spent = self._spent.get(index)
        return None if spent is None or spent.first_token_at is None else spent.first_token_at - self._started_at

    def _spent_by(self, index: int) -> dict[str, Any] | None:
        """The last count. Of a server that counts along, silence means that nothing has been generated yet."""
        spent = self._spent.get(index)
        if spent is None or spent.usage is not None:
            return spent.usage if spent is not None else None
        member = self._plan.member_of(index)
        is_live = any(other.is_live and self._plan.member_of(k) is member for k, other in self._spent.items())
        return {"completion_tokens": 0} if is_live else None

    def _weight(self, index: int) -> int:
        return self._plan.member_of(index).member.weight

    async def _receive_arrived(self) -> None:
        """Waits for a candidate, and takes those with it that came at the same moment: what is here has a vote."""
        await self._has_arrived.wait()
        if self._defect is not None:
            raise self._defect
        self._receive_waiting()

    def _receive_waiting(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._has_arrived.clear()
        for candidate in arrived:
            self._receive(candidate)

    def _receive(self, candidate: Candidate) -> None:
        self._received[candidate.index] = candidate
        self._has_completion = self._has_completion or candidate.completion is not None
        if self._audience is not None:
            self._audience.received(candidate, self._n_started)

    def _finished(self) -> list[Candidate]:
        return [candidate for candidate in self._received.values() if candidate.state != "lost"]

    def _is_refused(self) -> bool:
        """Whether every member's upstream refused the request itself: it would refuse the other candidates' alike."""
        if self._has_completion:
            return False
        n_members = len(self._plan.members)
        n_heard = len({index % n_members for index in self._received})
        is_refusal = all(isinstance(candidate.error, UpstreamRejected) for candidate in self._received.values())
        return is_refusal and n_heard == min(n_members, self._plan.n)

    def _stopped(self) -> Stopped | None:
        plan = self._plan
        finished = self._finished()
        if len(finished) < plan.n_choices:
            return None
        if plan.gives_up and all(candidate.answer is None for candidate in finished):
            is_first_alone = plan.starts_with_one and self._n_started == 1
            return "no_answer" if is_first_alone or len(finished) >= 2 else None
        if not plan.is_vote or plan.rules.stop == "none" or len(self._received) == plan.n:
            return None
        waiting = sum(self._weight(index) for index in range(plan.n) if index not in self._received)
        # Short of the quorum the lost ones count as if they could still vote: the full vote might end without a quorum.
        lost = 0 if _has_quorum(plan, len(finished)) else _weight_of(self._received.values(), "lost")
        ballots, abstained = _ballots(finished), _weight_of(finished, "no_answer")
        is_over = is_decided(plan.rules.stop, ballots, abstained, waiting + lost, plan.rules.min_agreement)
        # Where a rule is content with less than certainty, the missing quorum is not: it is judged exactly at the end.
        is_over = is_over and is_decided("exact", ballots, abstained, lost, plan.rules.min_agreement)
        return "decided" if is_over else None


def _ballots(candidates: Sequence[Candidate]) -> list[Ballot]:
    return [Ballot(c.index, c.answer, c.weight) for c in candidates if c.answer is not None]


def _weight_of(candidates: Iterable[Candidate], state: State) -> int:
    return sum([candidate.weight for candidate in candidates if candidate.state == state])


def _conclude(
    plan: Plan, candidates: tuple[Candidate, ...], stopped: Stopped, seconds: float, comparisons: Comparisons
) -> Outcome:
    if stopped == "deadline":
        timeout = UpstreamTimeout(f"no reply within the {plan.rules.deadline_s:g} s deadline")
        candidates = tuple(
            replace(candidate, state="lost", error=timeout) if candidate.state == "cancelled" else candidate
            for candidate in candidates
        )
    received = [candidate for candidate in candidates if candidate.completion is not None]
    _check_quorum(plan, candidates, len(received), stopped)
    abstained = _weight_of(candidates, "no_answer")
    vote = majority_vote(_ballots(candidates), abstained, plan.rules.min_agreement, comparisons.equivalent)
    if plan.is_vote and vote.winner is None and plan.rules.on_no_answer == "error":
        raise NoVote(f"none of {len(received)} candidates holds an answer", hint=f"answer kind: {plan.rules.answer}")
    if plan.is_vote and vote.winner is not None and not vote.consensus and plan.rules.on_no_consensus == "error":
        raise NoConsensus(f"agreement is {vote.agreement:.2f}, below {plan.rules.min_agreement}")
    if plan.is_vote and vote.winner is None:
        stopped = "no_answer"
    winner = received[0] if vote.winner is None else candidates[vote.winner]
    return Outcome(plan, candidates, vote, _prefer_valid(winner, received, vote), stopped, seconds, comparisons)


def _prefer_valid(winner: Candidate, received: Sequence[Candidate], vote: Vote) -> Candidate:
    """Without a vote the first candidate replies; a whole one rather than one that was cut off."""
    if vote.winner is not None:
        return winner
    return next((candidate for candidate in received if candidate.is_valid), winner)


def _has_quorum(plan: Plan, n_received: int) -> bool:
    """A cut-off candidate counts as received: it tells of the client's own cap, not of a failing upstream."""
    return n_received > 0 and n_received >= _quorum(plan)


def _quorum(plan: Plan) -> int:
    return ceil(plan.rules.quorum * plan.n)


def _check_quorum(plan: Plan, candidates: Sequence[Candidate], n_received: int, stopped: Stopped) -> None:
    """Too many lost candidates are an error, unless the vote is the same whatever they would have said."""
    lost = [candidate.error for candidate in candidates if candidate.error is not None]
    if not lost or stopped == "no_answer" or _has_quorum(plan, n_received):
        return
    abstained, lost_weight = _weight_of(candidates, "no_answer"), _weight_of(candidates, "lost")
    if plan.is_vote and is_decided("exact", _ballots(candidates), abstained, lost_weight, plan.rules.min_agreement):
        return
    loss = _loss(lost, n_received=n_received, n=plan.n)
    raise loss from (lost[0] if isinstance(loss, QuorumLost) else loss.__cause__)


def _loss(lost: Sequence[UpstreamError], *, n_received: int, n: int) -> ItsError:
    """One error for many: the upstream's own verdict where all agree, else what to do about it."""
    statuses = {error.status if isinstance(error, UpstreamRejected) else None for error in lost}
    if n_received == 0 and (n == 1 or (len(statuses) == 1 and None not in statuses)):
        return lost[0]
    message = f"{n_received} of {n} candidates were received, below the quorum"
    busy = [error for error in lost if isinstance(error, UpstreamBusy)]
    if len(busy) == len(lost):
        hints = [error.retry_after_s for error in busy if error.retry_after_s]
        # 429 is about the caller, 503 about the server; min: one refusal on the caller's account is enough.
        return QuorumLost(message, status=min(error.status for error in busy), retry_after_s=max(hints, default=None))
    status = 504 if any(isinstance(error, UpstreamTimeout) for error in lost) else 502
    return QuorumLost(f"{message}: {lost[0].message}", status=status)
