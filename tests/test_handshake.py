import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from its_proxy.checkpoint import Checkpoint, check_weights, open_checkpoint
from its_proxy.codesign.errors import DigestMismatch, ManifestError
from its_proxy.handshake import Check, Report, Verdict, examine, verdict_of
from its_proxy.upstreams.base import RawReply, Upstream
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream
from tests.scripted_model import COMPLETION, REPLY, Model, declared, logprobs_of, recorded, said
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


async def verdict_on(checkpoint: Checkpoint, upstream: Upstream, name: str, *, is_local: bool) -> Verdict:
    return (await examine(checkpoint, upstream, name, is_local=is_local)).verdict


# -- the verdicts ------------------------------------------------------------------------------------------------------


async def test_local_weights_with_the_recorded_digests_and_tokens_are_verified(tmp_path):
    async with at() as (upstream, _):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict == Verdict("verified", "tokens of 1 probe as recorded; 1 weight file as recorded, by digest")


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
        assert (await verdict_on(checkpoint, upstream, "model", is_local=True)).state == "verified"
        document["probes"][0]["prompt_token_ids"] = [*tokens[:-1], tokens[-1] + 1]
        checkpoint = open_checkpoint(write_checkpoint(folder, document))
        verdict = await verdict_on(checkpoint, upstream, "model", is_local=True)
        assert verdict.state == "mismatch"
        assert f"from token {len(tokens) - 1} of {len(tokens)} on" in verdict.reason
    finally:
        await upstream.close()


async def test_a_servers_weights_are_not_compared_so_it_stays_unverified(tmp_path):
    async with at() as (upstream, _):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    reason = "tokens of 1 probe as recorded; weights not compared: the manifest records no log-probabilities"
    assert verdict == Verdict("unverified", reason)


@pytest.mark.parametrize("provenance", [{}, {"weights_sha256": {}}])
async def test_local_weights_without_recorded_digests_are_unverified(tmp_path, provenance):
    async with at() as (upstream, _):
        verdict = await verdict_on(opened(tmp_path, provenance=provenance), upstream, "model", is_local=True)
    assert verdict.state == "unverified"


async def test_other_weights_are_a_mismatch_before_anything_is_asked(tmp_path):
    checkpoint = opened(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    async with at() as (upstream, scripted):
        verdict = await verdict_on(checkpoint, upstream, "model", is_local=True)
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
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict.state == "mismatch"
    assert "probe 0 renders to other tokens than recorded" in verdict.reason
    assert place in verdict.reason


async def test_a_manifest_without_probes_is_unverified(tmp_path):
    async with at() as (upstream, scripted):
        verdict = await verdict_on(opened(tmp_path, probes=[]), upstream, "model", is_local=True)
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
        assert (await verdict_on(checkpoint, upstream, "model", is_local=False)).state == "unverified"
    assert (len(scripted.bodies), n_open) == (16, 0)


async def test_a_probe_is_asked_as_a_candidate_would_be_but_for_one_token(tmp_path):
    document = manifest("random")
    for side in ("trained_with", "serve_with"):
        document["pair"][side]["chat_template_kwargs"] = {"enable_thinking": False}
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at() as (upstream, scripted):
        await verdict_on(checkpoint, upstream, "served", is_local=False)
        scripted.models.append("served")
        await verdict_on(checkpoint, upstream, "served", is_local=False)
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
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict.state == "unverified"
    assert "by /tokenize: template defaults unseen" in verdict.reason


async def test_other_tokens_by_tokenize_are_a_mismatch(tmp_path):
    async with tokenizing(200, {"tokens": [1, 2, 3]}) as upstream:
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "mismatch"


@pytest.mark.parametrize(
    ("status", "reply"), [(404, {}), (200, {}), (200, {"tokens": None}), (200, []), (200, b"<html>"), (400, b"no")]
)
async def test_without_any_tokens_a_server_is_unverified_and_the_reason_says_so(tmp_path, status, reply):
    async with tokenizing(status, reply) as upstream:
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=True)
    assert verdict == Verdict("unverified", "the upstream shows no tokens: template defaults unseen")


async def test_a_server_that_refuses_the_token_field_is_asked_without_it(tmp_path):
    def strict(body: dict[str, Any], number: int) -> Say:
        return Say(status=400) if "return_token_ids" in body else Say("x")

    async with at(strict, shows_tokens=False) as (upstream, scripted):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "unverified"
    assert ["return_token_ids" in body for body in scripted.bodies] == [True, False]


