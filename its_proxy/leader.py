"""What a voted stream tells while its vote is still held: the first candidate's thoughts as they come
(`its: {"stream": "leader"}`), and every candidate as it arrives (`its: {"candidates": true}`).

    listener = Listener(plan, chat.its)
    vote = asyncio.ensure_future(sample(plan, request_id, listener))
    async for event in listener.events(vote, head, heartbeat_s=10.0): ...
    reply = listener.untold(completion_of(await vote), await vote)

The answer stays back until the vote is decided. When another candidate is the reply, a line in the thoughts says so.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from its_proxy.outcome import Candidate, Outcome
from its_proxy.plan import Plan
from its_proxy.protocol.its import VERSION, ItsProgress, ItsRequest
from its_proxy.protocol.sse import HEARTBEAT, delta_event
from its_proxy.reply import candidate_report
from its_proxy.voting.tally import Ballot, majority_vote

THOUGHTS = ("reasoning", "reasoning_content")
"""How servers spell the field; where one uses both, so does the stream."""
ANOTHER = "\n\n[its-proxy: the reply is another candidate's, and follows]\n\n"


class Listener:
    """Hears one query's candidates, and keeps what it heard until the stream takes it."""

    def __init__(self, plan: Plan, its: ItsRequest) -> None:
        self.hears_first = its.stream == "leader"
        self.has_begun = asyncio.Event()
        """From now on there is something to stream."""
        self._plan = plan
        self._tells_candidates = its.candidates
        self._news = asyncio.Event()
        self._thoughts: dict[str, list[str]] = {}
        self._told: dict[str, list[str]] = {}
        self._received: list[Candidate] = []
        self._progress: list[ItsProgress] = []

    # -- what sampling says --------------------------------------------------------------------------------------------

    def heard(self, delta: Mapping[str, Any]) -> None:
        """A piece of the first candidate."""
        pieces = {field: text for field in THOUGHTS if isinstance(text := delta.get(field), str) and text}
        for field, text in pieces.items():
            self._thoughts.setdefault(field, []).append(text)
        if pieces:
            self.has_begun.set()
            self._news.set()

    def received(self, candidate: Candidate, n_started: int) -> None:
        """A candidate is here, or lost."""
        if candidate.state != "lost":
            self.has_begun.set()
        if self._tells_candidates:
            self._received.append(candidate)
            self._progress.append(self._progress_with(candidate, n_started))
            self._news.set()

    # -- what the stream takes -----------------------------------------------------------------------------------------

    async def events(
        self, vote: "asyncio.Task[Outcome]", head: Mapping[str, Any], heartbeat_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Whatever there is to tell, as soon as there is; a comment where there was nothing for so long. Ends with
        the vote, however that ended."""
        vote.add_done_callback(lambda _: self._news.set())
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self._news.wait()
            except TimeoutError:
                yield HEARTBEAT
            self._news.clear()
            is_over = vote.done()
            for event in self._take(head):
                yield event
            if is_over:
                return

    def untold(self, completion: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        """The reply without the thoughts that were streamed already; of another candidate behind the line about it."""
        if not self._told:
            return completion
        first, *others = completion["choices"]
        message = dict(first["message"])
        for field, told in self._told.items():
            thoughts = message.get(field)
            thoughts = thoughts if isinstance(thoughts, str) else ""
            is_first = outcome.winner.index == 0
            message[field] = thoughts.removeprefix("".join(told)) if is_first else ANOTHER + thoughts
        return {**completion, "choices": [{**first, "message": message}, *others]}

    def _take(self, head: Mapping[str, Any]) -> Iterator[bytes]:
        thoughts, self._thoughts = self._thoughts, {}
        progress, self._progress = self._progress, []
        if thoughts:
            delta = {field: "".join(pieces) for field, pieces in thoughts.items()}
            for field, text in delta.items():
                self._told.setdefault(field, []).append(text)
            yield delta_event(head, delta)
        for step in progress:
            its = {"version": VERSION, "progress": step}
            yield delta_event(head, {}, its=its)

    def _progress_with(self, candidate: Candidate, n_started: int) -> ItsProgress:
        ballots = [Ballot(c.index, c.answer, c.weight) for c in self._received if c.answer is not None]
        abstained = sum(c.weight for c in self._received if c.state == "no_answer")
        vote = majority_vote(ballots, abstained, self._plan.rules.min_agreement)
        return ItsProgress(
            n=self._plan.n,
            n_started=n_started,
            answer=vote.answer.text if vote.answer is not None else None,
            votes=dict(vote.votes),
            agreement=round(vote.agreement, 6),
            candidate=candidate_report(self._plan, candidate),
        )
