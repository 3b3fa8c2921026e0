"""Several workers' metrics, told by whichever is asked."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from its_proxy.server import siblings
from its_proxy.server.siblings import Siblings
from its_proxy.server.workers import Worker


def told_by(folder, number, n_requests):
    registry = CollectorRegistry()
    Counter("requests", "Requests answered", ["model"], registry=registry).labels("a").inc(n_requests)
    Histogram("seconds", "How long", buckets=[1, 2], registry=registry).observe(1.5)
    return Siblings(Worker(number, 1, False, folder), registry)


@pytest.fixture
async def both(tmp_path):
    both = told_by(tmp_path, 0, 3), told_by(tmp_path, 1, 4)
    for each in both:
        await each.start()
    yield both
    for each in both:
        await each.stop()


def samples(exposition):
    lines = [line for line in exposition.decode().splitlines() if not line.startswith("#") and "_created" not in line]
    return dict(line.rsplit(" ", 1) for line in lines)


async def test_each_tells_the_figures_of_both_and_whose_they_are(both):
    first, second = [await each.exposition() for each in both]
    assert first == second
    told = samples(first)
    assert told['requests_total{model="a",worker="0"}'] == "3.0"
    assert told['requests_total{model="a",worker="1"}'] == "4.0"
    assert told['seconds_bucket{le="2.0",worker="1"}'] == "1.0"
    assert told["its_proxy_workers"] == "2.0"


async def test_every_family_is_described_once(both):
    told = (await both[0].exposition()).decode()
    assert told.count("# HELP requests_total Requests answered") == told.count("# TYPE requests_total counter") == 1


async def test_one_that_has_ended_is_left_out(both):
    await both[1].stop()
    assert samples(await both[0].exposition())["its_proxy_workers"] == "1.0"


async def test_one_that_was_killed_is_left_out_and_may_come_back(tmp_path, both):
    (tmp_path / "2.sock").touch()  # what it leaves behind: nobody answers there
    assert samples(await both[0].exposition())["its_proxy_workers"] == "2.0"
    third = told_by(tmp_path, 2, 5)
    await third.start()
    assert samples(await both[0].exposition())['requests_total{model="a",worker="2"}'] == "5.0"
    await third.stop()


async def test_one_that_hangs_is_not_waited_for(tmp_path, both, monkeypatch):
    monkeypatch.setattr(siblings, "TELLING_S", 0.05)
    is_over = asyncio.Event()

    async def hang(reader, writer):
        await is_over.wait()
        writer.close()

    async with await asyncio.start_unix_server(hang, tmp_path / "2.sock"):
        assert samples(await both[0].exposition())["its_proxy_workers"] == "2.0"
        is_over.set()