async def test_a_probe_that_the_server_refuses_altogether_is_a_mismatch(tmp_path):
    async with at(lambda body, number: Say(status=400)) as (upstream, _):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "mismatch"
    assert "probe 0 was refused" in verdict.reason
    assert "secret" not in verdict.reason


# -- whose weights -----------------------------------------------------------------------------------------------------


async def report_on(folder: Path, model: Model, document: dict[str, Any] | None = None, **options: Any) -> Report:
    """What `examine` says of a scripted model that claims to be the checkpoint of `document`."""
    checkpoint = open_checkpoint(write_checkpoint(folder, document or recorded()))
    async with at(model.script) as (upstream, _):
        return await examine(checkpoint, upstream, "model", is_local=False, **options)


def states(report: Report) -> dict[str, str]:
    return {check.name: check.state for check in report.checks}


def check_named(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.034])
async def test_the_recorded_weights_are_verified_within_an_honest_servers_noise(tmp_path, noise):
    """The recorded noise is 0.02 nats, the bound 1.75 times that."""
    report = await report_on(tmp_path, Model(noise=noise))
    assert states(report) == {"listed": "ok", "tokens": "ok", "weights": "ok", "reply": "ok"}
    assert report.verdict.state == "verified"
    assert "tokens of 1 probe as recorded; weights as recorded, 0.0" in report.verdict.reason
    assert "bound 0.0350" in report.verdict.reason


@pytest.mark.parametrize(("weights", "name"), [("sibling", "demo-sibling"), ("base", "base")])
async def test_the_weights_of_another_recorded_checkpoint_are_a_mismatch_that_names_it(tmp_path, weights, name):
    report = await report_on(tmp_path, Model(weights, noise=0.01))
    assert report.verdict.state == "mismatch"
    assert report.verdict.reason.startswith(f"the weights of {name}, ")
    assert states(report)["reply"] == "skipped"


async def test_weights_beyond_the_noise_are_never_verified_nor_a_mismatch(tmp_path):
    """Perturbed, quantised or merged: nearest to this checkpoint, but not it."""
    report = await report_on(tmp_path, Model(noise=0.04))
    assert report.verdict.state == "unverified"
    assert "farther from those recorded than an honest server's noise, 0.0" in report.verdict.reason


async def test_weights_far_from_every_reference_are_other_weights(tmp_path):
    report = await report_on(tmp_path, Model("somebody else's"))
    assert report.verdict.state == "mismatch"
    assert report.verdict.reason.startswith("other weights than recorded, ")


async def test_weights_are_not_asked_for_when_told_to_skip_them(tmp_path):
    model = Model("sibling")
    report = await report_on(tmp_path, model, weights="skip")
    assert report.verdict.state == "unverified"
    assert check_named(report, "weights") == Check("weights", "skipped", "weights not compared, as asked")


@pytest.mark.parametrize(("model", "state", "reason"), [
    (Model(noise=0.02), "verified", "weights unchanged since declared"),
    (Model(noise=0.1), "unverified", "farther from those recorded"),
    (Model("base"), "mismatch", "weights changed since declared"),
])  # fmt: skip
async def test_a_declared_manifest_tells_only_whether_the_weights_are_unchanged(tmp_path, model, state, reason):
    report = await report_on(tmp_path, model, declared())
    assert report.verdict.state == state
    assert reason in report.verdict.reason


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda body, entries: said({}), "the upstream sent no log-probabilities of the prompt"),
        (lambda body, entries: said({"prompt_logprobs": entries[:-1]}), "log-probabilities for"),
        (lambda body, entries: said({"prompt_logprobs": [None] * len(entries)}), "a token without"),
        (lambda body, entries: Say(raw=b"<html>"), "something that is not JSON"),
        (lambda body, entries: Say(raw=b"["), "something that is not JSON"),
        (lambda body, entries: Say(raw=b" " * (2**20 + 1)), "1048577 bytes for"),
        (lambda body, entries: Say(raw=b" " * (9 * 2**20)), "sent more than"),
        (lambda body, entries: Say(status=400), "answered 400"),
        (lambda body, entries: Say(status=404), "answered 404"),
        (lambda body, entries: Say(status=500), "answered 500"),
    ],
)
async def test_a_server_that_shows_no_log_probabilities_is_unverified_in_one_line(tmp_path, answer, problem):
    report = await report_on(tmp_path, Model(answer_logprobs=answer))
    weights = check_named(report, "weights")
    assert (report.verdict.state, weights.state, states(report)["reply"]) == ("unverified", "unknown", "ok")
    assert problem in weights.evidence
    assert "\n" not in weights.evidence
    assert "secret" not in weights.evidence


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_too_busy_for_log_probabilities_is_pending(tmp_path, status):
    report = await report_on(tmp_path, Model(answer_logprobs=lambda body, entries: Say(status=status)))
    assert report.verdict == Verdict("pending", "upstream gpu is busy")
    assert [check.name for check in report.checks] == ["listed", "tokens", "upstream"]


