"""A fleet of three servers rolls from one checkpoint to the next under load, as docs/rolling-over.md tells it."""

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_proxy.plan import VoteRules
from its_proxy.server.catalog import Catalog, Model, Served
from its_proxy.server.watch import watch
from its_proxy.settings import load_settings
from its_proxy.targets import Target
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint

OLD, NEW = "random", "similar"
PLACES = ("s1", "s2", "s3")
QUERIES = [f"How many eggs are {number} eggs and 4 eggs?" for number in range(40)]
N_CLIENTS = 4


def rewritten(strategy, query):
    recipe = Recipe(strategy_named(strategy), pool=taxonomy_pool(), seed=7)
    return rewrite(recipe, [{"role": "user", "content": query}]).messages


async def until(condition):
    """Returns when it holds, however long that takes on a busy machine."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


class Fleet:
    """Three ports, each with a server of one checkpoint or none.

    `prompts`: what servers of each checkpoint have taken on; `silent`: ports where queries get no reply.
    """

    def __init__(self, folder):
        self.checkpoints = {name: write_checkpoint(folder / name, manifest(name)) for name in (OLD, NEW)}
        self.prompts = {OLD: [], NEW: []}
        self.running = {}
        self.weights = {OLD: 100, NEW: 0}
        self.drained = None
        self.silent = set()
        self._ports = {}
        self._open = {}

    async def start(self, place, strategy):
        def say(body, number):
            if body["model"] != f"egg@{strategy}":
                return Say(status=404)
            if body.get("return_token_ids"):
                return Say("x", finish_reason="length")
            self.prompts[strategy].append(body["messages"])
            return Say("\\boxed{1}", delay_s=60 if place in self.silent else 0.01)

        self._open[place] = stack = AsyncExitStack()
        serving_it = scripted_upstream(say, [f"egg@{strategy}"], self._ports.get(place, 0))
        upstream = await stack.enter_async_context(serving_it)
        upstream.tokens = lambda body: tokens_of(body["messages"])
        self.running[place] = upstream
        self._ports[place] = urlsplit(upstream.url).port

    async def stop(self, place):
        self.running.pop(place, None)
        await self._open[place].aclose()

    async def close(self):
        for place in self._open:
            await self.stop(place)

    def flags(self):
        upstreams = {
            place: {"url": f"http://127.0.0.1:{port}/v1", "poll_s": 0.05, "drain": place == self.drained}
            for place, port in self._ports.items()
        }
        models = {
            name: {"upstream": list(PLACES), "checkpoint": self.checkpoints[name], "served_name": f"egg@{name}"}
            for name in (OLD, NEW)
        }
        aliases = {"egg": {"models": self.weights}}
        return {"upstreams": upstreams, "models": models, "aliases": aliases, "drain_s": 0.1}

    def settings(self):
        return load_settings(None, {}, self.flags())


@asynccontextmanager
async def rolling(folder):
    """A fleet with the old checkpoint everywhere, and its-proxy in front of it."""
    fleet = Fleet(folder)
    try:
        for place in PLACES:
            await fleet.start(place, OLD)
        async with serving(fleet.flags(), wait=False, read=fleet.settings) as server:
            await until(lambda: all(target(server, OLD, place).is_serving for place in PLACES))
            yield fleet, server
    finally:
        await fleet.close()


@asynccontextmanager
async def load(server):
    """Clients that ask one query after the other for as long as the block runs: (status, `its` or error) of each."""
    replies, is_over = [], False

    async def client(number):
        for query in QUERIES[number:] * 1000:
            if is_over:
                return
            status, document = await server.chat(query, "egg")
            replies.append((status, document.get("its") or document["error"]))

    async with asyncio.TaskGroup() as group:
        for number in range(N_CLIENTS):
            group.create_task(client(number))
        yield replies
        is_over = True


def target(server, model, place):
    return next(t for t in server.context.catalog.targets() if (t.model, t.upstream.name) == (model, place))


async def more(replies, n=12):
    enough = len(replies) + n
    await until(lambda: len(replies) >= enough)


async def drained(target):
    """One look is not enough: a query may have been given its target and not have begun its calls yet."""
    n_looks = 0
    while n_looks < 10:
        n_looks = n_looks + 1 if target.n_in_flight == 0 else 0
        await asyncio.sleep(0.005)


def wrong_prompts(fleet):
    """What a server took on that is not a query as its own checkpoint has it rewritten."""
    for strategy, prompts in fleet.prompts.items():
        right = [rewritten(strategy, query) for query in QUERIES]
        yield from (prompt for prompt in prompts if prompt not in right)


def test_the_two_checkpoints_rewrite_every_query_differently():
    assert all(rewritten(OLD, query) != rewritten(NEW, query) for query in QUERIES)


async def test_a_fleet_rolls_over_without_a_lost_or_a_mismatched_query(tmp_path):
    async with rolling(tmp_path) as (fleet, server), load(server) as replies:
        await more(replies)
        for n_rolled, place in enumerate(PLACES):
            n_old = len(PLACES) - n_rolled
            fleet.drained = place
            fleet.weights = {OLD: n_old, NEW: n_rolled} if n_old > 1 else {OLD: 0, NEW: 1}
            server.reload()
            await drained(target(server, OLD, place))
            await fleet.stop(place)
            await fleet.start(place, NEW)
            await until(lambda place=place: target(server, NEW, place).is_serving)
            fleet.drained, fleet.weights = None, {OLD: n_old - 1, NEW: n_rolled + 1}
            server.reload()
            await more(replies)
        n_before = len(replies)
        await more(replies, 40)
        last = replies[n_before + N_CLIENTS :]
    assert Counter(status for status, _ in replies) == {200: len(replies)}
    assert not any(its["lost"] for _, its in replies)
    assert list(wrong_prompts(fleet)) == []
    assert {its["strategy"] for _, its in replies} == {OLD, NEW}
    assert {(its["strategy"], its["target"]) for _, its in last} == {(NEW, place) for place in PLACES}


async def test_a_killed_server_costs_what_was_in_flight_on_it_and_is_used_again_when_it_is_back(tmp_path):
    async with rolling(tmp_path) as (fleet, server):
        fleet.silent.add("s2")
        async with load(server) as replies:
            victim = fleet.running["s2"]
            await until(lambda: victim.n_open >= 8 and len(replies) >= 12)
            await fleet.stop("s2")
            queries = [body["messages"] for body in victim.bodies if "return_token_ids" not in body]
            n_in_flight = len(set(map(json.dumps, queries)))
            await until(lambda: not target(server, OLD, "s2").is_serving)
            await more(replies)
            failed = [error for status, error in replies if status != 200]
            fleet.silent.clear()
            await fleet.start("s2", OLD)
            await until(lambda: target(server, OLD, "s2").is_serving)
            assert not target(server, OLD, "s2").health.is_ejected
            await until(lambda: fleet.running["s2"].n_finished > 20)
    assert len(failed) == n_in_flight
    assert all("upstream s2 " in error["message"] for error in failed)
    assert Counter(status for status, _ in replies) == {200: len(replies) - n_in_flight, 502: n_in_flight}
    assert list(wrong_prompts(fleet)) == []


class Noted(Target):
    """Counts how often something called for another examination."""

    n_rechecks = 0

    def recheck(self):
        self.n_rechecks += 1
        super().recheck()


async def test_a_server_that_is_there_again_is_examined_without_waiting_for_the_next_try(tmp_path):
    fleet = Fleet(tmp_path)
    await fleet.start("s1", OLD)
    url = fleet.running["s1"].url
    await fleet.stop("s1")
    upstream = HttpUpstream("s1", url, poll_s=0.02)
    checkpoint = open_checkpoint(fleet.checkpoints[OLD])
    noted = Noted("egg", upstream, f"egg@{OLD}", checkpoint)
    catalog = Catalog({"egg": Served("egg", (Model("egg", checkpoint, (noted,)),), VoteRules())}, [upstream])
    watching = asyncio.create_task(watch(catalog, lambda target, verdict: None))
    try:
        await asyncio.sleep(0.2)
        assert noted.n_rechecks == 0
        await fleet.start("s1", OLD)
        await until(lambda: noted.n_rechecks > 0)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await upstream.close()
        await fleet.close()


async def test_a_server_that_is_swapped_between_two_looks_at_it_answers_nothing_meant_for_the_other_pair(tmp_path):
    """Nobody drained it, and its-proxy still believes in the old checkpoint there: its name answers 404."""
    async with rolling(tmp_path) as (fleet, server):
        await fleet.stop("s1")
        await fleet.start("s1", NEW)
        async with load(server) as replies:
            await more(replies, 20)
    assert Counter(status for status, _ in replies) == {200: len(replies)}
    assert {its["strategy"] for _, its in replies} == {OLD}
    assert fleet.prompts[NEW] == []
