"""Sampling over a little in-process upstream: it takes as many turns of the event loop as a script says."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from its_proxy.admission import Admission, Limits
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
    UpstreamUnreachable,
)
from its_proxy.equivalence import Comparer, Comparisons, Verdict
from its_proxy.equivalence.comparisons import Pair, pair_of
from its_proxy.handshake import NO_MANIFEST
from its_proxy.outcome import Candidate, Outcome, read_candidate
from its_proxy.plan import Member, Plan, PlannedMember, VoteRules
from its_proxy.sampling import sample
from its_proxy.upstreams.base import Body, Completion, RawReply
from its_proxy.voting.answers import Answer, proven_different
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


# -- the property ------------------------------------------------------------------------------------------------------

EXACT_FORMS = [box(1), box(1), box(1), box(2), box(2), box("\\frac12")]
OPEN_FORMS = [box("0.333..."), box("x+1"), box("a,b")]
LINES = st.sampled_from([*EXACT_FORMS, *OPEN_FORMS, NO_ANSWER, CUT_OFF, BUSY, BROKEN])
SCRIPTS = st.lists(st.tuples(LINES, st.integers(0, 12)), min_size=1, max_size=10)
RULES = st.fixed_dictionaries(
    {
        "quorum": st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        "min_agreement": st.sampled_from([None, 0.3, 0.5, 0.75, 1.0]),
        "on_no_answer": st.sampled_from(["first", "error"]),
        "on_no_consensus": st.sampled_from(["reply", "error"]),
        "weights": st.sampled_from([(1,), (1, 1), (3, 1), (1, 2, 4)]),
    }
)


async def verdict_of(
    script: list[tuple[Line, int]], stop: str, rules: dict[str, Any], n_first: int | None = None, **options: Any
) -> Any:
    """Answer class and consensus, or the error that a client would see."""
    lines, turns = zip(*script, strict=True)
    n_first = n_first if n_first is None else min(n_first, len(lines))
    try:
        outcome = await sampled(lines, turns, stop=stop, n_first=n_first, **rules, **options)
    except ItsError as error:
        return type(error), getattr(error, "status", None)
    winner = outcome.vote.answer
    return (None, None) if winner is None else (winner.form, outcome.vote.consensus)


@given(SCRIPTS, RULES)
@hypothesis_settings(max_examples=600, deadline=None)
def test_exact_gives_answer_class_and_verdict_of_the_full_vote(script, rules):
    async def both() -> None:
        assert await verdict_of(script, "exact", rules) == await verdict_of(script, "none", rules)

    asyncio.run(both())


@dataclass(frozen=True)
class Knower:
    """Compares answers by what it knows that they mean; of the `undecided` pairs it says nothing."""

    meanings: Mapping[str, str]
    undecided: frozenset[frozenset[str]] = frozenset()

    def meaning(self, answer: Answer) -> str:
        return self.meanings.get(answer.text, answer.form.value)

    async def compare_all(self, answers: Sequence[Answer], within_s: float) -> Comparisons:
        await asyncio.sleep(0)
        verdicts: dict[Pair, Verdict] = {}
        for first, second in combinations({answer.form: answer for answer in answers}.values(), 2):
            if not proven_different(first, second):
                is_known = frozenset((first.text, second.text)) not in self.undecided
                is_equal = self.meaning(first) == self.meaning(second)
                verdicts[pair_of(first, second)] = ("equal" if is_equal else "different") if is_known else "timeout"
        return Comparisons(verdicts)


TEXTS = ["0.333...", "x+1", "a,b"]
KNOWERS = st.builds(
    Knower,
    st.fixed_dictionaries({text: st.sampled_from(["1", "2", "1/2", "x+1", "other"]) for text in TEXTS}),
    st.frozensets(st.frozensets(st.sampled_from([*TEXTS, "1", "2"]), min_size=2, max_size=2), max_size=3),
)


async def meaning_of(script: list[tuple[Line, int]], stop: str, rules: dict[str, Any], knower: Knower) -> Any:
    """As `verdict_of`, but for which of the answers that mean the same was received first."""
    lines, turns = zip(*script, strict=True)
    try:
        outcome = await sampled(lines, turns, stop=stop, comparer=knower, **rules)
    except ItsError as error:
        return type(error), getattr(error, "status", None)
    winner = outcome.vote.answer
    return (None, None) if winner is None else (knower.meaning(winner), outcome.vote.consensus)


@given(SCRIPTS, RULES, KNOWERS)
@hypothesis_settings(max_examples=400, deadline=None)
def test_exact_gives_the_verdict_of_the_full_vote_whatever_is_proved_equal(script, rules, knower):
    async def both() -> None:
        assert await meaning_of(script, "exact", rules, knower) == await meaning_of(script, "none", rules, knower)

    asyncio.run(both())


@given(SCRIPTS, RULES, st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_verdict_does_not_depend_on_the_order_of_arrival(script, rules, random):
    turns = [turn for _, turn in script]
    random.shuffle(turns)
    shuffled = [(line, turn) for (line, _), turn in zip(script, turns, strict=True)]

    async def both() -> None:
        assert await verdict_of(script, "exact", rules) == await verdict_of(shuffled, "exact", rules)

    asyncio.run(both())


@given(SCRIPTS, RULES, st.integers(1, 10), st.booleans())
@hypothesis_settings(max_examples=400, deadline=None)
def test_a_first_wave_gives_answer_class_and_verdict_of_the_full_vote(script, rules, n_first, starts_with_one):
    options = {"n_first": n_first, "starts_with_one": starts_with_one}

    async def both() -> None:
        assert await verdict_of(script, "exact", rules, **options) == await verdict_of(script, "none", rules)

    asyncio.run(both())


@given(SCRIPTS, RULES, st.sampled_from(["exact", "beta", "none"]), st.integers(1, 10), st.integers(1, 4))
@hypothesis_settings(max_examples=150, deadline=None)
def test_never_more_than_n_are_started_and_never_fewer_than_the_choices(script, rules, stop, n_first, n_choices):
    lines, turns = zip(*script, strict=True)
    n_choices = min(n_choices, len(lines))
    upstream = Scripted(lines, turns)
    plan = plan_of(upstream, n_choices=n_choices, n_first=min(len(lines), max(n_first, n_choices)), stop=stop, **rules)

    async def asked() -> None:
        try:
            outcome = await sample(plan, "req")
        except ItsError:
            return
        received = [candidate for candidate in outcome.candidates if candidate.completion is not None]
        assert len(received) >= n_choices or len(outcome.candidates) == len(lines)

    asyncio.run(asked())
    indexes = [int(request_id.rpartition("-")[2]) for request_id, _ in upstream.asked]
    assert indexes == list(range(len(indexes)))
    assert len(indexes) <= len(lines)


# -- deciding ----------------------------------------------------------------------------------------------------------


async def test_a_decided_vote_cancels_the_rest():
    upstream = Scripted([box(1)] * 3 + [box(2)] * 2, turns=[0, 1, 2, None, None])
    outcome = await sample(plan_of(upstream), "req")
    assert outcome.stopped == "decided"
    assert states(outcome) == ["ok", "ok", "ok", "cancelled", "cancelled"]
    assert upstream.cancelled == {"req-3", "req-4"}


async def test_an_undecided_vote_waits_for_all():
    outcome = await sampled([box(1), box(2), box(1), box(2)])
    assert outcome.stopped == "complete"
    assert outcome.vote.is_tie
    assert outcome.winner.index == 0


async def test_the_reply_is_the_first_received_candidate_of_the_winning_class():
    upstream = Scripted([box(2), box(1), box("1.0"), box(1)], turns=[3, None, 2, 1])
    outcome = await sample(plan_of(upstream, quorum=0, stop="exact", deadline_s=0.05), "req")
    assert (outcome.winner.index, outcome.winner.text) == (2, "so \\boxed{1.0}")


async def test_candidates_of_one_moment_are_all_heard_before_a_verdict():
    outcome = await sampled([NO_ANSWER, NO_ANSWER, box(1), box(1)], gives_up=True)
    assert (outcome.stopped, outcome.vote.answer.text) == ("complete", "1")


async def test_each_candidate_has_its_own_seed_and_request_id():
    upstream = Scripted([box(1), box(2), box(3)])
    outcome = await sample(plan_of(upstream), "req")
    asked = sorted((request_id, body["seed"]) for request_id, body in upstream.asked)
    assert asked == [("req-0", 100), ("req-1", 101), ("req-2", 102)]
    assert [candidate.seed for candidate in outcome.candidates] == [100, 101, 102]


async def test_members_take_turns_and_weigh_as_configured():
    outcome = await sampled([box(1), box(2), box(1), box(2)], weights=(1, 3))
    assert [candidate.weight for candidate in outcome.candidates] == [1, 3, 1, 3]
    assert outcome.vote.votes == {"2": 6, "1": 2}


async def test_a_cut_off_candidate_never_votes():
    outcome = await sampled([CUT_OFF, CUT_OFF, CUT_OFF, box(2)])
    assert states(outcome) == ["truncated"] * 3 + ["ok"]
    assert outcome.vote.answer.text == "2"
    assert outcome.vote.agreement == 1.0


async def test_an_abstaining_candidate_counts_for_agreement_and_a_cut_off_one_does_not():
    outcome = await sampled([box(1), box(1), NO_ANSWER, CUT_OFF], min_agreement=0.6, stop="none")
    assert outcome.vote.agreement == pytest.approx(2 / 3)
    assert outcome.vote.consensus


@pytest.mark.parametrize("reason", ["length", "content_filter", "error", "", ["stop"], 1])
def test_only_a_truthful_end_is_eligible(reason):
    assert read_candidate(said("\\boxed{1}", reason), "boxed") == ("truncated", None)


@pytest.mark.parametrize(
    "completion",
    [{}, {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{"message": {}}]},
     {"choices": [{"message": [], "finish_reason": "stop"}]}, {"choices": {"0": 1}}, said("\\boxed{1}", None)],
)  # fmt: skip
def test_a_completion_without_a_choice_or_an_end_is_a_bad_payload(completion):
    with pytest.raises(BadPayload):
        read_candidate(completion, "boxed")


async def test_a_reply_that_cannot_be_read_is_a_lost_candidate():
    outcome = await sampled([box(1), {"choices": []}, box(1)], stop="none")
    assert states(outcome) == ["ok", "lost", "ok"]


async def test_content_that_is_no_text_abstains():
    parts = said(None)
    parts["choices"][0]["message"]["content"] = [{"type": "text", "text": "\\boxed{1}"}]
    outcome = await sampled([parts, said(None), said(None, "tool_calls"), box(2)], stop="none")
    assert states(outcome) == ["no_answer", "no_answer", "no_answer", "ok"]


# -- losses ------------------------------------------------------------------------------------------------------------


async def test_losses_above_the_quorum_are_reported_and_do_not_fail_the_vote():
    outcome = await sampled([box(1), BROKEN, box(2), BROKEN, box(2), BROKEN, BROKEN, box(1)])
    assert states(outcome).count("lost") == 4
    assert outcome.vote.is_tie


async def test_losses_below_the_quorum_are_a_bad_gateway():
    with pytest.raises(QuorumLost, match="3 of 8 candidates were received") as caught:
        await sampled([box(1), box(2), box(1)] + [BROKEN] * 5)
    assert caught.value.status == 502


async def test_a_vote_that_the_lost_ones_could_not_change_needs_no_quorum():
    outcome = await sampled([box(1)] * 3 + [BROKEN] * 2, quorum=1.0)
    assert outcome.vote.answer.text == "1"


async def test_all_busy_is_busy_with_the_longest_wait():
    waits = [UpstreamBusy("busy", retry_after_s=wait) for wait in (2.0, None, 9.0, 3.0)]
    with pytest.raises(QuorumLost) as caught:
        await sampled(waits)
    assert (caught.value.status, caught.value.retry_after_s, caught.value.is_retryable) == (429, 9.0, True)


async def test_some_busy_and_some_broken_is_a_bad_gateway():
    with pytest.raises(QuorumLost) as caught:
        await sampled([BUSY, BUSY, BUSY, BROKEN])
    assert caught.value.status == 502


async def test_what_all_candidates_were_refused_with_is_kept():
    refused = [UpstreamRejected("no", status=400) for _ in range(4)]
    with pytest.raises(UpstreamRejected) as caught:
        await sampled(refused)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "error",
    [UpstreamRejected("no", status=404), BUSY, UpstreamTimeout("slow"), UpstreamUnreachable("gone"), BadPayload("odd")],
)
async def test_a_single_candidates_error_is_kept(error):
    with pytest.raises(type(error)) as caught:
        await sampled([error], is_vote=False)
    assert caught.value is error


async def test_an_upstreams_slowness_is_a_gateway_timeout():
    with pytest.raises(QuorumLost) as caught:
        await sampled([UpstreamTimeout("slow")] * 3 + [BROKEN])
    assert caught.value.status == 504


async def test_a_defect_is_not_taken_for_a_lost_candidate():
    upstream = Scripted([box(1), RuntimeError("a defect"), box(1)], turns=[None, 1, None])
    with pytest.raises(ExceptionGroup) as caught:
        await sample(plan_of(upstream), "req")
    assert caught.group_contains(RuntimeError, match="a defect")
    assert upstream.cancelled == {"req-0", "req-2"}


# -- the deadline ------------------------------------------------------------------------------------------------------


async def test_at_the_deadline_the_vote_is_among_those_received():
    upstream = Scripted([box(1), box(2), box(2), box(3)], turns=[0, 0, 0, None])
    outcome = await sample(plan_of(upstream, stop="none", deadline_s=0.05), "req")
    assert outcome.stopped == "deadline"
    assert states(outcome) == ["ok", "ok", "ok", "lost"]
    assert outcome.vote.answer.text == "2"
    assert isinstance(outcome.candidates[3].error, UpstreamTimeout)
    assert upstream.cancelled == {"req-3"}


@pytest.mark.parametrize("n_received", [0, 1])
async def test_a_deadline_below_the_quorum_is_a_gateway_timeout(n_received):
    turns = [0] * n_received + [None] * (4 - n_received)
    with pytest.raises(QuorumLost, match=f"{n_received} of 4") as caught:
        await sampled([box(1)] * 4, turns, deadline_s=0.05)
    assert caught.value.status == 504


async def test_a_single_candidate_past_the_deadline_is_a_timeout():
    with pytest.raises(UpstreamTimeout, match=r"0\.05 s deadline"):
        await sampled([box(1)], [None], is_vote=False, deadline_s=0.05)


# -- no answer ---------------------------------------------------------------------------------------------------------


async def test_two_finished_candidates_without_an_answer_end_an_automatic_vote():
    upstream = Scripted([box(1)] + [NO_ANSWER] * 7, turns=[None, 1, 2] + [None] * 5)
    outcome = await sample(plan_of(upstream, gives_up=True), "req")
    assert outcome.stopped == "no_answer"
    assert outcome.winner.index == 1
    assert states(outcome).count("cancelled") == 6


async def test_an_answer_among_the_first_two_keeps_the_vote_going():
    outcome = await sampled([NO_ANSWER, box(5), box(5), box(5)], turns=[0, 1, 2, 3], gives_up=True)
    assert (outcome.stopped, outcome.vote.answer.text) == ("decided", "5")


async def test_a_lost_candidate_says_nothing_about_answers():
    outcome = await sampled([BROKEN, BROKEN, box(5), box(5)], turns=[0, 0, 1, 2], gives_up=True)
    assert outcome.vote.answer.text == "5"


async def test_a_vote_that_was_ordered_waits_even_if_nobody_answers():
    outcome = await sampled([NO_ANSWER] * 4)
    assert outcome.stopped == "no_answer"
    assert states(outcome) == ["no_answer"] * 4


async def test_without_answers_a_whole_reply_comes_before_a_cut_off_one():
    outcome = await sampled([CUT_OFF, CUT_OFF, NO_ANSWER, CUT_OFF])
    assert (outcome.stopped, outcome.winner.index) == ("no_answer", 2)
    outcome = await sampled([CUT_OFF, CUT_OFF])
    assert (outcome.stopped, outcome.winner.index) == ("no_answer", 0)


async def test_a_client_may_insist_on_an_answer():
    with pytest.raises(NoVote, match="none of 2 candidates holds an answer"):
        await sampled([NO_ANSWER, CUT_OFF], on_no_answer="error")


async def test_a_client_may_insist_on_consensus():
    with pytest.raises(NoConsensus, match=r"agreement is 0\.50"):
        await sampled([box(1), box(2)], on_no_consensus="error", min_agreement=0.6)
    outcome = await sampled([box(1), box(2)], min_agreement=0.6)
    assert not outcome.vote.consensus


# -- starting with one -------------------------------------------------------------------------------------------------


async def test_a_first_candidate_without_an_answer_stays_alone():
    upstream = Scripted([NO_ANSWER] + [box(1)] * 7)
    outcome = await sample(plan_of(upstream, starts_with_one=True, gives_up=True), "req")
    assert (outcome.stopped, len(outcome.candidates), len(upstream.asked)) == ("no_answer", 1, 1)


async def test_a_first_candidate_with_an_answer_is_topped_up_to_a_vote():
    upstream = Scripted([box(1)] * 3 + [box(2)] * 2)
    outcome = await sample(plan_of(upstream, starts_with_one=True, gives_up=True), "req")
    assert len(upstream.asked) == 5
    assert outcome.vote.answer.text == "1"


async def test_a_lost_first_candidate_is_replaced_by_the_others():
    upstream = Scripted([BROKEN, NO_ANSWER, NO_ANSWER, box(1), box(1)], turns=[0, 1, 2, None, None])
    outcome = await sample(plan_of(upstream, starts_with_one=True, gives_up=True), "req")
    assert (outcome.stopped, outcome.winner.index) == ("no_answer", 1)
    assert states(outcome) == ["lost", "no_answer", "no_answer", "cancelled", "cancelled"]


async def test_a_first_candidate_past_the_deadline_is_a_gateway_timeout():
    with pytest.raises(QuorumLost) as caught:
        await sampled([box(1)] * 4, [None] * 4, starts_with_one=True, gives_up=True, deadline_s=0.05)
    assert caught.value.status == 504


# -- the first wave ----------------------------------------------------------------------------------------------------


async def test_a_first_wave_that_agrees_is_all_that_is_asked():
    upstream = Scripted([box(1)] * 8)
    outcome = await sample(plan_of(upstream, n_first=5), "req")
    assert (outcome.stopped, len(upstream.asked), len(outcome.candidates)) == ("decided", 5, 5)
    assert outcome.vote.agreement == 1.0


async def test_one_who_disagrees_doubles_what_has_been_asked():
    """Six could decide, but whoever else disagrees would then cost a wave of its own."""
    upstream = Scripted([box(1), box(2), *[box(1)] * 14], turns=[0, 1, 2, 3])
    outcome = await sample(plan_of(upstream, n_first=4, stop="beta"), "req")
    assert (outcome.stopped, outcome.vote.answer.text, len(upstream.asked)) == ("decided", "1", 8)


async def test_one_who_abstains_costs_no_more_than_could_decide():
    upstream = Scripted([box(1), NO_ANSWER, *[box(1)] * 14], turns=[0, 1, 2, 3])
    outcome = await sample(plan_of(upstream, n_first=4, stop="beta"), "req")
    assert (outcome.stopped, outcome.vote.answer.text, len(upstream.asked)) == ("decided", "1", 5)


async def test_more_are_started_while_others_still_run_if_those_cannot_decide_alone():
    """The second candidate disagrees at once: the next wave does not wait for the slow ones."""
    upstream = Scripted([box(1), box(2), *[box(1)] * 6], turns=[0, 0, None, None, None, None, None, None])
    plan = plan_of(upstream, n_first=5, deadline_s=0.1, quorum=0)
    await sample(plan, "req")
    assert len(upstream.asked) == 8


async def test_a_running_wave_that_can_decide_alone_is_waited_for():
    upstream = Scripted([box(1)] * 8, turns=[0, 1, 2, 40, 40])
    await sample(plan_of(upstream, n_first=5), "req")
    assert len(upstream.asked) == 5


async def test_lost_candidates_of_the_first_wave_are_made_up_for():
    """One lost candidate has no vote left to outweigh, so four of seven decide; with two lost a fourth is missing."""
    upstream = Scripted([BROKEN, *[box(1)] * 7])
    assert (await sample(plan_of(upstream, n_first=5), "req")).stopped == "decided"
    assert len(upstream.asked) == 5
    upstream = Scripted([BROKEN, BROKEN, *[box(1)] * 6])
    outcome = await sample(plan_of(upstream, n_first=5), "req")
    assert outcome.stopped == "decided"
    assert states(outcome) == ["lost"] * 2 + ["ok"] * 4


async def test_with_losses_the_quorum_is_reached_before_the_vote_ends():
    """Four of four are enough for `beta`, but the five lost ones might have said otherwise."""
    upstream = Scripted([*[BROKEN] * 5, *[box(1)] * 11])
    outcome = await sample(plan_of(upstream, n_first=9, stop="beta", quorum=0.5), "req")
    assert outcome.stopped == "decided"
    assert states(outcome).count("ok") == 8


async def test_a_wave_of_losses_ends_as_the_full_vote_does():
    with pytest.raises(QuorumLost, match="0 of 8"):
        await sampled([BROKEN] * 8, n_first=5)


async def test_a_refused_wave_is_not_asked_again():
    upstream = Scripted([UpstreamRejected("no", status=400) for _ in range(8)], turns=[0, 1, 2, 3, 4])
    with pytest.raises(UpstreamRejected):
        await sample(plan_of(upstream, n_first=5), "req")
    assert len(upstream.asked) == 5


async def test_a_member_that_refuses_leaves_the_vote_to_the_others():
    refused = UpstreamRejected("no such model", status=404)
    lines = [refused, box(1)] * 4
    outcome = await sampled(lines, starts_with_one=True, gives_up=True, weights=(1, 1))
    assert (outcome.vote.answer.text, states(outcome).count("lost")) == ("1", 4)


async def test_a_wave_without_an_answer_ends_an_automatic_vote():
    upstream = Scripted([NO_ANSWER] * 8, turns=[0, 1, None, None, None])
    outcome = await sample(plan_of(upstream, n_first=5, gives_up=True), "req")
    assert (outcome.stopped, len(upstream.asked)) == ("no_answer", 5)


async def test_after_a_first_candidate_with_an_answer_comes_the_wave_and_not_all():
    upstream = Scripted([box(1)] * 8)
    outcome = await sample(plan_of(upstream, n_first=5, starts_with_one=True, gives_up=True), "req")
    assert (outcome.stopped, len(upstream.asked)) == ("decided", 5)


async def test_heavier_members_need_fewer_of_their_own():
    upstream = Scripted([box(1), box(1), box(1), box(2)], turns=[0, 1, 2, 3])
    outcome = await sample(plan_of(upstream, n_first=3, weights=(3, 1)), "req")
    assert (outcome.stopped, len(upstream.asked)) == ("decided", 3)


async def test_beta_ends_a_vote_earlier_than_exact():
    lines = [box(1)] * 8
    assert len((await sampled(lines, range(8), n_first=4, stop="beta")).candidates) == 4
    assert len((await sampled(lines, range(8), n_first=4, stop="exact")).candidates) == 5


# -- kinds of answer ---------------------------------------------------------------------------------------------------


def called(*calls: tuple[str, str], finish_reason: str = "tool_calls", text: str | None = None) -> Completion:
    made = [{"id": f"call-{k}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for k, (name, arguments) in enumerate(calls)]  # fmt: skip
    completion = said(text, finish_reason)
    completion["choices"][0]["message"]["tool_calls"] = made
    return completion


async def test_parallel_calls_in_any_order_are_one_answer():
    there, back = ("go", '{"to": "x", "n": 1}'), ("go", '{"n": 1.0, "to": "y"}')
    outcome = await sampled(
        [called(there, back), called(back, there), called(there), said("I would rather not.")],
        answer="tool_calls", stop="none",
    )  # fmt: skip
    assert [answer_class.weight for answer_class in outcome.vote.classes] == [2, 1, 1]
    assert outcome.winner.index == 0
    assert outcome.vote.votes["no call"] == 1


async def test_the_winner_of_a_vote_over_calls_keeps_its_own_call_ids():
    outcome = await sampled([called(("f", "{}"))] * 3, answer="tool_calls")
    assert outcome.winner.completion["choices"][0]["message"]["tool_calls"][0]["id"] == "call-0"


async def test_only_valid_json_votes():
    lines = [said('{"a": 1}'), said('{"a": "x"}'), said('{"a": "x"}'), said('Sure: {"a": 1}'), said('{"a":1.0}')]
    outcome = await sampled(lines, answer="json", stop="none", is_valid=lambda text: '"x"' not in text)
    assert states(outcome) == ["ok", "no_answer", "no_answer", "no_answer", "ok"]
    assert outcome.vote.votes == {'{"a":1}': 2}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_is_no_answer(name):
    thought = said(None)
    thought["choices"][0]["message"][name] = "so \\boxed{1}"
    outcome = await sampled([thought, thought, box(2)], stop="none")
    assert states(outcome) == ["no_answer", "no_answer", "ok"]
    assert outcome.vote.answer.text == "2"


# -- more than one choice ----------------------------------------------------------------------------------------------


async def test_no_verdict_comes_before_the_choices_that_the_client_asked_for():
    upstream = Scripted([box(1)] * 4, turns=[0, 1, 2, 3])
    outcome = await sample(plan_of(upstream, n_choices=4), "req")
    assert (outcome.stopped, states(outcome)) == ("complete", ["ok"] * 4)


async def test_a_decided_vote_with_enough_choices_ends_early():
    outcome = await sampled([box(1)] * 8, [0, 1, 2, 3, 4, None, None, None], n_choices=3)
    assert outcome.stopped == "decided"


async def test_chat_with_three_choices_costs_three_candidates():
    upstream = Scripted([NO_ANSWER] * 8, turns=[0, 1, 2] + [None] * 5)
    outcome = await sample(plan_of(upstream, n_choices=3, gives_up=True), "req")
    assert (outcome.stopped, states(outcome).count("no_answer")) == ("no_answer", 3)


# -- the caller --------------------------------------------------------------------------------------------------------


class Listening:
    hears_first = False

    def __init__(self) -> None:
        self.received_so_far: list[tuple[int, str, int]] = []

    def heard(self, delta: Mapping[str, Any]) -> None:
        raise AssertionError("nobody asked to hear the first candidate")

    def received(self, candidate: Candidate, n_started: int) -> None:
        self.received_so_far.append((candidate.index, candidate.state, n_started))


async def test_an_audience_is_told_of_each_candidate_as_it_comes():
    upstream, audience = Scripted([BROKEN, box(1), box(2)], turns=[0, 1, 2]), Listening()
    await sample(plan_of(upstream, stop="none"), "req", audience)
    assert audience.received_so_far == [(0, "lost", 3), (1, "ok", 3), (2, "ok", 3)]


async def test_a_caller_who_leaves_leaves_nothing_running():
    upstream = Scripted([box(1)] * 8, turns=[None] * 8)
    before = asyncio.all_tasks()
    query = asyncio.create_task(sample(plan_of(upstream), "req"))
    await asyncio.sleep(0.01)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert upstream.cancelled == {f"req-{index}" for index in range(8)}
    assert asyncio.all_tasks() == before


@given(st.lists(st.tuples(LINES, st.integers(0, 6)), min_size=1, max_size=6), st.integers(0, 8))
@hypothesis_settings(max_examples=150, deadline=None)
def test_whenever_the_caller_leaves_nothing_is_left_running(script, turns_until_leaving):
    async def leave() -> None:
        lines, turns = zip(*script, strict=True)
        query = asyncio.create_task(sampled(lines, turns))
        for _ in range(turns_until_leaving):
            await asyncio.sleep(0)
        query.cancel()
        await asyncio.wait({query})
        if not query.cancelled():
            query.exception()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(leave())


async def test_all_busy_with_503_stays_503():
    with pytest.raises(QuorumLost) as caught:
        await sampled([UpstreamBusy("busy", status=503) for _ in range(4)])
    assert (caught.value.status, caught.value.is_retryable) == (503, True)


async def test_a_refused_first_candidate_is_not_asked_seven_times_more():
    upstream = Scripted([UpstreamRejected("no", status=400), *[box(1)] * 7])
    with pytest.raises(UpstreamRejected):
        await sample(plan_of(upstream, starts_with_one=True, gives_up=True), "req")
    assert len(upstream.asked) == 1


# -- little room -------------------------------------------------------------------------------------------------------


async def test_candidates_beyond_the_room_wait_for_those_that_run():
    admission = Admission(Limits(candidates=3))
    at_once = 0

    class Watched(Scripted):
        async def complete(self, body, request_id):
            nonlocal at_once
            at_once = max(at_once, admission.n_in_flight)
            return await super().complete(body, request_id)

    upstream = Watched([box(k) for k in range(8)], [2] * 8)
    async with admission.door("a").admitted([8]) as place:
        outcome = await sample(plan_of(upstream, stop="none"), "r", place=place)
    assert (len(outcome.candidates), outcome.stopped, at_once, admission.n_in_flight) == (8, "complete", 3, 0)


async def test_candidates_that_still_waited_when_the_vote_was_decided_were_never_asked():
    upstream, admission = Scripted([box(7)] * 8, [3] * 8), Admission(Limits(candidates=1))
    async with admission.door("a").admitted([8]) as place:
        outcome = await sample(plan_of(upstream), "r", place=place)
    states = [candidate.state for candidate in outcome.candidates]
    assert (outcome.stopped, len(upstream.asked), states) == ("decided", 6, ["ok"] * 5 + ["cancelled"])
    assert admission.n_in_flight == 0


async def test_the_deadline_loses_what_runs_and_not_what_still_waits():
    upstream, admission = Scripted([box(7)] * 8, [0, None]), Admission(Limits(candidates=2))
    async with admission.door("a").admitted([8]) as place:
        outcome = await sample(plan_of(upstream, deadline_s=0.05, stop="none", quorum=0.1), "r", place=place)
    assert outcome.candidates[1].state == "lost"
    assert admission.n_in_flight == 0
