"""A request's deadline over plain calls and over streams, however they dawdle."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import its_proxy.deadline as module
from its_proxy.codesign.errors import UpstreamTimeout
from its_proxy.deadline import LOOK_S, Deadline
from its_proxy.protocol.sse import relayed

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'


async def dawdling(n: int, pause_s: float) -> AsyncIterator[bytes]:
    for _ in range(n):
        await asyncio.sleep(pause_s)
        yield EVENT


async def test_what_is_done_in_time_is_left_alone():
    deadline = Deadline(5)
    with deadline.held():
        pass
    assert [chunk async for chunk in relayed(dawdling(3, 0), deadline.held())][:3] == [EVENT] * 3


async def test_a_stream_that_never_rests_ends_at_the_deadline_all_the_same():
    chunks = []

    async def read() -> None:
        async for chunk in relayed(dawdling(1000, 0.01), Deadline(0.1).held()):
            chunks.append(chunk)

    with pytest.raises(UpstreamTimeout, match=r"0\.1 s"):
        await read()
    assert 0 < len(chunks) < 20


async def test_what_has_passed_before_counts():
    deadline = Deadline(0.05)
    await asyncio.sleep(0.06)
    with pytest.raises(UpstreamTimeout), deadline.held():
        await asyncio.sleep(5)


async def test_a_caller_who_leaves_is_no_timeout():
    async def call() -> None:
        with Deadline(5).held():
            await asyncio.sleep(5)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_caller_who_leaves_in_the_moment_of_the_deadline_has_left():
    async def call() -> None:
        deadline = Deadline(0.01)
        with deadline.held():
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                await left.wait()  # still tidying up
                raise

    left = asyncio.Event()
    task = asyncio.create_task(call())
    await asyncio.sleep(0.01 + 2 * LOOK_S)
    task.cancel()
    left.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_whatever_takes_its_time_after_the_deadline_is_cancelled_once():
    n_cancelled = 0

    async def tidy_up() -> None:
        nonlocal n_cancelled
        for _ in range(4):
            try:
                await asyncio.sleep(LOOK_S)
            except asyncio.CancelledError:
                n_cancelled += 1

    with Deadline(0.01).held():
        await tidy_up()
    assert n_cancelled == 1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_each_of_many_ends_at_its_own_deadline_and_one_holds_its_blocks_one_after_another():
    async def lasting(seconds: float) -> None:
        deadline = Deadline(seconds)
        for _ in range(2):
            with pytest.raises(UpstreamTimeout, match=f"{seconds:g} s"), deadline.held():
                await asyncio.sleep(5)
        ended.append(seconds)

    ended: list[float] = []
    await asyncio.gather(*(lasting(seconds) for seconds in (0.4, 0.01, 0.2)))
    assert ended == [0.01, 0.2, 0.4]


def test_each_loop_has_its_own_also_where_they_take_turns():
    async def call() -> None:
        with pytest.raises(UpstreamTimeout), Deadline(0.01).held():
            await asyncio.sleep(5)

    with asyncio.Runner() as one, asyncio.Runner() as other:
        for runner in (one, other, one, other):
            runner.run(call())


def test_nothing_is_looked_for_while_nobody_is_held():
    async def call() -> None:
        with Deadline(5).held():
            await asyncio.sleep(0)
        await asyncio.sleep(2 * LOOK_S)

    with asyncio.Runner() as runner:
        runner.run(call())
        assert not module._watch_of(runner.get_loop()).timer


async def test_a_client_that_reads_slowly_is_not_timed():
    told = relayed(dawdling(3, 0), Deadline(0.01).held())
    assert await anext(told) == EVENT
    await asyncio.sleep(0.01 + 2 * LOOK_S)
    assert await anext(told) == EVENT


async def test_each_chunk_may_be_waited_for_by_another_task():
    told = relayed(dawdling(2, 0.01), Deadline(0.1).held())
    for _ in range(2):
        assert await asyncio.create_task(anext(told)) == EVENT