async def test_log_probabilities_are_asked_of_at_most_128_tokens_of_sixteen_probes(tmp_path):
    document = recorded("none")
    probe = document["probes"][0]
    tokens = [*probe["prompt_token_ids"], *range(200)]
    probe["completion_token_ids"] = tokens[len(probe["prompt_token_ids"]) :]
    probe["logprobs"] = {"this": logprobs_of("this", tokens), "base": logprobs_of("base", tokens), "noise": 0.02}
    document["probes"] *= 20
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at(Model().script) as (upstream, scripted):
        report = await examine(checkpoint, upstream, "model", is_local=False)
    asked = [body for body in scripted.bodies if "prompt" in body]
    assert [body["prompt"] for body in asked] == [tokens[:128]] * 16
    assert {(body["model"], body["max_tokens"], body["prompt_logprobs"]) for body in asked} == {("model", 1, 0)}
    assert report.verdict.state == "verified"
    assert "over 2032 tokens" in report.verdict.reason
    assert states(report)["reply"] == "skipped"  # longer than a handshake may ask for


async def test_models_at_one_upstream_ask_for_log_probabilities_one_after_the_other(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, recorded()))
    model, n_open, n_at_once = Model(), 0, []

    async def forward(method: str, path: str, body: bytes, content_type: str) -> RawReply:
        nonlocal n_open
        n_open += 1
        n_at_once.append(n_open)
        await asyncio.sleep(0.005)
        n_open -= 1
        return await forwarded(method, path, body, content_type)

    async with at(model.script) as (upstream, _):
        forwarded, upstream.forward = upstream.forward, forward
        reports = await asyncio.gather(*(examine(checkpoint, upstream, "model", is_local=False) for _ in range(4)))
    assert [report.verdict.state for report in reports] == ["verified"] * 4
    assert n_at_once == [1] * 4


async def test_probes_longer_than_the_servers_context_are_left_out_or_cut(tmp_path):
    document = recorded("none")
    n_prompt = len(document["probes"][0]["prompt_token_ids"])
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))

    async def asked_with(card: dict[str, Any], *others: dict[str, Any]) -> tuple[Report, list[int]]:
        async with at(Model().script) as (upstream, scripted):
            upstream.models = lambda: listed([card, *others])
            report = await examine(checkpoint, upstream, "model", is_local=False)
        return report, [len(body["prompt"]) for body in scripted.bodies if "prompt" in body]

    async def listed(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return cards

    report, lengths = await asked_with({"id": "model", "max_model_len": n_prompt + 4})
    assert (report.verdict.state, lengths) == ("verified", [n_prompt + 3])
    report, lengths = await asked_with({"id": "model", "parent": "b"}, {"id": "b", "max_model_len": n_prompt + 2})
    assert (report.verdict.state, lengths) == ("verified", [n_prompt + 1])
    report, lengths = await asked_with({"id": "model", "max_model_len": n_prompt})
    assert (report.verdict.state, lengths) == ("unverified", [])
    assert f"no probe fits the server's context of {n_prompt} tokens" in report.verdict.reason


async def test_digests_speak_where_a_local_server_shows_no_log_probabilities_but_never_against_them(tmp_path):
    document = recorded(provenance={"weights_sha256": {"model.safetensors": sha256(WEIGHTS).hexdigest()}})
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))

    async def local(model: Model) -> Report:
        async with at(model.script) as (upstream, _):
            return await examine(checkpoint, upstream, "model", is_local=True)

    silent = await local(Model(answer_logprobs=lambda body, entries: Say(status=404)))
    assert silent.verdict == Verdict("verified", "tokens of 1 probe as recorded; 1 weight file as recorded, by digest")
    assert states(silent)["weights"] == "skipped"
    assert (await local(Model(noise=0.03))).verdict.state == "verified"
    assert (await local(Model(noise=0.05))).verdict.state == "unverified"  # such as a server that quantises on loading
    assert (await local(Model("sibling"))).verdict.state == "mismatch"


