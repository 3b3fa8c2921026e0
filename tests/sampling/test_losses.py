"""Candidates that are lost or late, and what the caller hears of it."""

import pytest

from its_proxy.codesign.errors import (
    BadPayload,
    QuorumLost,
    UpstreamBusy,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.sampling import sample
from tests.sampling.candidates import BROKEN, BUSY, Scripted, box, plan_of, sampled, states

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
    with pytest.raises(RuntimeError, match="a defect"):
        await sample(plan_of(upstream), "req")
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


# -- the caller --------------------------------------------------------------------------------------------------------


async def test_all_busy_with_503_stays_503():
    with pytest.raises(QuorumLost) as caught:
        await sampled([UpstreamBusy("busy", status=503) for _ in range(4)])
    assert (caught.value.status, caught.value.is_retryable) == (503, True)
