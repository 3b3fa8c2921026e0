"""A served model without our server: proved once, then answered in this process."""

import asyncio
from importlib.util import find_spec

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError, ModelUnavailable, RequestError
from its_proxy.equivalence import Limits
from its_proxy.exchange import EVENTS_A_TURN, Front
from its_proxy.plan import VoteRules
from its_proxy.served import Served
from its_proxy.service import Service, served_at
from its_proxy.upstreams.http import HttpUpstream
from tests.equivalence.test_workers import children
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

QUERY = "What is 2 + 5?"


def body(**fields):
    return {"model": "model", "messages": [{"role": "user", "content": QUERY}], **fields}


def say(sent, number):
    return Say("x" if sent.get("return_token_ids") else "\\boxed{7}")


def service_at(upstream, checkpoint, **options):
    return Service(served_at(HttpUpstream("gpu", upstream.url), "model", checkpoint), **options)


async def test_a_service_proves_its_checkpoint_and_then_votes(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    async with scripted_upstream(say, ["model"]) as upstream:
        upstream.tokens = lambda sent: tokens_of(sent["messages"])
        service = service_at(upstream, checkpoint)
        await service.ready()
        reply = await service.exchange(body(), "req-1").reply()
        async with service.exchange(body(stream=True), "req-2").stream() as streamed:
            events = b"".join([chunk async for chunk in streamed.chunks])
        await service.close()
    assert (reply.body["its"]["strategy"], reply.body["its"]["answer"]) == ("random", "7")
    assert reply.headers["x-its-pair"] == checkpoint.pair_id[:16]
    assert events.endswith(b"data: [DONE]\n\n")
    assert b'"its":' in events


async def test_a_long_text_told_as_a_stream_leaves_turns_to_others(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    n_turns = 0

    async def other() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    async with scripted_upstream(lambda sent, number: Say("so " * 20_000 + "\\boxed{7}"), ["model"]) as upstream:
        upstream.tokens = lambda sent: tokens_of(sent["messages"])
        service = service_at(upstream, checkpoint)
        await service.ready()
        async with service.exchange(body(stream=True), "req").stream() as streamed:
            assert b'"role":"assistant"' in await anext(streamed.chunks)
            first = await anext(streamed.chunks)
            beside = asyncio.create_task(other())
            told = [first] + [chunk async for chunk in streamed.chunks]
            beside.cancel()
        await service.close()
    assert len(told) > 900
    assert n_turns >= len(told) // EVENTS_A_TURN


@pytest.mark.skipif(find_spec("sympy") is None, reason="its-proxy[math] is not installed")
async def test_a_service_compares_answers_by_workers_of_its_own_and_leaves_none(tmp_path):
    before = children()
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    surds = ("7", r"\sqrt{8}", r"2\sqrt{2}")

    def say(sent, number):
        return Say("x" if sent.get("return_token_ids") else f"\\boxed{{{surds[sent['seed'] % 3]}}}")

    async with scripted_upstream(say, ["model"]) as upstream:
        upstream.tokens = lambda sent: tokens_of(sent["messages"])
        service = service_at(upstream, checkpoint, comparer=None)
        await service.ready()
        service._workers.limits = Limits(wait_s=30)
        reply = await service.exchange(body(seed=0, its={"n": 3, "stop": "none"}), "req-1").reply()
        assert children() - before
        await service.close()
    assert reply.body["its"]["votes"] == {r"\sqrt{8}": 2, "7": 1}
    assert children() - before == set()


async def test_a_mismatch_is_told_before_the_first_query(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    async with scripted_upstream(say, ["model"]) as upstream:
        upstream.tokens = lambda sent: [1, 2, 3]
        service = service_at(upstream, checkpoint)
        with pytest.raises(ModelUnavailable, match="not served") as caught:
            await service.ready()
        await service.close()
    assert caught.value.code == "model_mismatch"


async def test_a_server_that_is_away_is_pending_and_served_when_it_is_there(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("none")))
    async with scripted_upstream(say, ["other"]) as upstream:
        upstream.tokens = lambda sent: tokens_of(sent["messages"])
        service = service_at(upstream, checkpoint)
        with pytest.raises(ModelUnavailable) as caught:
            await service.ready()
        assert caught.value.code == "model_pending"
        upstream.add_model("model")
        async with asyncio.timeout(10):
            while not service.served.is_serving:
                await asyncio.sleep(0.05)
        await service.ready()
        await service.close()


async def test_what_a_trusted_front_has_applied_goes_on_as_it_came(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    async with scripted_upstream(say, ["model"]) as upstream:
        upstream.tokens = lambda sent: tokens_of(sent["messages"])
        service = service_at(upstream, checkpoint)
        await service.ready()
        n_asked = len(upstream.bodies)
        reply = await service.exchange(body(), "req", front=Front(checkpoint.pair_id, True)).reply()
        sent = upstream.bodies[n_asked:]
        with pytest.raises(RequestError, match="the layer in front applied pair deadbeef"):
            await service.exchange(body(), "req", front=Front("deadbeef" * 8, True)).reply()
        mistrusted = await service.exchange(body(), "req", front=Front(checkpoint.pair_id)).reply()
        await service.close()
    assert [one["messages"] for one in sent] == [body()["messages"]]
    assert "its" not in reply.body
    assert mistrusted.body["its"]["degraded"] == "x-its-applied ignored"


async def test_a_rewrite_alone_keeps_what_the_client_says(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    async with scripted_upstream(say, ["model"]) as upstream:
        service = service_at(upstream, checkpoint)
        rewritten = service.rewritten(body(seed=3, stream=True, temperature=0, tools=[]))
        await service.close()
    assert rewritten["messages"][0]["content"].endswith(f"\n\n{QUERY}")
    assert {key: rewritten[key] for key in ("seed", "stream", "temperature", "top_p")} == {
        "seed": 3, "stream": True, "temperature": 0, "top_p": 0.95,
    }  # fmt: skip


async def test_an_ensemble_has_no_one_rewrite(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    one = served_at(HttpUpstream("gpu", "http://127.0.0.1:9/v1"), "model", checkpoint)
    with pytest.raises(ConfigError, match="is an ensemble"):
        Service(Served("three", one.models * 3, VoteRules())).rewritten(body())
