"""One query -> candidates -> one vote, over any upstream: one task group, one deadline.

Candidates are separate plain calls with seeds of their own. As soon as the vote cannot change any
more, the others are cancelled, each by closing its own call; when the caller leaves, all of them are.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from time import monotonic
from typing import Any, Literal

from its_proxy.codesign.errors import (
    BadPayload,
    ItsError,
    NoConsensus,
    NoVote,
    QuorumLost,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from its_proxy.plan import Plan
from its_proxy.upstreams.base import Completion
from its_proxy.voting.answers import Answer, AnswerKind, read_answer
from its_proxy.voting.stop import is_decided
from its_proxy.voting.tally import Ballot, Vote, majority_vote

State = Literal["ok", "no_answer", "truncated", "lost", "cancelled"]
Stopped = Literal["decided", "no_answer", "complete", "deadline"]
VALID_FINISHES = ("stop", "tool_calls")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion and what became of it. `finished_s` counts from the start of the query."""

    index: int
    seed: int
    weight: int
    state: State
    completion: Completion | None = None
    answer: Answer | None = None
    error: UpstreamError | None = None
    finished_s: float = 0.0

    @property
    def is_valid(self) -> bool:
        """Finished truthfully: it counts for agreement, whether it votes or abstains."""
        return self.state in ("ok", "no_answer")

    @property
    def finish_reason(self) -> str | None:
        return self.completion["choices"][0].get("finish_reason") if self.completion else None

    @property
    def text(self) -> str | None:
        return self.completion["choices"][0]["message"].get("content") if self.completion else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All candidates by index, the vote over them, and the one to reply with."""

    plan: Plan
    candidates: tuple[Candidate, ...]
    vote: Vote
    winner: Candidate
    stopped: Stopped
    seconds: float

    def in_state(self, *states: State) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.state in states]


async def sample(plan: Plan, request_id: str, on_first: Callable[[], None] | None = None) -> Outcome:
    """Carries out a plan. `on_first` is called once, when the first candidate has been received.

    Raises the upstream's error where no candidate came, and VoteError where the caller insists on a vote.
    """
    query = _Query(plan, request_id, on_first)
    try:
        async with asyncio.timeout(plan.rules.deadline_s):
            stopped = await query.run()
    except TimeoutError:
        stopped = "deadline"
    return _conclude(plan, query.finish(), stopped, query.elapsed())


class _Query:
    """The state of one query in flight."""

    def __init__(self, plan: Plan, request_id: str, on_first: Callable[[], None] | None) -> None:
        self._plan = plan
        self._request_id = request_id
        self._on_first = on_first
        self._started_at = monotonic()
        self._arrivals: asyncio.Queue[Candidate] = asyncio.Queue()
        self._received: dict[int, Candidate] = {}
        self._n_started = 0

    def elapsed(self) -> float:
        return monotonic() - self._started_at

    async def run(self) -> Stopped:
        async with asyncio.TaskGroup() as group:
            tasks = self._start(group, 1 if self._plan.starts_with_one else self._plan.n)
            try:
                while len(self._received) < self._plan.n:
                    await self._receive_arrived()
                    if (stopped := self._stopped()) is not None:
                        return stopped
                    if len(self._received) == self._n_started < self._plan.n:
                        if self._is_refused():
                            break
                        tasks += self._start(group, self._plan.n - self._n_started)
                return "complete"
            finally:
                for task in tasks:
                    task.cancel()

    def finish(self) -> tuple[Candidate, ...]:
        """Every candidate that was started, those that never arrived marked as cancelled (or lost to the deadline)."""
        self._receive_waiting()
        return tuple(
            self._received.get(index) or Candidate(index, self._seed(index), self._weight(index), "cancelled")
            for index in range(self._n_started)
        )

    def _start(self, group: asyncio.TaskGroup, n: int) -> list[asyncio.Task[None]]:
        indexes = range(self._n_started, self._n_started + n)
        self._n_started += n
        return [group.create_task(self._ask(index)) for index in indexes]

    async def _ask(self, index: int) -> None:
        planned = self._plan.member_of(index)
        body = {**planned.body, "seed": self._seed(index)}
        seed, weight = self._seed(index), self._weight(index)
        try:
            completion = await planned.member.upstream.complete(body, f"{self._request_id}-{index}")
            state, answer = read_candidate(completion, self._plan.rules.answer)
        except UpstreamError as error:
            candidate = Candidate(index, seed, weight, "lost", error=error, finished_s=self.elapsed())
        else:
            candidate = Candidate(index, seed, weight, state, completion, answer, finished_s=self.elapsed())
        self._arrivals.put_nowait(candidate)

    def _seed(self, index: int) -> int:
        return self._plan.seed + index

    def _weight(self, index: int) -> int:
        return self._plan.member_of(index).member.weight

    async def _receive_arrived(self) -> None:
        """Waits for a candidate, and takes those with it that came at the same moment: what is here has a vote."""
        self._receive(await self._arrivals.get())
        self._receive_waiting()

    def _receive_waiting(self) -> None:
        while not self._arrivals.empty():
            self._receive(self._arrivals.get_nowait())

    def _receive(self, candidate: Candidate) -> None:
        self._received[candidate.index] = candidate
        if self._on_first is not None and candidate.state != "lost":
            self._on_first()
            self._on_first = None

    def _is_refused(self) -> bool:
        """Whether an upstream refused the request itself: it would refuse the other candidates' alike."""
        return all(isinstance(candidate.error, UpstreamRejected) for candidate in self._received.values())

    def _stopped(self) -> Stopped | None:
        plan = self._plan
        finished = [candidate for candidate in self._received.values() if candidate.state != "lost"]
        if len(finished) < plan.n_choices:
            return None
        if plan.gives_up and all(candidate.answer is None for candidate in finished):
            is_first_alone = plan.starts_with_one and self._n_started == 1
            return "no_answer" if is_first_alone or len(finished) >= 2 else None
        waiting = sum(self._weight(index) for index in range(plan.n) if index not in self._received)
        if not plan.is_vote or not waiting:
            return None
        # Short of the quorum the lost ones count as if they could still vote: the full vote might end without a quorum.
        lost = 0 if _has_quorum(plan, len(finished)) else _weight_of(self._received.values(), "lost")
        abstained = _weight_of(finished, "no_answer")
        is_over = is_decided(plan.rules.stop, _ballots(finished), abstained, waiting + lost, plan.rules.min_agreement)
        return "decided" if is_over else None


