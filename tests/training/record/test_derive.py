"""Derivatives of a real checkpoint: converted, rounded to integers, merged; and what is none."""

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import ConfigError, DigestMismatch, UpstreamUnreachable
from its_proxy.evidence import Scored, compare
from its_proxy.handshake import examine
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.http import HttpUpstream
from its_training.record.derive import Derivation, derive
from its_training.record.live import Server
from its_training.record.models import load_model, load_tokenizer, weight_digests
from its_training.record.probes import teacher_forced, tokens_of
from its_training.record.record import record
from tests.scripted import Say, scripted_upstream
from tests.scripted_model import said
from tests.training.record.conftest import DEMO
from tests.training.record.test_record import pool_bytes, prepared, request

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def saved(model, folder, source=DEMO / "demo-random"):
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(source / name, folder / name)
    return folder


def half_precision(model):
    import torch

    return model.to(torch.float16)


def eight_bits(model):
    """Each row of each matrix on a grid of 255 values, stored as bfloat16: what int8 weights lose, in a plain file."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                scale = parameter.abs().amax(1, keepdim=True) / 127
                parameter.copy_((parameter / scale).round() * scale)
    return model.to(torch.bfloat16)


async def verdict_on(folder):
    upstream = EmbeddedUpstream("embedded", {"served": folder})
    try:
        return (await examine(open_checkpoint(folder), upstream, "served", is_local=True)).verdict
    finally:
        await upstream.close()


async def found_at(folder, probes):
    """What the handshake's own comparison says of the log-probabilities that the engine serves."""
    upstream = EmbeddedUpstream("embedded", {"served": folder})
    scored = []
    try:
        for probe in probes:
            body = {"model": "served", "messages": probe.messages, "max_tokens": 1, "prompt_logprobs": 0}
            reply = await upstream.complete(body, "probe")
            logprobs = [next(iter(entry.values()))["logprob"] for entry in reply["prompt_logprobs"][1:]]
            scored.append(Scored(probe, logprobs))
    finally:
        await upstream.close()
    return compare(scored, is_declared=False)


@pytest.mark.parametrize(("make", "nearest", "farthest"), [(half_precision, 0, 0.005), (eight_bits, 0.005, 0.05)])
async def test_a_converted_checkpoint_keeps_the_pair_and_passes_the_handshake(copy, tmp_path, make, nearest, farthest):
    origin, target = copy("random"), tmp_path / "derived"
    saved(make(load_model(origin)), target)
    before = open_checkpoint(origin).manifest
    recorded = derive(Derivation(origin, target))
    derived = open_checkpoint(target)
    check_weights(derived)
    assert derived.pair_id == before.pair_id
    assert [probe.messages for probe in derived.manifest.probes] == [probe.messages for probe in before.probes]
    assert [probe.logprobs.siblings for probe in derived.manifest.probes] == [
        probe.logprobs.siblings for probe in before.probes
    ]
    told = recorded.manifest.provenance["derived_from"]
    assert told["pair_id"] == before.pair_id
    assert told["weights_sha256"] == weight_digests(origin) != recorded.manifest.provenance["weights_sha256"]
    assert nearest <= told["distance"] <= farthest
    assert (await verdict_on(target)).state == "verified"
    assert (await found_at(target, derived.manifest.probes)).finding == "this"


async def test_a_merged_adapter_keeps_the_adapters_pair_and_its_pool(copy, tmp_path, adapter):
    import torch

    arm = prepared(tmp_path / "data")
    record(request(adapter, base=DEMO / "demo-random", arm=arm))
    merged = load_model(adapter, DEMO / "demo-random").merge_and_unload()
    target = saved(merged.to(torch.bfloat16), tmp_path / "merged")
    recorded = derive(Derivation(adapter, target))
    assert recorded.manifest.pair_id == open_checkpoint(adapter).pair_id
    assert (target / "its-personas.jsonl").read_bytes() == pool_bytes()
    assert json.loads((target / "config.json").read_text())["its"]["pair_id"] == recorded.manifest.pair_id
    assert (await verdict_on(target)).state == "verified"
    found = await found_at(target, open_checkpoint(target).manifest.probes)
    assert found.this < 0.01 < found.nearest_other[1]


def test_the_origins_numbers_are_not_the_derivatives(copy, tmp_path):
    origin = copy("random")
    manifest = derive(Derivation(origin, saved(half_precision(load_model(origin)), tmp_path / "derived"))).manifest
    assert manifest.evaluation == []
    assert len(manifest.provenance["derived_from"]["evaluation"]) == 3
    assert manifest.provenance["licenses"]["weights"] == "Apache-2.0"


def test_a_derivative_of_a_derivative_tells_both(copy, tmp_path):
    origin, second = copy("random"), tmp_path / "second"
    first = saved(half_precision(load_model(origin)), tmp_path / "first")
    derive(Derivation(origin, first))
    saved(eight_bits(load_model(first)), second)
    told = derive(Derivation(first, second)).manifest.provenance["derived_from"]
    assert told["weights_sha256"] == weight_digests(first)
    assert told["derived_from"]["weights_sha256"] == weight_digests(origin)


def spoiled_template(target):
    (target / "chat_template.jinja").write_text((DEMO / "demo-random" / "chat_template.jinja").read_text() + " ")


