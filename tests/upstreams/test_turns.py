"""Long replies take turns, and short ones need none."""

import asyncio

from its_proxy.upstreams.turns import LONG_BYTES, N_AT_ONCE, Turns


async def settle() -> None:
    """Lets whatever can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_long_reply_waits_for_one_of_the_few_that_are_read():
    turns, read = Turns(), []

    async def reads(name: str, n_bytes: int, is_over: asyncio.Event) -> None:
        async with turns.one() as turn:
            await turn.grown_to(n_bytes)
            read.append(name)
            await is_over.wait()

    ends = [asyncio.Event() for _ in range(N_AT_ONCE)]
    async with asyncio.TaskGroup() as group:
        for number, end in enumerate(ends):
            group.create_task(reads(f"long {number}", LONG_BYTES + 1, end))
        over = asyncio.Event()
        over.set()
        group.create_task(reads("waiting", LONG_BYTES + 1, over))
        group.create_task(reads("short", LONG_BYTES, over))
        await settle()
        assert read == [*(f"long {number}" for number in range(N_AT_ONCE)), "short"]
        ends[0].set()
        await settle()
        assert read[-1] == "waiting"
        for end in ends:
            end.set()


async def test_who_gives_up_waiting_takes_no_place():
    turns = Turns()
    async with turns.one() as first, turns.one() as second:
        for turn in (first, second):
            await turn.grown_to(LONG_BYTES + 1)

        async def waits() -> None:
            async with turns.one() as turn:
                await turn.grown_to(LONG_BYTES + 1)

        task = asyncio.ensure_future(waits())
        await settle()
        task.cancel()
        await asyncio.wait({task})
    async with asyncio.timeout(5), turns.one() as third, turns.one() as fourth:
        for turn in (third, fourth):
            await turn.grown_to(LONG_BYTES + 1)


async def test_another_servers_long_replies_are_not_held_up():
    mine, another = Turns(), Turns()
    async with mine.one() as first, mine.one() as second, another.one() as third, asyncio.timeout(5):
        for turn in (first, second, third):
            await turn.grown_to(LONG_BYTES + 1)
