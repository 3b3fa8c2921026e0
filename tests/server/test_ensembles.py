"""Ensembles: three members, each asked through its own manifest, voted together under one name."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from its_proxy.codesign.errors import ConfigError
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint

STRATEGIES = {"one": "none", "two": "similar", "three": "random"}


@asynccontextmanager
async def three(folder, script=None, broken=(), **settings):
    """A server with three members and `all` of them, each at an upstream of its own, and these upstreams."""

    def answer(name):
        def say(body, number):
            if body.get("return_token_ids"):
                return Say("x", finish_reason="length")
            return script(name, body) if script else Say("\\boxed{7}")

        return say

    async with AsyncExitStack() as stack:
        upstreams, models = {}, {}
        for name, strategy in STRATEGIES.items():
            upstream = await stack.enter_async_context(scripted_upstream(answer(name), [f"{name}@pair"]))
            is_broken = name in broken
            upstream.tokens = lambda body, off=is_broken: [7] if off else tokens_of(body["messages"])
            upstreams[name] = upstream
            checkpoint = write_checkpoint(folder / name, manifest(strategy))
            models[name] = {"upstream": name, "checkpoint": checkpoint, "served_name": f"{name}@pair"}
        document = {
            "upstreams": {name: {"url": upstream.url} for name, upstream in upstreams.items()},
            "models": models,
            "ensembles": {"all": {"members": list(STRATEGIES)}},
            **settings,
        }
        server = await stack.enter_async_context(serving(document))
        for upstream in upstreams.values():
            upstream.forget()
        yield server, upstreams


async def test_each_candidate_is_rewritten_through_its_own_manifest(tmp_path):
    async with three(tmp_path) as (server, upstreams):
        status, completion = await server.chat(model="all", its={"stop": "none"})
        assert status == 200
        sent = {name: {b["messages"][0]["content"] for b in upstream.bodies} for name, upstream in upstreams.items()}
        models = {name: {b["model"] for b in upstream.bodies} for name, upstream in upstreams.items()}
        counts = [len(upstream.bodies) for upstream in upstreams.values()]
    assert counts == [3, 3, 3], "the default n is the first multiple of the members that is at least eight"
    assert models == {name: {f"{name}@pair"} for name in STRATEGIES}
    assert sent["one"] == {"What is 2 + 5?"}
    assert all(len(texts) == 1 for texts in sent.values())
    (similar,), (random,) = sent["two"], sent["three"]
    assert similar.endswith("\n\nWhat is 2 + 5?")
    assert random.endswith("\n\nWhat is 2 + 5?")
    assert similar != random
    assert completion["model"] == "all"


async def test_members_are_reported_and_nothing_is_said_of_one_strategy(tmp_path):
    async with three(tmp_path) as (server, _):
        reply = await server.ask(model="all", its={"stop": "none", "candidates": True})
        pairs = [server.context.catalog.served[name].checkpoint.pair_id for name in STRATEGIES]
    its = reply.json["its"]
    assert (its["strategy"], its["pair_id"], its["handshake"], its["target"]) == (None, None, None, None)
    assert its["members"] == [
        {
            "model": name,
            "strategy": strategy,
            "pair_id": pair_id,
            "handshake": "unverified",
            "target": name,
            "n": 3,
            "lost": 0,
        }
        for (name, strategy), pair_id in zip(STRATEGIES.items(), pairs, strict=True)
    ]
    assert its["votes"] == {"7": 9}
    assert {candidate["member"] for candidate in its["candidates"]} == set(STRATEGIES)
    assert reply.headers["x-its-pair"] == ",".join(pair[:16] for pair in pairs)


async def test_a_lost_member_is_reported_and_the_others_vote(tmp_path):
    def script(name, body):
        return Say(status=500) if name == "two" else Say("\\boxed{7}")

    async with three(tmp_path, script) as (server, _):
        status, completion = await server.chat(model="all", its={"stop": "none"})
    assert status == 200
    assert [member["lost"] for member in completion["its"]["members"]] == [0, 3, 0]
    assert completion["its"]["degraded"] == "lost 3"


async def test_the_vote_is_over_all_members_alike(tmp_path):
    def script(name, body):
        return Say("\\boxed{5}" if name == "one" else "\\boxed{7}")

    async with three(tmp_path, script) as (server, _):
        _, completion = await server.chat(model="all", its={"stop": "none"})
    assert completion["its"]["votes"] == {"7": 6, "5": 3}


async def test_explain_shows_what_each_member_would_be_sent(tmp_path):
    async with three(tmp_path) as (server, upstreams):
        _, plan = await server.chat(model="all", its={"explain": True})
        assert not any(upstream.bodies for upstream in upstreams.values())
    assert [(member["model"], member["strategy"]) for member in plan["members"]] == list(STRATEGIES.items())


async def test_a_mismatched_member_is_never_asked_and_its_share_of_the_candidates_is_lost(tmp_path):
    async with three(tmp_path, broken=["two"]) as (server, upstreams):
        reply = await server.ask(model="two")
        assert (reply.status, reply.error["code"]) == (503, "model_mismatch")
        assert "two is not served" in reply.error["message"]
        assert reply.headers["x-should-retry"] == "false"
        assert int(reply.headers["Retry-After"]) >= 1
        reply = await server.ask(model="all", its={"stop": "none"})
        assert (reply.status, reply.json["its"]["votes"], reply.json["its"]["lost"]) == (200, {"7": 6}, 3)
        lost = {member["model"]: (member["handshake"], member["lost"]) for member in reply.json["its"]["members"]}
        assert lost == {"one": ("unverified", 0), "three": ("unverified", 0), "two": ("mismatch", 3)}
        assert reply.headers["x-its-degraded"] == "lost 3"
        for name in ("one", "three"):
            assert (await server.chat(model=name))[0] == 200
        assert not upstreams["two"].bodies
        cards = {card["id"]: card["its"]["handshake"] for card in (await server.get("/v1/models")).json["data"]}
        assert cards == {
            "one": "unverified",
            "two": "mismatch",
            "three": "unverified",
            "all": ["unverified", "mismatch", "unverified"],
        }
        assert (await server.get("/readyz")).status == 200


@pytest.mark.parametrize(("quorum", "status"), [(0.5, 503), (0.3, 200)])
async def test_members_missing_below_the_quorum_are_told_before_anything_is_asked(tmp_path, quorum, status):
    async with three(tmp_path, broken=["one", "two"], vote={"quorum": quorum}) as (server, upstreams):
        reply = await server.ask(model="all", its={"stop": "none"})
        assert reply.status == status
        assert len(upstreams["three"].bodies) == (3 if status == 200 else 0)
        off = await server.ask(model="all:its-off")
        assert off.status == status, "without a vote a serving member is asked, where the ensemble serves at all"


async def test_ballots_weigh_what_their_member_weighs(tmp_path):
    def script(name, body):
        return Say("\\boxed{5}" if name == "one" else "\\boxed{7}")

    ensembles = {"all": {"members": {"one": 5, "two": 1, "three": 1}}}
    async with three(tmp_path, script, ensembles=ensembles) as (server, _):
        _, completion = await server.chat(model="all", its={"stop": "none", "candidates": True})
    assert completion["its"]["votes"] == {"5": 15, "7": 6}
    assert {c["member"]: c["weight"] for c in completion["its"]["candidates"]} == {"one": 5, "two": 1, "three": 1}


async def test_an_ensemble_streams_its_vote(tmp_path):
    async with three(tmp_path) as (server, _):
        chunks = (await server.ask(model="all", stream=True)).chunks
    assert chunks[-1]["its"]["answer"] == "7"
    assert len(chunks[-1]["its"]["members"]) == 3


async def test_a_member_without_a_manifest_cannot_vote(tmp_path):
    settings = {
        "upstreams": {"gpu": {"url": "http://127.0.0.1:9/v1"}},
        "models": {"one": {"upstream": "gpu"}, "two": {"upstream": "gpu"}},
        "ensembles": {"all": {"members": ["one", "two"]}},
    }
    with pytest.raises(ConfigError, match="ensemble all: one has no manifest"):
        async with serving(settings):
            pass


@pytest.mark.parametrize(("n", "asked"), [(None, 9), (4, 4), (3, 3)])
async def test_an_operator_may_set_the_number_of_all_candidates_together(tmp_path, n, asked):
    ensembles = {"all": {"members": list(STRATEGIES)} | ({"n": n} if n else {})}
    async with three(tmp_path, ensembles=ensembles) as (server, upstreams):
        _, completion = await server.chat(model="all", its={"stop": "none"})
        assert completion["its"]["n"] == asked == sum(len(upstream.bodies) for upstream in upstreams.values())
