import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from its_proxy.checkpoint import Checkpoint, check_weights, open_checkpoint
from its_proxy.codesign.errors import DigestMismatch, ManifestError, ModelUnavailable
from its_proxy.handshake import NO_MANIFEST, Handshake, Verdict, check
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint
from tests.upstreams.conftest import make_checkpoint

WEIGHTS = b"weights"


def opened(folder: Path, strategy: str = "random", **fields: Any) -> Checkpoint:
    """A checkpoint with one weight file and its digest in the manifest."""
    fields = {"provenance": {"weights_sha256": {"model.safetensors": sha256(WEIGHTS).hexdigest()}}, **fields}
    write_checkpoint(folder, manifest(strategy, **fields))
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return open_checkpoint(folder)


def yes(body: dict[str, Any], number: int) -> Say:
    return Say("x", finish_reason="length")


@asynccontextmanager
async def at(script: Script = yes, *, shows_tokens: bool = True, models: list[str] | None = None,
             tokens: Callable[[dict[str, Any]], list[int]] = lambda body: tokens_of(body["messages"]),
             ) -> AsyncIterator[tuple[HttpUpstream, ScriptedUpstream]]:  # fmt: skip
    async with scripted_upstream(script, models) as scripted:
        scripted.tokens = tokens if shows_tokens else None
        upstream = HttpUpstream("gpu", scripted.url)
        try:
            yield upstream, scripted
        finally:
            await upstream.close()


# -- the verdicts ------------------------------------------------------------------------------------------------------


async def test_local_weights_with_the_recorded_digests_and_tokens_are_verified(tmp_path):
    async with at() as (upstream, _):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict == Verdict("verified", "tokens of 1 probes are those recorded, and so are the weights' digests")


async def test_a_real_embedded_checkpoint_is_verified_by_its_own_tokens(tmp_path):
    pytest.importorskip("torch")
    folder = make_checkpoint(tmp_path / "model", seed=1, context=512)
    upstream = EmbeddedUpstream("embedded", {"model": folder})
    try:
        messages = manifest("similar")["probes"][0]["messages"]
        asked = {"model": "model", "messages": messages, "max_tokens": 1, "return_token_ids": True}
        tokens = (await upstream.complete(asked, "r"))["prompt_token_ids"]
        digests = {"model.safetensors": sha256((folder / "model.safetensors").read_bytes()).hexdigest()}
        document = manifest("similar", provenance={"weights_sha256": digests})
        document["probes"][0]["prompt_token_ids"] = tokens
        checkpoint = open_checkpoint(write_checkpoint(folder, document))
        assert (await check(checkpoint, upstream, "model", is_local=True)).state == "verified"
        document["probes"][0]["prompt_token_ids"] = [*tokens[:-1], tokens[-1] + 1]
        checkpoint = open_checkpoint(write_checkpoint(folder, document))
        verdict = await check(checkpoint, upstream, "model", is_local=True)
        assert verdict.state == "mismatch"
        assert f"from token {len(tokens) - 1} of {len(tokens)} on" in verdict.reason
    finally:
        await upstream.close()


async def test_a_servers_weights_are_not_compared_so_it_stays_unverified(tmp_path):
    async with at() as (upstream, _):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict == Verdict("unverified", "tokens of 1 probes are those recorded; weights were not compared")


@pytest.mark.parametrize("provenance", [{}, {"weights_sha256": {}}])
async def test_local_weights_without_recorded_digests_are_unverified(tmp_path, provenance):
    async with at() as (upstream, _):
        verdict = await check(opened(tmp_path, provenance=provenance), upstream, "model", is_local=True)
    assert verdict.state == "unverified"


async def test_other_weights_are_a_mismatch_before_anything_is_asked(tmp_path):
    checkpoint = opened(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    async with at() as (upstream, scripted):
        verdict = await check(checkpoint, upstream, "model", is_local=True)
    assert (verdict.state, scripted.bodies) == ("mismatch", [])
    assert "is not the file that the manifest names" in verdict.reason


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda tokens: [0, *tokens], "from token 0 of"),
        (lambda tokens: [*tokens[:5], -1, *tokens[6:]], "from token 5 of"),
        (lambda tokens: tokens[:-1], "tokens against"),
        (lambda tokens: [], "0 tokens against"),
    ],
)
async def test_other_tokens_are_a_mismatch_that_tells_where(tmp_path, change, place):
    async with at(tokens=lambda body: change(tokens_of(body["messages"]))) as (upstream, _):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict.state == "mismatch"
    assert "probe 0 renders to other tokens than recorded" in verdict.reason
    assert place in verdict.reason


