"""A request's deadline over plain calls and over streams, however they dawdle."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from its_proxy.codesign.errors import UpstreamTimeout
from its_proxy.deadline import Deadline


async def dawdling(n: int, pause_s: float) -> AsyncIterator[bytes]:
    for _ in range(n):
        await asyncio.sleep(pause_s)
        yield b"x"


async def test_what_is_done_in_time_is_left_alone():
    deadline = Deadline(5)
    with deadline.held():
        pass
    assert [chunk async for chunk in deadline.bounded(dawdling(3, 0))] == [b"x"] * 3


async def test_a_stream_that_never_rests_ends_at_the_deadline_all_the_same():
    chunks = []

    async def read() -> None:
        async for chunk in Deadline(0.1).bounded(dawdling(1000, 0.01)):
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