def read_candidate(completion: Completion, kind: AnswerKind) -> tuple[State, Answer | None]:
    """What a completion is worth to a vote: only a truthful end makes it eligible. Raises BadPayload."""
    try:
        choice = completion["choices"][0]
        content = choice["message"].get("content")
        finish_reason = choice["finish_reason"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BadPayload("the upstream sent a completion without a choice") from None
    if finish_reason not in VALID_FINISHES:
        return "truncated", None
    answer = read_answer(content, kind) if isinstance(content, str) else None
    return ("ok", answer) if answer is not None else ("no_answer", None)


def _ballots(candidates: Sequence[Candidate]) -> list[Ballot]:
    return [Ballot(c.index, c.answer, c.weight) for c in candidates if c.answer is not None]


def _weight_of(candidates: Iterable[Candidate], state: State) -> int:
    return sum(candidate.weight for candidate in candidates if candidate.state == state)


def _conclude(plan: Plan, candidates: tuple[Candidate, ...], stopped: Stopped, seconds: float) -> Outcome:
    if stopped == "deadline":
        timeout = UpstreamTimeout(f"no reply within the {plan.rules.deadline_s:g} s deadline")
        candidates = tuple(
            Candidate(c.index, c.seed, c.weight, "lost", error=timeout) if c.state == "cancelled" else c
            for c in candidates
        )
    received = [candidate for candidate in candidates if candidate.completion is not None]
    _check_quorum(plan, candidates, len(received), stopped)
    abstained = _weight_of(candidates, "no_answer")
    vote = majority_vote(_ballots(candidates), abstained, plan.rules.min_agreement)
    if plan.is_vote and vote.winner is None and plan.rules.on_no_answer == "error":
        raise NoVote(f"none of {len(received)} candidates holds an answer", hint=f"answer kind: {plan.rules.answer}")
    if plan.is_vote and vote.winner is not None and not vote.consensus and plan.rules.on_no_consensus == "error":
        raise NoConsensus(f"agreement is {vote.agreement:.2f}, below {plan.rules.min_agreement}")
    if plan.is_vote and vote.winner is None:
        stopped = "no_answer"
    winner = received[0] if vote.winner is None else candidates[vote.winner]
    return Outcome(plan, candidates, vote, _prefer_valid(winner, received, vote), stopped, seconds)


def _prefer_valid(winner: Candidate, received: Sequence[Candidate], vote: Vote) -> Candidate:
    """Without a vote the first candidate replies; a whole one rather than one that was cut off."""
    if vote.winner is not None:
        return winner
    return next((candidate for candidate in received if candidate.is_valid), winner)


def _has_quorum(plan: Plan, n_received: int) -> bool:
    """A cut-off candidate counts as received: it tells of the client's own cap, not of a failing upstream."""
    return n_received > 0 and n_received >= ceil(plan.rules.quorum * plan.n)


def _check_quorum(plan: Plan, candidates: Sequence[Candidate], n_received: int, stopped: Stopped) -> None:
    """Too many lost candidates are an error, unless the vote is the same whatever they would have said."""
    lost = [candidate.error for candidate in candidates if candidate.error is not None]
    if not lost or stopped == "no_answer" or _has_quorum(plan, n_received):
        return
    abstained, lost_weight = _weight_of(candidates, "no_answer"), _weight_of(candidates, "lost")
    if plan.is_vote and is_decided("exact", _ballots(candidates), abstained, lost_weight, plan.rules.min_agreement):
        return
    raise _loss(lost, n_received=n_received, n=plan.n)


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


def generated_tokens(completion: Completion) -> int | None:
    """What the upstream says it generated; None where it says nothing."""
    usage: Any = completion.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None