async def test_a_manifest_without_probes_is_unverified(tmp_path):
    async with at() as (upstream, scripted):
        verdict = await check(opened(tmp_path, probes=[]), upstream, "model", is_local=True)
    assert verdict == Verdict("unverified", "the manifest holds no probes")
    assert scripted.bodies == []


async def test_at_most_sixteen_probes_are_asked_one_at_a_time(tmp_path):
    n_open = 0

    def one_at_a_time(body: dict[str, Any], number: int) -> Say:
        nonlocal n_open
        n_open = max(n_open, scripted.n_open)
        return Say("x", delay_s=0.002)

    async with at(one_at_a_time) as (upstream, scripted):
        checkpoint = opened(tmp_path, probes=manifest("random")["probes"] * 20)
        assert (await check(checkpoint, upstream, "model", is_local=False)).state == "unverified"
    assert (len(scripted.bodies), n_open) == (16, 0)


async def test_a_probe_is_asked_as_a_candidate_would_be_but_for_one_token(tmp_path):
    document = manifest("random")
    for side in ("trained_with", "serve_with"):
        document["pair"][side]["chat_template_kwargs"] = {"enable_thinking": False}
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at() as (upstream, scripted):
        await check(checkpoint, upstream, "served", is_local=False)
        scripted.models.append("served")
        await check(checkpoint, upstream, "served", is_local=False)
    assert scripted.bodies == [
        {
            "model": "served",
            "messages": checkpoint.manifest.probes[0].messages,
            "chat_template_kwargs": {"enable_thinking": False},
            "max_tokens": 1,
            "temperature": 0,
            "return_token_ids": True,
        }
    ]
    assert {name.lower(): value for name, value in scripted.headers[0].items()}["x-request-id"] == "its-handshake-0"


# -- servers that do not show their tokens -----------------------------------------------------------------------------


