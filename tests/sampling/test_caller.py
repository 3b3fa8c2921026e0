"""Whoever listens hears each candidate; whoever leaves leaves nothing running."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from its_proxy.outcome import Candidate
from its_proxy.sampling import sample
from tests.sampling.candidates import BROKEN, LINES, Scripted, box, plan_of, sampled


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


async def test_a_caller_who_insists_on_leaving_still_leaves_nothing_running():
    """Its candidates take their time to end, and it is cancelled again meanwhile."""

    class Reluctant(Scripted):
        async def complete(self, body, request_id):
            try:
                return await super().complete(body, request_id)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                raise

    upstream = Reluctant([box(1)] * 4, turns=[None] * 4)
    before = asyncio.all_tasks()
    query = asyncio.create_task(sample(plan_of(upstream), "req"))
    for _ in range(3):
        await asyncio.sleep(0.01)
        query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert upstream.cancelled == {f"req-{index}" for index in range(4)}
    assert asyncio.all_tasks() == before
