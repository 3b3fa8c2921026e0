"""One candidate without a vote has a lane of its own, and ends there as a vote of one would."""

import asyncio
from dataclasses import replace

import pytest

from its_proxy.admission import Admission, Limits
from its_proxy.codesign.errors import ItsError, UpstreamTimeout
from its_proxy.sampling import sample
from tests.sampling.candidates import BROKEN, BUSY, CUT_OFF, NO_ANSWER, Scripted, box, plan_of, said

LINES = {
    "an answer": box(7),
    "no answer": NO_ANSWER,
    "cut off": CUT_OFF,
    "no end": said("so", None),
    "no choice": {"choices": []},
    "with usage": {**box(7), "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    "broken": BROKEN,
    "busy": BUSY,
}


class Nobody:
    """Hears of a vote, which so takes the other lane."""

    hears_first = False

    def heard(self, delta):
        raise AssertionError("no stream was asked for")

    def received(self, candidate, n_started):
        assert (candidate.index, n_started) == (0, 1)


def alone(line, turns=()):
    upstream = Scripted([line], turns)
    return upstream, plan_of(upstream, is_vote=False)


async def told(line, audience):
    """What an outcome says but its times; or the error."""
    upstream, plan = alone(line)
    try:
        outcome = await sample(plan, "req", audience)
    except ItsError as error:
        return upstream.asked, type(error), vars(error)
    [candidate] = outcome.candidates
    assert 0 <= candidate.started_s <= candidate.finished_s <= outcome.seconds
    timeless = replace(candidate, started_s=0.0, finished_s=None)
    assert outcome.winner is candidate
    return upstream.asked, timeless, outcome.vote, outcome.stopped, outcome.states, outcome.usage, outcome.degradations


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
async def test_both_lanes_end_alike(line):
    assert await told(line, None) == await told(line, Nobody())


async def test_the_deadline_holds_it():
    upstream, plan = alone(box(7), [None])
    with pytest.raises(UpstreamTimeout):
        await sample(replace(plan, rules=replace(plan.rules, deadline_s=0.05)), "req")
    assert upstream.cancelled == {"req-0"}


async def test_a_caller_who_leaves_ends_it_and_gives_its_room_back():
    upstream, plan = alone(box(7), [None])
    admission = Admission(Limits(candidates=1))

    async def ask() -> None:
        async with admission.door("team").admitted([1]) as place:
            await sample(plan, "req", place=place)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    assert admission.n_in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (upstream.cancelled, admission.n_in_flight) == ({"req-0"}, 0)
