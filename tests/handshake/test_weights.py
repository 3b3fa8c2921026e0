"""Whose weights a server serves, by log-probabilities and by digests."""

import asyncio
import os
from hashlib import sha256
from typing import Any

import pytest

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import DigestMismatch, ManifestError
from its_proxy.handshake import Check, Report, Verdict, examine
from its_proxy.upstreams.base import RawReply
from tests.handshake.examined import WEIGHTS, at, check_named, opened, report_on, states
from tests.scripted import Say
from tests.scripted_model import Model, declared, logprobs_of, recorded, said
from tests.serving import write_checkpoint

# -- whose weights -----------------------------------------------------------------------------------------------------


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
