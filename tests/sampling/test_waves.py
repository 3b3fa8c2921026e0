"""How many candidates a vote begins with, and when more are asked."""

import pytest

from its_proxy.admission import Admission, Limits
from its_proxy.codesign.errors import QuorumLost, UpstreamRejected
from its_proxy.sampling import sample
from tests.sampling.candidates import BROKEN, NO_ANSWER, Scripted, box, plan_of, sampled, states

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


# -- the caller --------------------------------------------------------------------------------------------------------


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
