"""The verdict on a server, and the checks from which it follows."""

from hashlib import sha256
from typing import Any

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.handshake import Check, Verdict, verdict_of
from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.handshake.examined import at, check_named, opened, report_on, states, verdict_on
from tests.scripted import Say
from tests.scripted_model import Model
from tests.serving import manifest, tokens_of, write_checkpoint
from tests.upstreams.conftest import make_checkpoint

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