@asynccontextmanager
async def tokenizing(status: int, reply: Any) -> AsyncIterator[HttpUpstream]:
    """A server whose chat route shows no tokens, and that has vLLM's `/tokenize` beside `/v1`."""

    async def chat(request: web.Request) -> web.Response:
        choices = [{"index": 0, "message": {"content": "x"}, "finish_reason": "length"}]
        return web.json_response({"choices": choices})

    async def tokenize(request: web.Request) -> web.Response:
        answer = reply(await request.json()) if callable(reply) else reply
        return web.Response(body=answer if isinstance(answer, bytes) else json.dumps(answer), status=status)

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = HttpUpstream("gpu", f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    try:
        yield upstream
    finally:
        await upstream.close()
        await runner.cleanup()


async def test_tokenize_stands_in_where_the_route_shows_no_tokens(tmp_path):
    async with tokenizing(200, lambda body: {"tokens": tokens_of(body["messages"])}) as upstream:
        verdict = await check(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict.state == "unverified"
    assert "by /tokenize: template defaults unseen" in verdict.reason


async def test_other_tokens_by_tokenize_are_a_mismatch(tmp_path):
    async with tokenizing(200, {"tokens": [1, 2, 3]}) as upstream:
        verdict = await check(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "mismatch"


@pytest.mark.parametrize(
    ("status", "reply"), [(404, {}), (200, {}), (200, {"tokens": None}), (200, []), (200, b"<html>"), (400, b"no")]
)
async def test_without_any_tokens_a_server_is_unverified_and_the_reason_says_so(tmp_path, status, reply):
    async with tokenizing(status, reply) as upstream:
        verdict = await check(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict == Verdict("unverified", "the upstream shows no tokens: template defaults unseen")


async def test_a_server_that_refuses_the_token_field_is_asked_without_it(tmp_path):
    def strict(body: dict[str, Any], number: int) -> Say:
        return Say(status=400) if "return_token_ids" in body else Say("x")

    async with at(strict, shows_tokens=False) as (upstream, scripted):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "unverified"
    assert ["return_token_ids" in body for body in scripted.bodies] == [True, False]


async def test_a_probe_that_the_server_refuses_altogether_is_a_mismatch(tmp_path):
    async with at(lambda body, number: Say(status=400)) as (upstream, _):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "mismatch"
    assert "a probe was refused" in verdict.reason
    assert "secret" not in verdict.reason


# -- pending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "say",
    [Say(status=429, headers={"Retry-After": "5"}), Say(status=503), Say(status=500), Say(status=401), Say(status=404),
     Say(raw=b"<html>"), Say(raw=b"{}")],
)  # fmt: skip
async def test_a_server_that_cannot_say_yet_is_pending(tmp_path, say):
    async with at(lambda body, number: say) as (upstream, _):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "pending"


async def test_a_server_that_does_not_list_the_model_is_pending(tmp_path):
    async with at(models=["another"]) as (upstream, scripted):
        verdict = await check(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict == Verdict("pending", "upstream gpu does not list model")
    assert scripted.bodies == []


async def test_an_unreachable_server_is_pending_and_recovers(tmp_path, unused_tcp_port):
    upstream = HttpUpstream("gpu", f"http://127.0.0.1:{unused_tcp_port}/v1")
    handshake, verdicts = Handshake(), []
    handshake.retry_in_s = 0.01
    running = asyncio.create_task(
        handshake.run(opened(tmp_path), upstream, "model", is_local=False, on_change=verdicts.append)
    )
    try:
        while len(verdicts) < 2:
            await asyncio.sleep(0.005)
        assert verdicts[0].state == verdicts[1].state == "pending"
        assert "cannot be reached" in verdicts[0].reason
        assert handshake.retry_in_s > 0.01
        async with at() as (_, scripted):
            upstream._url = scripted.url
            await asyncio.wait_for(running, 5)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await upstream.close()
    assert handshake.state == "unverified"
    assert [verdict.state for verdict in verdicts[-2:]] == ["pending", "unverified"]


async def test_a_model_that_appears_later_is_found(tmp_path):
    handshake = Handshake()
    handshake.retry_in_s = 0.01
    async with at(models=["another"]) as (upstream, scripted):
        running = asyncio.create_task(handshake.run(opened(tmp_path), upstream, "model", is_local=False))
        await asyncio.sleep(0.05)
        assert handshake.state == "pending"
        scripted.models.append("model")
        await asyncio.wait_for(running, 5)
    assert handshake.state == "unverified"


async def test_a_mismatch_is_final(tmp_path):
    handshake = Handshake()
    async with at(tokens=lambda body: [1]) as (upstream, _):
        await asyncio.wait_for(handshake.run(opened(tmp_path), upstream, "model", is_local=False), 5)
    assert handshake.state == "mismatch"


# -- what a state allows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "serves", "serves_strictly"), [
    ("verified", True, True), ("unverified", True, False), ("none", True, True),
    ("pending", False, False), ("mismatch", False, False),
])  # fmt: skip
def test_only_checked_models_serve(state, serves, serves_strictly):
    handshake = Handshake(Verdict(state, "why"))
    assert handshake.is_serving is serves
    for strictly, allowed in ((False, serves), (True, serves_strictly)):
        if allowed:
            handshake.require_serving("m", verified=strictly)
        else:
            with pytest.raises(ModelUnavailable, match=r"m is not .*: why"):
                handshake.require_serving("m", verified=strictly)


def test_pending_asks_to_come_back_and_a_mismatch_does_not():
    with pytest.raises(ModelUnavailable) as pending:
        Handshake().require_serving("m")
    assert (pending.value.code, pending.value.retry_after_s, pending.value.is_retryable) == ("model_pending", 0.5, True)
    with pytest.raises(ModelUnavailable) as mismatch:
        Handshake(Verdict("mismatch", "why")).require_serving("m")
    assert (mismatch.value.code, mismatch.value.is_retryable) == ("model_mismatch", False)


def test_a_model_without_a_manifest_has_nothing_to_check():
    assert Handshake(NO_MANIFEST).is_serving


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_with_the_recorded_digests_pass(tmp_path):
    check_weights(opened(tmp_path))


@pytest.mark.parametrize("name", ["missing", "../model.safetensors", "/etc/passwd", "", ".", "..", "a\0b", "a/b"])
def test_a_weight_file_that_is_not_right_here_is_refused(tmp_path, name):
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    checkpoint = opened(tmp_path / "inner", provenance={"weights_sha256": {name: sha256(WEIGHTS).hexdigest()}})
    with pytest.raises(DigestMismatch, match="missing"):
        check_weights(checkpoint)


@pytest.mark.parametrize("digests", [[], "x", 7, None, {"model.safetensors": None}, {"model.safetensors": 7}])
def test_digests_that_are_none_are_refused(tmp_path, digests):
    with pytest.raises(ManifestError):
        check_weights(opened(tmp_path, provenance={"weights_sha256": digests}))


def test_a_link_or_a_pipe_for_weights_is_refused(tmp_path):
    checkpoint = opened(tmp_path / "inner")
    weights = tmp_path / "inner" / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="cannot be opened"):
        check_weights(checkpoint)
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ManifestError, match="not a regular file"):
        check_weights(checkpoint)
