"""The measurements of slow and many clients, in short."""

from benchmarks.reliability import key_timing, large_bodies, slow_readers
from benchmarks.reliability.crowd import crowd
from benchmarks.reliability.world import world


async def test_slow_readers_are_closed_in_time_and_their_work_is_cancelled(tmp_path):
    figures = await slow_readers.measure(tmp_path, 4, 1.0)
    assert figures["closed"] == figures["upstream calls begun"] == figures["upstream calls aborted"] == 4


async def test_slow_headers_and_bodies_are_ended(tmp_path):
    async with world(tmp_path, {"header_s": 0.5, "body_s": 0.5}) as (proxy, _):
        for kind in ("headers", "bodies"):
            async with crowd(proxy.url, kind, 20, 30.0) as clients:
                opened, outcome = await clients.opened(), await clients.outcome()
            assert (opened, outcome["gone"], outcome["statuses"]) == (20, 20, {"408": 20})


async def test_large_bodies_are_there_once_for_all_candidates(tmp_path):
    held, n_good = await large_bodies.most_held(tmp_path)
    assert n_good == large_bodies.N_REQUESTS
    assert held <= large_bodies.MAX_MIB


def test_every_costly_body_is_read_or_refused():
    assert all(large_bodies.reading_ms(data) > 0 for data in large_bodies.BODIES.values())


def test_times_of_keys_are_compared():
    assert set(key_timing.measure(2000)) == set(key_timing.PAIRS)
