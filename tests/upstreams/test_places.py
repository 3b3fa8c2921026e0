"""Places are taken in turn, and none is lost, whoever leaves and whenever."""

import asyncio
import random

import pytest

from its_proxy.upstreams.places import Places


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_waits_is_served_in_turn_and_before_who_comes_later():
    places, served = Places(1), []

    async def come(name: int) -> None:
        await places.take()
        served.append(name)

    assert places.take_at_once()
    tasks = [asyncio.create_task(come(name)) for name in range(3)]
    await settled()
    places.give_back()
    assert not places.take_at_once()  # it is the first one's already
    await settled()
    assert served == [0]
    places.give_back(), places.give_back()
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2]


async def test_a_place_that_comes_as_its_waiter_leaves_goes_to_the_next():
    places = Places(1)
    assert places.take_at_once()
    leaving, staying = asyncio.create_task(places.take()), asyncio.create_task(places.take())
    await settled()
    places.give_back()
    leaving.cancel()
    await settled()
    assert (leaving.cancelled(), staying.done(), places.n_free) == (True, True, 0)
    places.give_back()
    assert places.n_free == 1


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_leaves_and_whenever_all_places_are_free_in_the_end(seed):
    chance, places, n_inside = random.Random(seed), Places(3), 0

    async def visit() -> None:
        nonlocal n_inside
        await places.take()
        n_inside += 1
        try:
            assert n_inside <= 3
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            n_inside -= 1
            places.give_back()

    tasks = [asyncio.create_task(visit()) for _ in range(60)]
    while not all(task.done() for task in tasks):
        chance.choice(tasks).cancel()
        await asyncio.sleep(0)
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    assert places.n_free == 3