# -- the reply's shape -------------------------------------------------------------------------------------------------

THOUGHT = {"content": "\\boxed{7}", "reasoning": "3+4=7"}


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"content": None, "reasoning": REPLY}, "a reasoning parser took text out"),
        ({"content": None, "reasoning_content": REPLY}, "a reasoning parser took text out"),
        ({"content": "\\boxed{7}", "reasoning": "3+4=7"}, "a reasoning parser took text out"),
        ({"content": None}, "cut or rewritten"),
        ({"content": ""}, "cut or rewritten"),
        ({"content": REPLY[:-3]}, "cut or rewritten"),
        ({"content": f"So: {REPLY}"}, "cut or rewritten"),
        ({"content": [REPLY]}, "cut or rewritten"),
        ({}, "cut or rewritten"),
    ],
)
async def test_a_parser_that_moves_cuts_or_drops_the_recorded_text_is_a_mismatch(tmp_path, message, what):
    report = await report_on(tmp_path, Model(message=message))
    assert report.verdict.state == "mismatch"
    assert what in report.verdict.reason
    assert "--reasoning-parser" in report.verdict.reason
    assert states(report) == {"listed": "ok", "tokens": "ok", "weights": "ok", "reply": "failed"}


@pytest.mark.parametrize(("message", "state"), [
    ({"content": "\\boxed{7}\n", "reasoning": "\n3+4=7\n"}, "ok"),
    ({"content": "\\boxed{7}", "reasoning_content": "3+4=7"}, "ok"),
    ({"content": "<think>3+4=7</think>\\boxed{7}", "reasoning": None}, "failed"),
    ({"content": "\\boxed{7}"}, "failed"),
    ({"content": None, "reasoning": "3+4=7\\boxed{7}"}, "failed"),
])  # fmt: skip
async def test_reasoning_recorded_apart_must_come_apart(tmp_path, message, state):
    document = recorded()
    document["probes"][0]["reply"] = THOUGHT
    report = await report_on(tmp_path, Model(message=message), document)
    assert states(report)["reply"] == state


@pytest.mark.parametrize("content", ["\\boxed{7}", "<think>3+4=7</think>\\boxed{7}"])
@pytest.mark.parametrize(("message", "state"), [
    ({"content": "\\boxed{7}", "reasoning": "3+4=7"}, "ok"),
    ({"content": "<think>\n3+4=7</think>\n\\boxed{7}"}, "ok"),
    ({"content": None, "reasoning": "<think>3+4=7</think>\\boxed{7}"}, "failed"),
    ({"content": "<think><think>3+4=7\\boxed{7}"}, "failed"),
    ({"content": "3+4=7"}, "failed"),
])  # fmt: skip
async def test_where_no_reasoning_is_recorded_it_is_what_a_vote_reads_that_counts(tmp_path, content, message, state):
    """A checkpoint that thinks, recorded without a server: thoughts may be parsed out, or stand before the answer."""
    document = recorded()
    document["probes"][0]["reply"] = {"content": content, "reasoning": None}
    report = await report_on(tmp_path, Model(message=message), document)
    assert states(report)["reply"] == state


async def test_space_at_the_ends_of_a_reply_is_nobodys_parser(tmp_path):
    report = await report_on(tmp_path, Model(message={"content": f"\n {REPLY} "}))
    assert states(report)["reply"] == "ok"


async def test_a_greedy_reply_of_other_tokens_says_nothing_about_parsers(tmp_path):
    """Another dtype may decode another way: asked of a few probes, then left open, and no reason to distrust."""
    document = recorded()
    document["probes"] *= 6
    model = Model(completion=[1, 2, 3], message={"content": None, "reasoning": "other"})
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at(model.script) as (upstream, scripted):
        report = await examine(checkpoint, upstream, "model", is_local=False)
    assert (report.verdict.state, states(report)["reply"]) == ("verified", "unknown")
    assert len([body for body in scripted.bodies if body["max_tokens"] > 1]) == 4


async def test_a_reply_that_ends_early_on_the_recorded_way_was_cut(tmp_path):
    """By a cap of the server's own, or of something before it."""
    model = Model(completion=list(COMPLETION[:-1]), message={"content": REPLY[:-1]})
    report = await report_on(tmp_path, model)
    assert report.verdict.state == "mismatch"
    assert report.verdict.reason.startswith("the reply was cut or rewritten")


