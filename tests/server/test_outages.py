"""Upstreams that are away for a while: how little is asked of them, and that nobody notices where there is another."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, serving_script, tokens_of, write_checkpoint

N = 4


@pytest.mark.parametrize("fields", [{"its": {"vote": "off"}}, {"its": {"vote": "off"}, "stream": True}, {}])
async def test_an_upstream_that_answers_503_gets_at_most_a_quarter_more_calls(tmp_path, fields):
    checkpoint = write_checkpoint(tmp_path / "model", manifest("random"))
    async with serving_script(Say(status=503), checkpoint, vote={"n": N}) as (server, upstream):
        wanted = 240
        n_requests = wanted // (1 if fields else N)
        for _ in range(n_requests // 20):
            replies = await asyncio.gather(*(server.ask(**fields) for _ in range(20)))
            assert {reply.status for reply in replies} == {503}
            assert all(int(reply.headers["Retry-After"]) >= 1 for reply in replies)
        assert wanted <= len(upstream.bodies) <= 1.25 * wanted


@asynccontextmanager
async def two_targets(folder, say):
    """A server with one model at two upstreams; `say` is what the first answers clients with."""

    def first(body, number):
        return Say("x", finish_reason="length") if body.get("return_token_ids") else say()

    def second(body, number):
        return Say("x", finish_reason="length") if body.get("return_token_ids") else Say("\\boxed{7}")

    checkpoint = write_checkpoint(folder / "model", manifest("random"))
    async with scripted_upstream(first) as one, scripted_upstream(second) as two:
        for upstream in (one, two):
            upstream.tokens = lambda body: tokens_of(body["messages"])
        settings = {
            "upstreams": {"one": {"url": one.url}, "two": {"url": two.url}},
            "models": {"model": {"upstream": ["one", "two"], "checkpoint": checkpoint}},
            "vote": {"n": N},
        }
        async with serving(settings) as server:
            one.forget(), two.forget()
            yield server, one, two


@pytest.mark.parametrize(("headers", "status"), [({}, 503), ({"Retry-After": "60"}, 503), ({"Retry-After": "60"}, 429)])
async def test_nobody_notices_that_one_of_two_targets_is_busy(tmp_path, headers, status):
    async with two_targets(tmp_path, lambda: Say(status=status, headers=headers)) as (server, one, _):
        for _ in range(10):
            replies = await asyncio.gather(*(server.ask() for _ in range(10)))
            assert {reply.status for reply in replies} == {200}
            assert {reply.json["its"]["lost"] for reply in replies} == {0}
        n_first = len(one.bodies)
        assert n_first <= 10 * N if headers else n_first < 200, "only those that came before it was known"


async def test_a_target_that_fails_costs_the_queries_that_find_it_out_and_no_more(tmp_path):
    is_down = True
    async with two_targets(tmp_path, lambda: Say(status=500) if is_down else Say("\\boxed{7}")) as (server, one, _):
        statuses = [(await server.ask()).status for _ in range(50)]
        assert statuses.count(200) >= 47
        is_down = False
        asked = len(one.bodies)
        async with asyncio.timeout(20):
            while len(one.bodies) == asked:
                assert (await server.ask()).status == 200
                await asyncio.sleep(0.02)
