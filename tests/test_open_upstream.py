"""An upstream alone: whatever it lists is served, by the manifest that its own root holds or passed through."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import structlog

from its_proxy import open_upstream
from its_proxy.codesign.errors import UpstreamUnreachable
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint


def say(body, number):
    return Say("x" if body.get("return_token_ids") else "\\boxed{1}")


@asynccontextmanager
async def open_server(folder, monkeypatch, **settings):
    """A server over one upstream and no models; `upstream.roots` maps what it lists to where that came from."""
    monkeypatch.setattr(open_upstream, "LIST_TTL_S", 0.05)
    async with scripted_upstream(say, []) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        document = {"upstreams": {"gpu": {"url": upstream.url}}, "roots": [folder / "models"], **settings}
        async with serving(document) as server:
            yield server, upstream


async def state_of(server, upstream, name, state):
    async def card():
        cards = (await server.get("/v1/models")).json["data"]
        return next((card["its"] for card in cards if card["id"] == name), {})

    for _ in range(400):
        if (found := await card()).get("handshake") == state:
            return found
        await upstream.until(lambda: True)
    raise AssertionError(await card())


async def test_a_model_is_served_by_the_manifest_in_its_own_root(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "models" / "qwen", manifest("random"))
    async with open_server(tmp_path, monkeypatch) as (server, upstream):
        upstream.add_model("any-name", root=folder)
        upstream.add_model("plain", root=tmp_path / "models")
        card = await state_of(server, upstream, "any-name", "unverified")
        assert (card["strategy"], card["n"]) == ("random", 8)
        _, reply = await server.chat(model="any-name")
        assert (reply["its"]["strategy"], reply["its"]["votes"]) == ("random", {"1": 8})
        _, plain = await server.chat(model="plain")
        assert "its" not in plain
        upstream.drop_model("any-name")
        await state_of(server, upstream, "any-name", None)
        assert (await server.ask(model="any-name")).status == 404


class Flaky:
    """An upstream whose list can be had or not, as the test says."""

    name = "gpu"

    def __init__(self):
        self.problem = "it sleeps"
        self.n_asked = 0

    async def models(self):
        self.n_asked += 1
        if self.problem:
            raise UpstreamUnreachable(self.problem)
        return []


async def test_a_list_that_cannot_be_had_is_in_the_log_once_for_each_reason(monkeypatch):
    monkeypatch.setattr(open_upstream, "LIST_TTL_S", 0.01)
    upstream = Flaky()
    opened = open_upstream.OpenUpstream(upstream, lambda checkpoint: None, policy=None)
    with structlog.testing.capture_logs() as events:
        task = asyncio.create_task(opened.run(lambda target, verdict: None))
        for problem in ("it sleeps", "it sleeps", "", "it sleeps"):
            upstream.problem = problem
            n_asked = upstream.n_asked
            while upstream.n_asked < n_asked + 2:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    reasons = [event["reason"] for event in events if event["event"] == "no list of models"]
    assert reasons == ["it sleeps", "it sleeps"]


async def test_a_lora_inherits_nothing_from_its_parent(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "models" / "qwen", manifest("random"))
    (tmp_path / "models" / "adapter").mkdir()
    async with open_server(tmp_path, monkeypatch) as (server, upstream):
        upstream.add_model("qwen", root=folder)
        upstream.add_model("adapter", root=tmp_path / "models" / "adapter", parent="qwen")
        await state_of(server, upstream, "qwen", "unverified")
        _, reply = await server.chat(model="adapter")
    assert "its" not in reply


async def test_a_root_outside_of_the_operators_folders_is_never_opened(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "elsewhere", manifest("random"))
    async with open_server(tmp_path, monkeypatch) as (server, upstream):
        upstream.add_model("qwen", root=folder)
        await state_of(server, upstream, "qwen", "none")


async def test_a_manifest_that_does_not_hold_is_not_served_and_hides_no_other(tmp_path, monkeypatch):
    bad = write_checkpoint(tmp_path / "models" / "bad", manifest("random", served="none"))
    good = write_checkpoint(tmp_path / "models" / "good", manifest("similar"))
    async with open_server(tmp_path, monkeypatch) as (server, upstream):
        upstream.add_model("bad", root=bad)
        upstream.add_model("good", root=good)
        await state_of(server, upstream, "good", "unverified")
        reply = await server.ask(model="bad")
    assert (reply.status, reply.error["code"]) == (503, "model_mismatch")
    assert "one side only" in reply.error["message"]


async def test_a_name_that_comes_back_with_another_root_is_another_model(tmp_path, monkeypatch):
    one = write_checkpoint(tmp_path / "models" / "one", manifest("random"))
    two = write_checkpoint(tmp_path / "models" / "two", manifest("similar"))
    async with open_server(tmp_path, monkeypatch) as (server, upstream):
        upstream.add_model("qwen", root=one)
        first = await state_of(server, upstream, "qwen", "unverified")
        upstream.add_model("qwen", root=two)
        for _ in range(400):
            card = await state_of(server, upstream, "qwen", "unverified")
            if card["pair_id"] != first["pair_id"]:
                break
    assert card["strategy"] == "similar"


@pytest.mark.parametrize("settings", [{}, {"roots": []}])
async def test_without_roots_everything_is_passed_through(tmp_path, monkeypatch, settings):
    folder = write_checkpoint(tmp_path / "models" / "qwen", manifest("random"))
    async with open_server(tmp_path / "other", monkeypatch, **settings) as (server, upstream):
        upstream.add_model("qwen", root=folder)
        card = await state_of(server, upstream, "qwen", "none")
        assert "manifest init" in card["advice"]
