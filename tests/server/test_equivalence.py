"""Answers that are written differently, compared by worker processes in the middle of votes, over HTTP."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from importlib.util import find_spec

import pytest

from benchmarks.answer_bombs import slow_pair
from its_proxy.equivalence import EquivalenceWorkers, Limits
from tests.equivalence.test_workers import children
from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint
from tests.test_cancellation import Client, gauge

pytestmark = pytest.mark.skipif(find_spec("sympy") is None, reason="its-proxy[math] is not installed")

SURDS = ("7", r"\sqrt{8}", r"2\sqrt{2}", "7", r"\frac{4}{\sqrt{2}}", "7", r"2^{3/2}", r"1+1")
SLOW = slow_pair(0)


def saying(*answers: str):
    return lambda body, number: Say(f"so \\boxed{{{answers[body['seed'] % len(answers)]}}}")


@asynccontextmanager
async def voting(tmp_path, *answers: str, **settings):
    """A server whose candidates say these answers in turn, with patient workers: they take a second to start."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with serving_script(saying(*answers), checkpoint, **settings) as (server, upstream):
        server.context.workers = EquivalenceWorkers(Limits(wait_s=30))
        yield server, upstream


async def voted(server, **fields):
    status, reply = await server.chat(seed=0, its={"vote": "always", "stop": "none", **fields.pop("its", {})}, **fields)
    assert status == 200
    return reply["its"]


async def test_answers_that_mean_the_same_win_together(tmp_path):
    before = children()
    async with voting(tmp_path, *SURDS) as (server, _):
        assert server.context.workers.pids == [], "nothing is started before there is a pair"
        its = await voted(server)
        assert (its["answer"], its["agreement"]) == (r"\sqrt{8}", 0.5)
        assert its["votes"] == {r"\sqrt{8}": 4, "7": 3, "1+1": 1}
        told = its["equivalence"]
        assert (told["by"], told["pairs"], told["equal"], told["undecided"]) == ("workers", 15, 6, {})
        labels = {"model": "model", "verdict": "equal"}
        assert server.context.metrics.registry.get_sample_value("its_proxy_equivalence_pairs_total", labels) == 6
    assert children() - before == set()


async def test_the_winner_does_not_depend_on_the_order_of_arrival(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    delays = [0.0] * 8

    def script(body, number):
        return Say(f"so \\boxed{{{SURDS[body['seed']]}}}", delay_s=delays[body["seed"]])

    async with serving_script(script, checkpoint) as (server, _):
        server.context.workers = EquivalenceWorkers(Limits(wait_s=30))
        told = set()
        for late in range(8):
            delays[:] = [0.05 * (index == late) for index in range(8)]
            its = await voted(server)
            told.add((its["answer"], its["agreement"], str(its["votes"])))
        assert len(told) == 1


async def test_an_operator_turns_it_off(tmp_path):
    async with voting(tmp_path, *SURDS, **{"vote.equivalence": "off"}) as (server, _):
        its = await voted(server)
        assert its["votes"]["7"] == 3
        assert (its["answer"], its["equivalence"]["by"], its["equivalence"]["reason"]) == ("7", "form", "turned off")
        assert server.context.workers.pids == []


async def test_a_killed_worker_is_noticed_by_nobody(tmp_path):
    """kill -9: the pair that it worked on is given to the next one."""
    async with voting(tmp_path, *SURDS, r"3\sqrt{2}") as (server, _):
        workers = server.context.workers
        assert (await voted(server))["equivalence"]["equal"] == 6
        for _ in range(3):
            [killed] = workers.pids
            os.kill(killed, signal.SIGKILL)
            workers._cache.clear()
            its = await voted(server)
            assert (its["answer"], its["votes"][r"\sqrt{8}"], its["equivalence"]["undecided"]) == (r"\sqrt{8}", 4, {})
            assert workers.pids != [killed]


async def test_a_pair_that_takes_too_long_counts_as_unequal_and_is_told(tmp_path):
    async with voting(tmp_path, *SLOW, "7") as (server, _):
        its = await voted(server)
        assert its["equivalence"]["undecided"]["timeout"] == 1
        assert len(its["votes"]) == 3
        assert (await server.chat())[0] == 200


@pytest.mark.parametrize("how", ["fin", "reset", "half-close"])
async def test_a_client_who_leaves_ends_the_comparing(tmp_path, how):
    async with voting(tmp_path, *SLOW) as (server, upstream):
        workers = server.context.workers = EquivalenceWorkers(Limits(pair_s=60, wait_s=60))
        client = await Client.asking(server, seed=0, its={"vote": "always", "stop": "none"})
        await upstream.until(lambda: len(workers._running) == 1 and workers._jobs.empty(), timeout_s=30)
        [pid] = workers.pids
        await client.leave(how)
        await upstream.until(lambda: gauge(server) == 0 and not workers._running)
        await upstream.until(lambda: pid not in workers.pids, timeout_s=10)
        await client.close()


async def test_a_vote_ends_at_its_deadline_also_while_it_compares(tmp_path):
    async with voting(tmp_path, *SLOW, **{"vote.deadline_s": 0.5}) as (server, _):
        server.context.workers = EquivalenceWorkers(Limits(pair_s=60, wait_s=60))
        async with asyncio.timeout(30):
            its = await voted(server)
        assert (its["stopped"], its["equivalence"]["undecided"]) == ("complete", {"busy": 1})
