"""Limits as clients see them: who gets room, fewer candidates, or a 429 or 503; and what never reaches an upstream."""

import asyncio
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint

HELD = "Hold on: how many are 1 + 1?"
BUSY = {"candidates": 8, "queue": 0}


def say(body, number):
    """One query is never answered; every other one at once."""
    is_held = any("Hold on" in str(message["content"]) for message in body.get("messages", []))
    return Say("\\boxed{7}", delay_s=60.0 if is_held else 0.0)


def key(name, **fields):
    return {"name": name, "sha256": sha256(name.encode()).hexdigest(), **fields}


@asynccontextmanager
async def limited(folder, **settings):
    checkpoint = write_checkpoint(folder / "model", manifest("random")) if folder else None
    async with serving_script(say, checkpoint, **settings) as (server, upstream):
        yield server, upstream


@asynccontextmanager
async def held(server, upstream, **fields):
    """A request that keeps its candidates for the whole block."""
    n_open = upstream.n_open
    asking = asyncio.create_task(server.ask(HELD, **fields))
    admission = server.context.admission
    await upstream.until(lambda: 0 < admission.n_in_flight == upstream.n_open - n_open)
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait({asking})
        await upstream.until(lambda: upstream.n_open == n_open)


async def until_queued(server, upstream, n):
    await upstream.until(lambda: server.context.admission.n_waiting == n)


# -- a full server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"its": {"vote": "off"}}, {"model": "model:its-4"}])
async def test_a_full_server_answers_503_at_once_and_asks_nothing(tmp_path, fields):
    async with limited(tmp_path, limits=BUSY) as (server, upstream), held(server, upstream):
        asked = len(upstream.bodies)
        reply = await server.ask(**fields)
        assert (reply.status, reply.error["code"], reply.error["type"]) == (503, "server_full", "server_error")
        assert int(reply.headers["Retry-After"]) >= 1
        assert len(upstream.bodies) == asked
    assert server.context.admission.n_in_flight == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_what_is_passed_through_counts_as_well(path):
    async with limited(None, limits={"candidates": 1, "queue": 0}) as (server, upstream):
        is_chat = path.endswith("chat/completions")
        asked = {"messages": [{"role": "user", "content": "2 + 5?"}]} if is_chat else {"prompt": "2 + 5?"}
        body = {"model": "model", **asked}
        async with held(server, upstream):
            assert (await server.send("POST", path, body)).status == 503
        assert (await server.send("POST", path, body)).status == 200
    assert server.context.admission.n_in_flight == 0


async def test_a_request_waits_for_room_and_is_then_answered_whole(tmp_path):
    async with limited(tmp_path, limits={"candidates": 8}) as (server, upstream):
        async with held(server, upstream):
            asking = asyncio.create_task(server.ask())
            await until_queued(server, upstream, 1)
        reply = await asking
    assert (reply.status, reply.json["its"]["n"], reply.json["its"]["degraded"]) == (200, 8, None)


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_a_client_that_leaves_the_queue_frees_its_place_and_nothing_of_it_is_asked(tmp_path, fields):
    async with limited(tmp_path, limits={"candidates": 8}) as (server, upstream), held(server, upstream):
        asked = len(upstream.bodies)
        asking = asyncio.create_task(server.ask(**fields))
        await until_queued(server, upstream, 1)
        asking.cancel()
        await until_queued(server, upstream, 0)
        assert len(upstream.bodies) == asked


async def test_a_request_whose_deadline_the_queue_has_eaten_is_never_asked(tmp_path):
    settings = {"limits": {"candidates": 8, "queue_s": 600.0}, "vote": {"deadline_s": 0.3}}
    async with limited(tmp_path, **settings) as (server, upstream):
        async with server.context.admission.door("other").admitted([8]):
            reply = await server.ask()
        assert (reply.status, reply.error["code"], upstream.bodies) == (503, "server_full", [])


async def test_the_time_in_the_queue_belongs_to_the_requests_deadline(tmp_path):
    """It gets its turn, and no more time than if there had been no queue."""
    async with limited(tmp_path, limits={"candidates": 8}, vote={"deadline_s": 1.0}) as (server, upstream):
        async with asyncio.timeout(30):
            async with server.context.admission.door("other").admitted([8]):
                asking = asyncio.create_task(server.ask(HELD))
                await until_queued(server, upstream, 1)
            assert (await asking).status == 504
        await upstream.until(lambda: upstream.n_open == 0)


