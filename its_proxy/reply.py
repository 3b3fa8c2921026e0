"""An outcome -> the chat completion that the client gets: the winner untouched, the vote told, the cost summed."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from its_proxy.outcome import Candidate, Outcome, generated_tokens
from its_proxy.plan import Plan, PlannedMember
from its_proxy.protocol.its import Cancelled, CandidateReport, EquivalenceReport, ItsReply, MemberReport
from its_proxy.upstreams.base import Completion

_NOT_WASTED = frozenset(("ok", "no_answer"))
_ABSTAINED = ("no_answer", "truncated")


def completion_of(outcome: Outcome, *, completion_id: str, created: int, with_candidates: bool) -> dict[str, Any]:
    """`choices[0]` is the winning candidate's choice as it came; only its index is ours."""
    assert outcome.winner.completion is not None
    return {
        **outcome.winner.completion,
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": outcome.plan.model,
        "choices": _choices(outcome),
        "usage": _usage(outcome) if "cancelled" in outcome.states else outcome.usage,
        "its": report(outcome, with_candidates=with_candidates),
    }


def report(outcome: Outcome, *, with_candidates: bool = False) -> ItsReply:
    """The `its` object of a reply."""
    plan, vote, members, answer = outcome.plan, outcome.vote, outcome.plan.members, outcome.vote.answer
    is_ensemble = len(members) > 1
    alone = members[0]
    # A literal: called, the class would make the same twice.
    return {
        "version": 1,
        "strategy": None if is_ensemble else alone.strategy,
        "pair_id": None if is_ensemble else _pair_id(alone),
        "handshake": None if is_ensemble else alone.member.handshake.state,
        "target": None if is_ensemble else alone.member.upstream.name,
        "n": plan.n,
        "n_requested": plan.n_requested,
        "n_started": len(outcome.candidates),
        "answer": answer.text if answer is not None else None,
        "answer_kind": plan.rules.answer,
        "agreement": round(vote.agreement, 6),
        "votes": vote.votes,
        "abstained": {state: n for state, n in outcome.states.items() if state in _ABSTAINED},
        "lost": outcome.states.get("lost", 0),
        "stop": plan.rules.stop if plan.is_vote else None,
        "stopped": outcome.stopped,
        "tie": vote.is_tie,
        "consensus": vote.consensus,
        "seed": plan.seed,
        "sampling": dict(plan.sampling),
        "cancelled": _cancelled(outcome),
        "equivalence": _equivalence(outcome) if plan.is_vote else None,
        "usage_winner": _usage_of(outcome.winner),
        "forced": plan.is_forced,
        "degraded": ", ".join(outcome.degradations) or None,
        "members": [_member_report(outcome, planned) for planned in members] if is_ensemble else None,
        "candidates": [candidate_report(plan, c) for c in outcome.candidates] if with_candidates else None,
    }


def headers_of(plan: Plan, outcome: Outcome | None = None) -> dict[str, str]:
    """What a plain reply's headers tell, for clients that drop unknown fields; without an outcome, of a stream."""
    pairs = [pair[:16] for planned in plan.members if (pair := _pair_id(planned))]
    headers = {"x-its-pair": ",".join(pairs)} if pairs else {}
    if outcome is None:
        if plan.reservations:
            headers["x-its-degraded"] = ", ".join(plan.reservations)
    else:
        states = outcome.states
        valid = states.get("ok", 0) + states.get("no_answer", 0)
        received = valid + states.get("truncated", 0)
        headers["x-its-votes"] = f"{valid}/{received}/{plan.n_requested or plan.n}"
        headers["x-its-agreement"] = f"{outcome.vote.agreement:.4f}"
        if outcome.degradations:
            headers["x-its-degraded"] = quote(", ".join(outcome.degradations), safe=" ,")[:200]
    return headers


def explanation(plan: Plan) -> dict[str, Any]:
    """The plan as a client may see it: what would be sent, and at most how much, without sending it."""
    rules = plan.rules
    return {
        "object": "its.plan",
        "model": plan.model,
        "n": plan.n,
        "starts_with": 1 if plan.starts_with_one else plan.wave,
        "vote": plan.is_vote,
        "stop": rules.stop,
        "answer": rules.answer,
        "min_agreement": rules.min_agreement,
        "seeds": [plan.seed + index for index in range(plan.n)],
        "sampling": dict(plan.sampling),
        "forced": plan.is_forced,
        "members": [_member_plan(planned) for planned in plan.members],
    }


