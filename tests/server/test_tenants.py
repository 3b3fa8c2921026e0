"""Tenants: each one's prompts are kept apart in an upstream's prefix cache."""

import re
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from its_proxy.settings import load_settings
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, model_settings, serving, tokens_of, write_checkpoint


def say(body, number):
    return Say("x" if body.get("return_token_ids") else "\\boxed{1}")


def key(name, rights=()):
    return {"name": name, "sha256": sha256(name.encode()).hexdigest(), "rights": list(rights)}


@asynccontextmanager
async def salted(folder, upstream_fields=(), **settings):
    """A server with two keys, one of them a front, and what its upstream (vLLM, it says) was sent."""
    checkpoint = write_checkpoint(folder / "model", manifest("random"))
    async with scripted_upstream(say) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        upstream.owned_by = "vllm"
        keys = [key("one"), key("two"), key("front", ["front"])]
        document = model_settings(upstream.url, checkpoint) | {"keys": keys} | settings
        document["upstreams"]["gpu"].update(upstream_fields)
        async with serving(document) as server:
            upstream.forget()

            async def salts_of(caller, **fields):
                upstream.forget()
                assert (await server.ask(key=caller, **fields)).status == 200
                return {body.get("cache_salt") for body in upstream.bodies}

            yield server, salts_of


async def test_every_key_has_a_salt_of_its_own_that_vllm_can_take(tmp_path):
    async with salted(tmp_path) as (_, salts_of):
        [one], [two], [again] = [await salts_of(name) for name in ("one", "two", "one")]
    assert one == again != two
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", one)


async def test_a_front_speaks_for_its_users_and_nobody_else_does(tmp_path):
    async with salted(tmp_path, tenant_from="user") as (_, salts_of):
        [anna], [bert], [front] = [await salts_of("front", **f) for f in ({"user": "anna"}, {"user": "bert"}, {})]
        [one], [forged] = await salts_of("one"), await salts_of("one", user="anna")
    assert len({anna, bert, front, one}) == 4
    assert one == forged, "a key without the right `front` is itself, whatever it says"


async def test_a_tenant_may_come_in_a_header(tmp_path):
    async with salted(tmp_path, tenant_from="header:X-Team_Name") as (server, _):
        upstream = server.context.catalog.upstreams[0]
        assert upstream.takes_cache_salt
        body = {"model": "model", "messages": [{"role": "user", "content": "2 + 5?"}]}
        headers = {"Authorization": "Bearer front", "X-Team_Name": "blue"}
        assert (await server.send("POST", "/v1/chat/completions", body, headers)).status == 200


async def test_an_empty_word_of_a_front_says_nothing(tmp_path):
    async with salted(tmp_path) as (server, _):
        body = {"model": "model", "messages": [{"role": "user", "content": "2 + 5?"}]}
        headers = {"Authorization": "Bearer front", "x-its-applied": ""}
        reply = await server.send("POST", "/v1/chat/completions", body, headers)
    assert reply.json["its"]["strategy"] == "random"
    assert reply.json["its"]["degraded"] is None


@pytest.mark.parametrize(("fields", "owner", "salted_"), [
    ({}, "vllm", True), ({}, "openai", False),
    ({"cache_salt": False}, "vllm", False), ({"cache_salt": True}, "openai", True),
])  # fmt: skip
async def test_an_upstream_that_might_refuse_the_field_is_not_sent_it(tmp_path, fields, owner, salted_):
    checkpoint = write_checkpoint(tmp_path / "model", manifest("random"))
    async with scripted_upstream(say) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        upstream.owned_by = owner
        document = model_settings(upstream.url, checkpoint) | {"keys": [key("one")]}
        document["upstreams"]["gpu"].update(fields)
        async with serving(document) as server:
            upstream.forget()
            await server.ask(key="one")
            assert all(("cache_salt" in body) is salted_ for body in upstream.bodies)


async def test_without_keys_there_is_one_tenant_and_no_salt(tmp_path):
    async with salted(tmp_path, keys=[]) as (_, salts_of):
        assert await salts_of(None) == {None}


@pytest.mark.parametrize("source", ["header:", "header:a b", "cookie", ""])
def test_a_tenant_comes_from_a_known_place(source):
    with pytest.raises(Exception, match="should be key, user or header:NAME"):
        load_settings(None, {}, {"tenant_from": source})
