"""The one candidate of a query that no vote is held on: nothing runs beside it, so it needs neither a task nor a tally.

Most requests are such ones: they get here what `sampling.py` would give them, in a third of the steps.
"""

from time import monotonic

from its_proxy.codesign.errors import UpstreamError
from its_proxy.deadline import Deadline
from its_proxy.observe import NOBODY, Observer
from its_proxy.outcome import Candidate, Outcome, read_candidate
from its_proxy.plan import Plan
from its_proxy.upstreams.base import Body, Completion, traced
from its_proxy.upstreams.written import over
from its_proxy.voting.tally import Ballot, majority_vote


async def ask_alone(plan: Plan, request_id: str, *, deadline: Deadline, observer: Observer) -> Outcome:
    """In the place that the query has. Raises UpstreamError: whatever it is that the candidate was lost by."""
    body, call_id = over(plan.members[0].body, {"seed": plan.seed}), f"{request_id}-0"
    began = monotonic()
    with deadline.held():
        if observer is NOBODY:
            candidate = _read(plan, await plan.members[0].member.upstream.complete(body, call_id), began)
        else:
            candidate = await _watched(plan, body, call_id, began, observer)
    ballots = [] if candidate.answer is None else [Ballot(0, candidate.answer, candidate.weight)]
    vote = majority_vote(ballots, min_agreement=plan.rules.min_agreement)
    return Outcome(plan, (candidate,), vote, candidate, "complete", monotonic() - began)


async def _watched(plan: Plan, body: Body, call_id: str, began: float, observer: Observer) -> Candidate:
    member = plan.members[0].member
    with observer.call(member, 0) as call, traced(call.traceparent):
        try:
            candidate = _read(plan, await member.upstream.complete(body, call_id), began)
        except UpstreamError as error:
            call.told("lost", None, error)
            raise
        call.told(candidate.state, candidate.completion)
    return candidate


def _read(plan: Plan, completion: Completion, began: float) -> Candidate:
    """Raises BadPayload."""
    state, answer = read_candidate(completion, plan.rules.answer)
    weight = plan.members[0].member.weight
    return Candidate(0, plan.seed, weight, state, completion, answer, finished_s=monotonic() - began)