def spoiled_tokenizer(target):
    """Two digits exchanged in its vocabulary."""
    document = json.loads((target / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["3"], vocabulary["7"] = vocabulary["7"], vocabulary["3"]
    (target / "tokenizer.json").write_text(json.dumps(document))


@pytest.mark.parametrize(("spoil", "error", "said"), [
    (spoiled_template, DigestMismatch, r"chat_template\.jinja is not the template that the pair names"),
    (spoiled_tokenizer, ConfigError, r"renders probe 0 to other tokens than .*, from token \d+ on"),
    (lambda target: (target / "model.safetensors").unlink(), ConfigError, "holds no safetensors"),
    (lambda target: shutil.rmtree(target), ConfigError, "is not a folder"),
])  # fmt: skip
def test_what_renders_otherwise_or_is_not_there_is_refused_and_left_alone(copy, tmp_path, spoil, error, said):
    origin, target = copy("random"), copy("random", "target", sealed=False)
    spoil(target)
    before = {path: path.read_bytes() for path in target.glob("*")}
    with pytest.raises(error, match=said):
        derive(Derivation(origin, target))
    assert {path: path.read_bytes() for path in target.glob("*")} == before


def test_another_arm_is_no_derivative(copy):
    origin, target = copy("random"), copy("similar", "target", sealed=False)
    with pytest.raises(ConfigError, match=r"nats a token from .*this, but 0\.0000 from demo-similar"):
        derive(Derivation(origin, target))
    assert not (target / "its.json").exists()
    with pytest.raises(ConfigError, match="holds the manifest of another pair"):
        derive(Derivation(origin, copy("similar", "sealed")))
    with pytest.raises(ConfigError, match="both are one folder"):
        derive(replace(Derivation(origin, target), target=origin))


def test_a_copy_that_cannot_be_told_from_a_sibling_is_still_a_derivative(copy, tmp_path):
    """A twin among the siblings, and a conversion that happens to lie a hair nearer to it."""
    origin = copy("random")
    document = json.loads((origin / "its.json").read_text())
    for probe in document["probes"]:
        logprobs = probe["logprobs"]
        logprobs["siblings"]["twin"] = logprobs["this"]
        logprobs["this"] = [value - 0.001 for value in logprobs["this"]]
    (origin / "its.json").write_text(json.dumps(document))
    recorded = derive(Derivation(origin, saved(half_precision(load_model(origin)), tmp_path / "derived")))
    assert {one.name: one.telling for one in recorded.power.separations}["twin"] == "no power"


def test_an_origin_without_log_probabilities_is_recorded_first(copy):
    origin, target = copy("random"), copy("random", "target", sealed=False)
    document = json.loads((origin / "its.json").read_text())
    document["probes"] = []
    (origin / "its.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="records no log-probabilities"):
        derive(Derivation(origin, target))


# -- measured by the server that serves it -----------------------------------------------------------------------------


@asynccontextmanager
async def serving(folder, change=lambda tokens: tokens):
    """A server that answers as vLLM does, with the log-probabilities that the folder's weights really have."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)

    def script(body, number):
        if "prompt" not in body:
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}
            tokens = change(tokens_of(tokenizer, body["messages"], {}))
            return Say(raw=json.dumps({"choices": [choice], "prompt_token_ids": tokens}).encode())
        pairs = zip(body["prompt"][1:], teacher_forced(model, body["prompt"]), strict=True)
        return said({"prompt_logprobs": [None, *({str(token): {"logprob": value}} for token, value in pairs)]})

    async with scripted_upstream(script, ["derived"]) as scripted:
        yield scripted


async def test_a_server_measures_what_cannot_be_computed_here_and_the_handshake_verifies_it(copy, tmp_path):
    """The target's own weights are spoiled: nothing but the server's word went into its probes."""
    origin, target = copy("random"), copy("random", "derived", sealed=False)
    rounded = saved(eight_bits(load_model(origin)), tmp_path / "rounded")
    (target / "model.safetensors").write_bytes(b"a format of a kernel's own")
    async with serving(rounded) as scripted:
        derivation = Derivation(origin, target, server=Server(scripted.url, "derived"))
        recorded = await asyncio.to_thread(derive, derivation)
        marks = {headers.get("x-its-applied") for headers in scripted.headers}
        upstream = HttpUpstream("vllm", scripted.url)
        report = await examine(open_checkpoint(target), upstream, "derived", is_local=False)
        await upstream.close()
    assert {recorded.manifest.pair_id} == {open_checkpoint(origin).pair_id} == marks, "no layer rewrites a probe again"
    assert {(probe.dtype, probe.logprobs.noise) for probe in recorded.manifest.probes} == {(None, 0.0)}
    assert 0.005 < recorded.manifest.provenance["derived_from"]["distance"] < 0.05
    assert report.verdict.state == "verified"
    assert "weights as recorded" in report.verdict.reason


async def test_a_server_that_renders_otherwise_or_lists_another_model_is_refused(copy):
    origin, target = copy("random"), copy("random", "derived", sealed=False)
    async with serving(origin, lambda tokens: [*tokens, 2]) as scripted:
        with pytest.raises(ConfigError, match="renders probe 0 to other tokens than recorded"):
            await asyncio.to_thread(derive, Derivation(origin, target, server=Server(scripted.url, "derived")))
        with pytest.raises(ConfigError, match=r"lists no model 'other' \(it lists 'derived'\)"):
            await asyncio.to_thread(derive, Derivation(origin, target, server=Server(scripted.url, "other")))
    with pytest.raises(UpstreamUnreachable):
        await asyncio.to_thread(derive, Derivation(origin, target, server=Server(scripted.url, "derived")))
    assert not (target / "its.json").exists()