@pytest.mark.parametrize("min_n", [None, 2])
async def test_ten_times_more_than_there_is_room_for_is_answered_or_turned_away_and_leaves_nothing(tmp_path, min_n):
    limits, vote = {"candidates": 16, "queue": 4}, {"n": 4, **({"min_n": min_n} if min_n else {})}
    most_open = 0

    def counted(body, number):
        nonlocal most_open
        most_open = max(most_open, upstream.n_open + 1)
        return Say("\\boxed{7}", delay_s=0.02)

    checkpoint = write_checkpoint(tmp_path / "model", manifest("random"))
    async with serving_script(counted, checkpoint, limits=limits, vote=vote) as (server, upstream):
        replies = await asyncio.gather(*(server.ask() for _ in range(80)))
        await upstream.until(lambda: upstream.n_open == 0)
    told = {(reply.status, reply.json.get("error", {}).get("code")) for reply in replies}
    assert told == {(200, None), (503, "server_full")}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in replies if reply.status == 503)
    answered = sum(reply.status == 200 for reply in replies)
    assert answered >= 8, "four that run at first, and four that wait"
    sizes = [reply.json["its"]["n"] for reply in replies if reply.status == 200]
    if min_n is None:
        assert set(sizes) == {4}
    else:
        assert sizes.count(min_n) >= 3, "all that waited, but for the last, which may wait alone"
    assert most_open <= 16 + 1, "a call that is hung up on is gone a moment later"
    assert (server.context.admission.n_in_flight, server.context.admission.n_waiting) == (0, 0)


# -- fewer candidates --------------------------------------------------------------------------------------------------


async def test_under_pressure_a_vote_has_fewer_candidates_and_says_so(tmp_path):
    async with limited(tmp_path, limits={"candidates": 11, "queue": 0}, vote={"min_n": 3}) as (server, upstream):
        async with held(server, upstream):
            reply = await server.ask()
            streamed = await server.ask(stream=True)
        whole = await server.ask()
    its = reply.json["its"]
    assert (reply.status, its["n"], its["n_requested"], its["degraded"]) == (200, 3, 8, "reduced n to 3")
    assert reply.headers["x-its-degraded"] == "reduced n to 3"
    assert reply.headers["x-its-votes"].endswith("/8")
    assert streamed.chunks[-1]["its"]["n"] == streamed.chunks[-1]["its"]["n_requested"] - 5
    assert streamed.headers["x-its-degraded"] == "reduced n to 3"
    assert (whole.json["its"]["n"], whole.json["its"]["n_requested"], whole.json["its"]["degraded"]) == (8, None, None)


async def test_who_asks_for_a_number_of_candidates_gets_them_or_nothing(tmp_path):
    async with limited(tmp_path, limits={"candidates": 11, "queue": 0}, vote={"min_n": 3}) as (server, upstream):
        async with held(server, upstream):
            refused = await server.ask(its={"n": 8})
        reply = await server.ask(its={"n": 8})
    assert (refused.status, reply.status, reply.json["its"]["n"]) == (503, 200, 8)


async def test_without_min_n_no_vote_is_ever_smaller(tmp_path):
    limits = {"candidates": 11, "queue": 0}
    async with limited(tmp_path, limits=limits) as (server, upstream), held(server, upstream):
        assert (await server.ask()).status == 503


# -- one caller --------------------------------------------------------------------------------------------------------


async def test_a_key_has_its_own_limit_of_candidates_and_others_are_not_touched(tmp_path):
    keys = [key("small", max_candidates=8), key("other")]
    async with limited(tmp_path, keys=keys, limits={"queue": 0}) as (server, upstream):
        async with held(server, upstream, key="small"):
            refused, other = await server.ask(key="small"), await server.ask(key="other")
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert refused.error["type"] == "rate_limit_error"
        assert int(refused.headers["Retry-After"]) >= 1
        assert (other.status, (await server.ask(key="small")).status) == (200, 200)


async def test_a_key_with_room_for_less_than_a_vote_gets_its_vote_in_turns(tmp_path):
    async with limited(tmp_path, keys=[key("tiny", max_candidates=2)]) as (server, _):
        reply = await server.ask(key="tiny")
    assert (reply.status, reply.json["its"]["n"], reply.json["its"]["degraded"]) == (200, 8, None)


async def test_a_key_has_its_own_rate_and_its_tenants_have_theirs(tmp_path):
    keys = [key("front", rights=["front"], requests_per_minute=2), key("free")]
    async with limited(tmp_path, keys=keys, tenant_from="user") as (server, _):
        statuses = [(await server.ask(key="front", user="anna")).status for _ in range(3)]
        last = await server.ask(key="front", user="anna")
        others = [(await server.ask(key="front", user="bert")).status, (await server.ask(key="free")).status]
    assert (statuses, last.error["code"], others) == ([200, 200, 429], "rate_limit_exceeded", [200, 200])
    assert int(last.headers["Retry-After"]) >= 20


# -- what is told ------------------------------------------------------------------------------------------------------


async def test_the_metrics_tell_what_runs_what_waits_and_who_was_turned_away(tmp_path):
    async with limited(tmp_path, limits={"candidates": 8, "queue": 1}) as (server, upstream), held(server, upstream):
        asking = asyncio.create_task(server.ask())
        await until_queued(server, upstream, 1)
        await server.ask()
        lines = (await server.get("/metrics")).raw.decode().splitlines()
        asking.cancel()
        await asyncio.wait({asking})
    assert "its_proxy_candidates_inflight 8.0" in lines
    assert "its_proxy_queued_requests 1.0" in lines
    assert 'its_proxy_rejected_total{reason="queue_full"} 1.0' in lines
    assert 'its_proxy_rejected_total{reason="rate"} 0.0' in lines
