"""Candidates by a script, and the votes that they end in."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from its_proxy.codesign.errors import UpstreamBusy, UpstreamError, UpstreamRejected
from its_proxy.equivalence import Comparer
from its_proxy.handshake import NO_MANIFEST
from its_proxy.outcome import Outcome
from its_proxy.plan import Member, Plan, PlannedMember, VoteRules
from its_proxy.sampling import sample
from its_proxy.upstreams.base import Body, Completion, RawReply
from its_proxy.voting.json_answers import IsValid


def said(text: str | None, finish_reason: str | None = "stop") -> Completion:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


NO_ANSWER, CUT_OFF = said("let me think"), said("\\boxed{1}", "length")
BUSY = UpstreamBusy("busy", retry_after_s=7.0)
BROKEN = UpstreamError("broke")


def box(value: Any) -> Completion:
    return said(f"so \\boxed{{{value}}}")


Line = Completion | BaseException
"""What a candidate of that index comes to."""


@dataclass
class Scripted:
    """Candidate k says `lines[k]` after `turns[k]` turns of the event loop; None: never."""

    lines: Sequence[Line]
    turns: Sequence[int | None] = ()
    name: str = "scripted"
    asked: list[tuple[str, Body]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    async def complete(self, body: Body, request_id: str) -> Completion:
        self.asked.append((request_id, body))
        index = int(request_id.rpartition("-")[2])
        turns = self.turns[index] if index < len(self.turns) else 0
        try:
            if turns is None:
                await asyncio.Event().wait()
            for _ in range(turns or 0):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.add(request_id)
            raise
        line = self.lines[index]
        if isinstance(line, BaseException):
            raise line
        return line

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        raise UpstreamRejected("no streams here", status=400)
        yield

    async def models(self) -> Sequence[Mapping[str, Any]]:
        return []

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        raise UpstreamRejected("no other routes here", status=404)

    async def close(self) -> None:
        pass


class Always:
    state = NO_MANIFEST.state


def plan_of(
    upstream: Scripted,
    *,
    weights: Sequence[int] = (1,),
    n_choices: int = 1,
    is_vote: bool = True,
    starts_with_one: bool = False,
    gives_up: bool = False,
    n_first: int | None = None,
    is_valid: IsValid | None = None,
    **rules: Any,
) -> Plan:
    """As many candidates as the upstream has lines, by members with these weights."""
    n = len(upstream.lines)
    members = [Member(f"m{k}", upstream, "m", None, Always(), weight) for k, weight in enumerate(weights)]
    return Plan(
        model="m",
        members=tuple(PlannedMember(member, None, {"model": "m"}, n, False) for member in members),
        rules=VoteRules(**{"mode": "always", "n": n, "deadline_s": 5.0, **rules}),
        n=n,
        n_choices=n_choices,
        seed=100,
        sampling={},
        is_vote=is_vote,
        starts_with_one=starts_with_one,
        gives_up=gives_up,
        n_first=n_first,
        is_valid=is_valid,
    )


async def sampled(
    lines: Sequence[Line], turns: Sequence[int | None] = (), comparer: Comparer | None = None, **options: Any
) -> Outcome:
    return await sample(plan_of(Scripted(lines, turns), **options), "req", comparer=comparer)


def states(outcome: Outcome) -> list[str]:
    return [candidate.state for candidate in outcome.candidates]


EXACT_FORMS = [box(1), box(1), box(1), box(2), box(2), box("\\frac12")]
OPEN_FORMS = [box("0.333..."), box("x+1"), box("a,b")]
LINES = st.sampled_from([*EXACT_FORMS, *OPEN_FORMS, NO_ANSWER, CUT_OFF, BUSY, BROKEN])