async def test_a_reply_longer_than_the_servers_context_is_not_asked_for(tmp_path):
    document = recorded()
    room = len(document["probes"][0]["prompt_token_ids"]) + len(COMPLETION)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    cut = Model(completion=list(COMPLETION[:-1]), message={"content": REPLY[:-1]})

    async def state_with(room: int) -> str:
        async def listed() -> list[dict[str, Any]]:
            return [{"id": "model", "max_model_len": room}]

        async with at(cut.script) as (upstream, _):
            upstream.models = listed
            return states(await examine(checkpoint, upstream, "model", is_local=False))["reply"]

    assert (await state_with(room - 1), await state_with(room)) == ("skipped", "failed")


async def test_two_replies_are_enough(tmp_path):
    document = recorded()
    document["probes"] *= 6
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at(Model().script) as (upstream, scripted):
        report = await examine(checkpoint, upstream, "model", is_local=False)
    assert check_named(report, "reply").evidence == "2 greedy replies as recorded"
    greedy = [body for body in scripted.bodies if body["max_tokens"] > 1]
    assert [(body["max_tokens"], body["temperature"], body["return_token_ids"]) for body in greedy] == [
        (len(COMPLETION), 0, True)
    ] * 2


async def test_a_manifest_without_replies_skips_them(tmp_path):
    document = recorded()
    document["probes"][0]["reply"] = None
    report = await report_on(tmp_path, Model(message={"content": None}), document)
    assert (report.verdict.state, states(report)["reply"]) == ("verified", "skipped")


# -- all together ------------------------------------------------------------------------------------------------------


async def test_another_template_does_not_hide_whose_weights_are_served(tmp_path):
    """The doctor's reader wants to know both."""
    report = await report_on(tmp_path, Model(tokens=lambda messages: [1, *tokens_of(messages)]))
    assert report.verdict.state == "mismatch"
    assert states(report) == {"listed": "ok", "tokens": "failed", "weights": "ok", "reply": "skipped"}
    assert "; 1 of 1 probe do" in check_named(report, "tokens").evidence


@pytest.mark.parametrize(
    ("checks", "state", "reason"),
    [
        ([Check("upstream", "unknown", "gone")], "pending", "gone"),
        ([Check("listed", "unknown", "absent")], "pending", "absent"),
        ([Check("files", "failed", "other", "restore")], "mismatch", "other (restore)"),
        ([Check("tokens", "failed", "t"), Check("upstream", "unknown", "gone")], "mismatch", "t"),
        ([Check("tokens", "unknown", "t"), Check("weights", "ok", "w")], "unverified", "t"),
        ([Check("tokens", "ok", "t"), Check("weights", "unknown", "w")], "unverified", "t; w"),
        ([Check("tokens", "ok", "t"), Check("weights", "skipped", "w")], "unverified", "t; w"),
        ([Check("tokens", "ok", "t"), Check("weights", "ok", "w"), Check("reply", "unknown", "")], "verified", "t; w"),
        ([Check("tokens", "ok", "t"), Check("weights", "ok", "w"), Check("reply", "failed", "r")], "mismatch", "r"),
        (
            [Check("files", "ok", "f"), Check("tokens", "ok", "t"), Check("weights", "unknown", "w")],
            "unverified",
            "t; w",
        ),
        ([Check("files", "ok", "f"), Check("tokens", "ok", "t"), Check("weights", "skipped", "w")], "verified", "t; f"),
    ],
)
def test_the_verdict_follows_from_the_checks(checks, state, reason):
    assert verdict_of(checks) == Verdict(state, reason)


# -- pending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "say",
    [Say(status=429, headers={"Retry-After": "5"}), Say(status=503), Say(status=500), Say(status=401), Say(status=404),
     Say(raw=b"<html>"), Say(raw=b"{}")],
)  # fmt: skip
async def test_a_server_that_cannot_say_yet_is_pending(tmp_path, say):
    async with at(lambda body, number: say) as (upstream, _):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict.state == "pending"


async def test_a_server_that_does_not_list_the_model_is_pending(tmp_path):
    async with at(models=["another"]) as (upstream, scripted):
        verdict = await verdict_on(opened(tmp_path), upstream, "model", is_local=False)
    assert verdict == Verdict("pending", "upstream gpu does not list model")
    assert scripted.bodies == []


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
