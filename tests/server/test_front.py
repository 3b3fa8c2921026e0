"""`x-its-applied`: whom the server believes that a query is rewritten already, and what it makes of it then."""

from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from its_proxy.checkpoint import open_checkpoint
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, model_settings, serving, tokens_of, write_checkpoint

QUERY = "What is 2 + 5?"
MESSAGES = [{"role": "user", "content": QUERY}]
KEYS = [
    {"name": name, "sha256": sha256(name.encode()).hexdigest(), "rights": rights}
    for name, rights in (("front", ["front"]), ("forcing", ["force", "explain", "candidates"]))
]


def say(body, number):
    return Say("x" if body.get("return_token_ids") else "\\boxed{7}")


@asynccontextmanager
async def fronted(folder, **settings):
    """A way to ask a model as a layer in front would, by default with the pair's own mark, and its upstream."""
    checkpoint = write_checkpoint(folder / "random", manifest("random"))
    pair_id = open_checkpoint(checkpoint).pair_id
    async with scripted_upstream(say) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        async with serving(model_settings(upstream.url, checkpoint) | settings) as server:
            upstream.forget()

            async def ask(mark=pair_id, key=None, path="chat/completions", **fields):
                headers = {"x-its-applied": mark} | ({"Authorization": f"Bearer {key}"} if key else {})
                asked = {"messages": MESSAGES} if path == "chat/completions" else {"prompt": [1, 2]}
                return await server.send("POST", f"/v1/{path}", {"model": "model", **asked, **fields}, headers)

            yield ask, upstream


def believed(reply, upstream):
    """Whether the query went on as it came, once."""
    return reply.status == 200 and "its" not in reply.json and [b["messages"] for b in upstream.bodies] == [MESSAGES]


def disbelieved(reply, upstream):
    """Whether the query was rewritten and voted on all the same, the reply says why, and the mark went no further."""
    assert reply.json["its"]["degraded"] == "x-its-applied ignored"
    assert reply.headers["x-its-degraded"] == "x-its-applied ignored"
    contents = {body["messages"][0]["content"] for body in upstream.bodies}
    marks = {headers["x-its-applied"] for headers in upstream.headers}
    return len(contents) == 1 and contents != {QUERY} and marks == {reply.json["its"]["pair_id"]}


async def test_a_key_with_the_right_is_believed(tmp_path):
    async with fronted(tmp_path, keys=KEYS) as (ask, upstream):
        assert believed(await ask(key="front"), upstream)


async def test_a_key_without_the_right_is_not_whatever_else_it_may(tmp_path):
    async with fronted(tmp_path, keys=KEYS) as (ask, upstream):
        assert disbelieved(await ask(key="forcing"), upstream)


async def test_without_keys_everyone_is_believed(tmp_path):
    async with fronted(tmp_path) as (ask, upstream):
        assert believed(await ask(), upstream)


async def test_where_nobody_may_force_nobody_is_believed(tmp_path):
    async with fronted(tmp_path, allow_force=False) as (ask, upstream):
        assert disbelieved(await ask(), upstream)


async def test_a_front_that_applied_another_pair_is_told(tmp_path):
    async with fronted(tmp_path, keys=KEYS) as (ask, upstream):
        refused = await ask("deadbeef" * 8, "front")
        assert (refused.status, refused.error["code"]) == (400, "pair_mismatch")
        assert "the layer in front applied pair deadbeef, and model has pair" in refused.error["message"]
        assert upstream.bodies == []
        assert disbelieved(await ask("deadbeef" * 8, "forcing"), upstream)


async def test_a_streamed_query_goes_on_as_it_came_too(tmp_path):
    async with fronted(tmp_path) as (ask, upstream):
        reply = await ask(stream=True)
        [sent] = upstream.bodies
    assert (sent["messages"], sent["stream"]) == (MESSAGES, True)
    assert all("its" not in chunk for chunk in reply.chunks)


async def test_nothing_is_voted_on_twice(tmp_path):
    async with fronted(tmp_path) as (ask, upstream):
        refused = await ask(its={"n": 4})
        assert (refused.status, refused.error["param"]) == (400, "its")
    assert upstream.bodies == []


async def test_text_completions_pass_with_a_believed_mark_alone(tmp_path):
    async with fronted(tmp_path, keys=KEYS) as (ask, upstream):
        passed = await ask(key="front", path="completions")
        refused = await ask(key="forcing", path="completions")
        other = await ask("deadbeef" * 8, "front", path="completions")
    assert passed.status == 200
    assert (refused.status, refused.error["code"]) == (400, "strategy_not_applicable")
    assert (other.status, other.error["code"]) == (400, "pair_mismatch")
    assert [body["prompt"] for body in upstream.bodies] == [[1, 2]]


@pytest.mark.parametrize("allow_force", [True, False])
async def test_past_a_model_without_a_pair_a_believed_mark_goes_on(tmp_path, allow_force):
    headers, body = {"x-its-applied": "deadbeef" * 8}, {"model": "model", "messages": MESSAGES}
    text = {"model": "model", "prompt": "x"}
    async with (
        scripted_upstream(say) as upstream,
        serving(model_settings(upstream.url, None) | {"allow_force": allow_force}) as server,
    ):
        for path, asked in (("chat/completions", body), ("chat/completions", {**body, "stream": True}),
                            ("completions", text)):  # fmt: skip
            assert (await server.send("POST", f"/v1/{path}", asked, headers)).status == 200
    marks = [headers.get("x-its-applied") for headers in upstream.headers]
    assert marks == ["deadbeef" * 8 if allow_force else None] * 3


@pytest.mark.parametrize("key", ["front", "forcing"])
async def test_an_ensemble_has_no_pair_of_its_own(tmp_path, key):
    members = {name: write_checkpoint(tmp_path / name, manifest(name)) for name in ("random", "none")}
    pair_id = open_checkpoint(members["random"]).pair_id
    async with scripted_upstream(say, list(members)) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        models = {name: {"upstream": "gpu", "checkpoint": folder} for name, folder in members.items()}
        settings = {
            "upstreams": {"gpu": {"url": upstream.url}},
            "models": models,
            "ensembles": {"both": {"members": list(members)}},
            "keys": KEYS,
        }
        async with serving(settings) as server:
            headers = {"x-its-applied": pair_id, "Authorization": f"Bearer {key}"}
            body = {"model": "both", "messages": MESSAGES}
            reply = await server.send("POST", "/v1/chat/completions", body, headers)
    if key == "front":
        assert (reply.status, reply.error["code"]) == (400, "pair_mismatch")
        assert "both has no pair of its own" in reply.error["message"]
    else:
        assert reply.json["its"]["degraded"] == "x-its-applied ignored"
