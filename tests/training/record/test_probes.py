import json
import os
from dataclasses import replace

import pytest

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import DigestMismatch, ManifestError
from its_proxy.codesign.manifest import Evaluation, Pair, ProbeReply, VoteAdvice
from its_training.demo.arms import side_of
from its_training.demo.pretrain import build_model, build_tokenizer
from its_training.demo.problems import held_out
from its_training.demo.recipe import DemoRecipe, tiny
from its_training.files import file_sha256, load_checkpoint, save_checkpoint
from its_training.record.probes import Reference, mean_difference, measure_probes, reply_of, seal, teacher_forced

RECIPE = tiny(DemoRecipe())
VOTE = VoteAdvice(n=8, temperature=0.8, top_p=1.0, max_tokens=96, answer="boxed", stop="exact")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three checkpoints of different random weights: this one, its base and a sibling."""
    tokenizer = build_tokenizer(RECIPE)
    made = {}
    for seed, name in enumerate(("this", "base", "sibling")):
        made[name] = tmp_path_factory.mktemp(name)
        save_checkpoint(build_model(tokenizer, replace(RECIPE, seed=seed)), tokenizer, made[name])
    return made


@pytest.fixture(scope="module")
def probes(folders):
    queries = [problem.query for problem in held_out(2, "validation")]
    base, sibling = Reference("base", folders["base"]), Reference("demo-sibling", folders["sibling"])
    return measure_probes(folders["this"], side_of("random", 7), queries, base, [sibling])


def pair_of(strategy, seed=7):
    return Pair(trained_with=side_of(strategy, seed), serve_with=side_of(strategy, seed))


def test_a_sealed_folder_opens_and_its_weights_are_those_named(folders, probes):
    row = Evaluation(benchmark="demo-word-problems", split="test", items=8, metric="maj@8", value=0.5)
    weights = {"model.safetensors": file_sha256(folders["this"] / "model.safetensors")}
    manifest = seal(folders["this"], pair_of("random"), VOTE, probes, [row], {"weights_sha256": weights})
    opened = open_checkpoint(folders["this"])
    check_weights(opened)
    assert opened.manifest == manifest
    assert (opened.manifest.vote, opened.manifest.evaluation) == (VOTE, [row])
    config = json.loads((folders["this"] / "config.json").read_text())
    assert config["its"] == {"schema_version": 1, "pair_id": manifest.pair_id}


def test_a_probe_is_measured_token_by_token_for_every_reference(probes):
    for probe in probes:
        n_scored = len(probe.prompt_token_ids) + len(probe.completion_token_ids) - 1
        assert len(probe.logprobs.this) == len(probe.logprobs.base) == n_scored
        assert [len(values) for values in probe.logprobs.siblings.values()] == [n_scored]
        assert probe.logprobs.this != probe.logprobs.base
        assert probe.messages[0]["content"].endswith(probe.query)
        assert probe.completion_token_ids


def test_the_noise_is_what_the_same_weights_show_in_another_dtype(probes):
    """Measured in bf16 against fp32: not nothing, and far less than what lies between two checkpoints."""
    for probe in probes:
        assert 0 < probe.logprobs.noise < mean_difference(probe.logprobs.this, probe.logprobs.base) / 5


def test_a_probe_tells_what_the_serving_route_makes_of_its_completion(folders, probes):
    _, tokenizer = load_checkpoint(folders["this"])
    for probe in probes:
        said = tokenizer.decode(probe.completion_token_ids, skip_special_tokens=True)
        assert probe.reply == ProbeReply(content=said, reasoning=None)
        assert "<|im_" not in said


@pytest.mark.parametrize(("prompt", "completion", "content"), [
    ("2+3?", "5", "5"),
    ("2+3?", "<think>2+3</think>5", "5"),
    ("2+3?<think>", "2+3</think>5", "5"),
    ("2+3?", "<think>2+3", None),
    ("2+3?<think>", "2+3", None),
    ("2+3?<think></think>", "5", "5"),
])  # fmt: skip
def test_of_a_reply_with_thoughts_what_follows_them_is_recorded(folders, prompt, completion, content):
    """Training does not know whether a server will parse them out, but a vote reads the same in both cases."""
    _, tokenizer = load_checkpoint(folders["this"])
    reply = reply_of(tokenizer, tokenizer.encode(prompt), [*tokenizer.encode(completion), tokenizer.eos_token_id])
    assert reply == (None if content is None else ProbeReply(content=content, reasoning=None))


def test_teacher_forcing_gives_what_stepwise_reading_gives(folders, probes):
    """Token by token, each prefix read anew: slower, and hard to get wrong."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders["this"], dtype=torch.float32).eval()
    tokens = probes[0].prompt_token_ids[:20]
    with torch.inference_mode():
        stepwise = [
            model(torch.tensor([tokens[:n]])).logits[0, -1].log_softmax(-1)[tokens[n]].item()
            for n in range(1, len(tokens))
        ]
    assert teacher_forced(model, tokens) == pytest.approx(stepwise, abs=2e-4)


def test_sealing_again_with_the_same_pair_keeps_its_id(folders, probes):
    first = seal(folders["this"], pair_of("random"), VOTE, probes, [], {"command": "one"})
    second = seal(folders["this"], pair_of("random"), VOTE, probes[:1], [], {"command": "two"})
    assert first.pair_id == second.pair_id
    assert open_checkpoint(folders["this"]).manifest.provenance == {"command": "two"}


def test_a_crash_before_the_manifest_leaves_nothing_that_would_be_believed(folders, probes, monkeypatch):
    """The pointer is written first; a new pointer beside an old manifest, or beside none, is refused."""
    seal(folders["this"], pair_of("random"), VOTE, probes, [], {})
    real_replace = os.replace

    def crash_at_the_manifest(source, target):
        if str(target).endswith("its.json"):
            raise KeyboardInterrupt
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", crash_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        seal(folders["this"], pair_of("random", seed=8), VOTE, [], [], {})
    monkeypatch.undo()
    with pytest.raises(DigestMismatch):
        open_checkpoint(folders["this"])
    (folders["this"] / "its.json").unlink()
    with pytest.raises(ManifestError, match=r"its\.json is missing"):
        open_checkpoint(folders["this"])


def test_a_checkpoint_holds_no_pickle_and_everyone_may_read_it(folders):
    files = {path.name: path for path in folders["base"].iterdir()}
    assert set(files) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files.values())