def _member_plan(planned: PlannedMember) -> dict[str, Any]:
    member = planned.member
    body = {key: value for key, value in planned.body.items() if key != "messages"}
    return {
        "model": member.name,
        "strategy": planned.strategy,
        "pair_id": _pair_id(planned),
        "handshake": member.handshake.state,
        "target": member.upstream.name,
        "n": planned.n,
        "forced": planned.is_forced,
        "messages": planned.body["messages"],
        "body": body,
    }


def _choices(outcome: Outcome) -> list[dict[str, Any]]:
    """The winner first; where the client asked for more, the other voters by weight of their class, then the rest."""
    winner = outcome.winner
    if outcome.plan.n_choices == 1:
        return [_choice(winner.completion, 0)] if winner.completion is not None else []
    others = [candidate for candidate in _received(outcome) if candidate is not winner]
    chosen = [winner, *sorted(others, key=lambda candidate: _rank(outcome, candidate))[: outcome.plan.n_choices - 1]]
    return [_choice(candidate.completion, index) for index, candidate in enumerate(chosen) if candidate.completion]


def _choice(completion: Completion, index: int) -> dict[str, Any]:
    """The upstream's choice; what OpenAI's clients stumble over when it is missing is filled in."""
    choice = completion["choices"][0]
    message = {"role": "assistant", "content": None, **choice["message"]}
    return {"logprobs": None, **choice, "index": index, "message": message}


def _rank(outcome: Outcome, candidate: Candidate) -> tuple[int, int]:
    classes = outcome.vote.classes
    weights = [answers.weight for answers in classes if candidate.index in [ballot.index for ballot in answers.ballots]]
    return (-weights[0] if weights else 1, candidate.index)


def _received(outcome: Outcome) -> list[Candidate]:
    return [candidate for candidate in outcome.candidates if candidate.completion is not None]


def _usage(outcome: Outcome) -> dict[str, Any]:
    """The sum of what upstreams reported, of what they had counted of calls without a completion, and the prompts
    of cancelled candidates, which were read all the same."""
    uncounted = _prompt_tokens(outcome, [c for c in outcome.in_state("cancelled") if not _has_prompt_count(c)])
    total = dict(outcome.usage)
    total["prompt_tokens"] += uncounted
    total["total_tokens"] += uncounted
    return total


def _usage_of(candidate: Candidate) -> dict[str, Any] | None:
    usage = candidate.completion.get("usage") if candidate.completion is not None else None
    return usage if isinstance(usage, dict) else None


def _tokens(usage: Mapping[str, Any], field: str) -> int:
    tokens = usage.get(field)
    return tokens if isinstance(tokens, int) else 0


def _has_prompt_count(candidate: Candidate) -> bool:
    return candidate.spent is not None and "prompt_tokens" in candidate.spent


def _prompt_tokens(outcome: Outcome, candidates: Sequence[Candidate]) -> int:
    """A member's candidates share one prompt, so one count tells the length of the others' prompts."""
    if not candidates:
        return 0
    n_members = len(outcome.plan.members)
    prompt_tokens: dict[int, int] = {}
    for candidate in outcome.candidates:
        if "prompt_tokens" in candidate.usage:
            prompt_tokens[candidate.index % n_members] = _tokens(candidate.usage, "prompt_tokens")
    return sum(prompt_tokens.get(candidate.index % n_members, 0) for candidate in candidates)


def wasted_tokens(outcome: Outcome) -> int:
    """Generated for candidates that neither voted nor replied: as counted, of cancelled ones else as estimated."""
    if outcome.states.keys() <= _NOT_WASTED:
        return 0
    cut_off = [c for c in outcome.in_state("truncated", "lost") if c is not outcome.winner]
    told = [generated_tokens({"usage": c.usage}) or 0 for c in cut_off]
    cancelled = [
        _estimate(outcome, c) if c.spent is None else generated_tokens({"usage": c.spent}) or 0
        for c in outcome.in_state("cancelled")
    ]
    return sum(told) + sum(cancelled)


def _cancelled(outcome: Outcome) -> Cancelled:
    is_exact = outcome.plan.rules.usage_policy == "exact"
    if "cancelled" not in outcome.states:
        nothing = 0 if is_exact else None
        return {"candidates": 0, "prompt_tokens": 0, "completion_tokens_estimated": 0, "completion_tokens": nothing}
    cancelled = outcome.in_state("cancelled")
    counted = [_tokens(candidate.spent, "completion_tokens") for candidate in cancelled if candidate.spent is not None]
    is_counted = is_exact and len(counted) == len(cancelled)
    return Cancelled(
        candidates=len(cancelled),
        prompt_tokens=_prompt_tokens(outcome, cancelled),
        completion_tokens_estimated=sum(_estimate(outcome, candidate) for candidate in cancelled),
        completion_tokens=sum(counted) if is_counted else None,
    )


def _estimate(outcome: Outcome, cancelled: Candidate) -> int:
    """How many tokens a closed call had generated, told from the finished one that ran for the most similar time.

    Candidates that start together generate side by side, a token a step, after the same wait and the same
    prefill. So the one that ran for as long has generated as much; a mean pace over all would be too low, for
    in short candidates the wait and the prefill weigh more. Members may run at different speeds, so the
    cancelled one's own member is asked first.
    """
    n_members = len(outcome.plan.members)
    ran_s = outcome.seconds - cancelled.started_s
    known = [
        (candidate.index % n_members != cancelled.index % n_members, abs(lasted_s - ran_s), tokens / lasted_s)
        for candidate in _received(outcome)
        if (lasted_s := candidate.lasted_s) > 0 and (tokens := generated_tokens(candidate.completion or {})) is not None
    ]
    return round(ran_s * min(known)[2]) if known else 0


def _equivalence(outcome: Outcome) -> EquivalenceReport:
    comparisons = outcome.comparisons
    if comparisons.by_form_because is not None:
        return EquivalenceReport(
            by="form", reason=comparisons.by_form_because, pairs=0, equal=0, different=0, undecided={}
        )
    counts = comparisons.counts
    undecided: dict[str, int] = {verdict: n for verdict, n in counts.items() if verdict not in ("equal", "different")}
    return EquivalenceReport(
        by="workers",
        reason=None,
        pairs=sum(counts.values()),
        equal=counts.get("equal", 0),
        different=counts.get("different", 0),
        undecided=undecided,
    )


def _pair_id(planned: PlannedMember) -> str | None:
    return planned.member.checkpoint.pair_id if planned.member.checkpoint is not None else None


def _of_member(plan: Plan, planned: PlannedMember, candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if plan.member_of(candidate.index) is planned]


def _member_report(outcome: Outcome, planned: PlannedMember) -> MemberReport:
    return MemberReport(
        model=planned.member.name,
        strategy=planned.strategy,
        pair_id=_pair_id(planned),
        handshake=planned.member.handshake.state,
        target=planned.member.upstream.name,
        n=planned.n,
        lost=len(_of_member(outcome.plan, planned, outcome.in_state("lost"))),
    )


def candidate_report(plan: Plan, candidate: Candidate) -> CandidateReport:
    """One candidate, for a client that asked to see them."""
    return CandidateReport(
        index=candidate.index,
        seed=candidate.seed,
        member=plan.member_of(candidate.index).member.name,
        weight=candidate.weight,
        state=candidate.state,
        text=_text(candidate.text),
        answer=candidate.answer.text if candidate.answer is not None else None,
        answer_kind=plan.rules.answer,
        finish_reason=_text(candidate.finish_reason),
        completion_tokens=generated_tokens(candidate.completion) if candidate.completion is not None else None,
        started_s=round(candidate.started_s, 6),
        first_token_s=_rounded(candidate.first_token_s),
        finished_s=_rounded(candidate.finished_s),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _text(value: Any) -> str | None:
    """An upstream may put anything where a text should be."""
    return value if isinstance(value, str) else None
