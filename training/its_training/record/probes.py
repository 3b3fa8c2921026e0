"""Writes what a checkpoint was trained with into it: probes measured from the saved files, then `its.json`.

The manifest is sealed last and at once: a folder holds a whole manifest that matches its weights, or none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_proxy.codesign.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    Evaluation,
    Logprobs,
    Manifest,
    Pair,
    Probe,
    ProbeReply,
    Side,
    VoteAdvice,
    parse_manifest,
    recipe_of,
)
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import rewrite
from its_proxy.seal import manifest_bytes, replace_file
from its_proxy.voting.answers import after_reasoning
from its_training.files import load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

MAX_PROBE_TOKENS = 128
"""Prompt and completion together: servers spend memory on each token whose log-probability is asked for."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Another checkpoint that a probe is told apart from: the base, or an arm trained beside this one."""

    name: str
    folder: Path


def measure_probes(
    folder: Path, side: Side, queries: Sequence[str], base: Reference, siblings: Sequence[Reference]
) -> list[Probe]:
    """A probe for each query: its rewrite, its tokens, the greedy completion, measured in fp32 from the saved files.

    `noise` tells how far the same weights lie from themselves when they are computed with in bf16.
    """
    model, tokenizer = load_checkpoint(folder)
    rounding = _in_bfloat16(folder)
    references = {other.name: load_checkpoint(other.folder)[0] for other in (base, *siblings)}
    recipe = recipe_of(side, taxonomy_pool())

    def measure(query: str) -> Probe:
        messages = rewrite(recipe, [{"role": "user", "content": query}]).messages
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        completion = _greedy(model, prompt)
        tokens = [*prompt, *completion]
        this = teacher_forced(model, tokens)
        logprobs = Logprobs(
            this=this,
            base=teacher_forced(references[base.name], tokens),
            siblings={sibling.name: teacher_forced(references[sibling.name], tokens) for sibling in siblings},
            noise=mean_difference(this, teacher_forced(rounding, tokens)),
        )
        return Probe(
            query=query,
            messages=[dict(message) for message in messages],
            prompt_token_ids=prompt,
            completion_token_ids=completion,
            dtype="float32",
            logprobs=logprobs,
            reply=reply_of(tokenizer, prompt, completion),
        )

    return [measure(query) for query in queries]


def _greedy(model: "Qwen2ForCausalLM", prompt: list[int]) -> list[int]:
    """The most likely completion, up to its end of turn or to what a probe may hold."""
    import torch

    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max(1, MAX_PROBE_TOKENS - len(prompt)),
        )
    completion: list[int] = output[0, len(prompt) :].tolist()
    return completion


def _in_bfloat16(folder: Path) -> "Qwen2ForCausalLM":
    import torch

    return load_checkpoint(folder)[0].to(torch.bfloat16)


def teacher_forced(model: "Qwen2ForCausalLM", tokens: Sequence[int]) -> list[float]:
    """Log-probability, in nats, of each token after the first given those before it, to four decimals."""
    import torch

    ids = torch.tensor([tokens])
    with torch.inference_mode():
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    return [round(value, 4) for value in logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()]


def mean_difference(left: Sequence[float], right: Sequence[float]) -> float:
    """Mean absolute difference, in nats, to four decimals."""
    return round(sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left), 4)


def reply_of(
    tokenizer: "PreTrainedTokenizerFast", prompt: Sequence[int], completion: Sequence[int]
) -> ProbeReply | None:
    """What a vote reads of the completion: all of it, or what follows its thoughts, which a parser may take out or not.

    None where the thoughts do not end.
    """
    if after_reasoning(tokenizer.decode([*prompt, *completion])) is None:
        return None
    final_part = after_reasoning(tokenizer.decode(completion).removesuffix(str(tokenizer.eos_token)))
    return None if final_part is None else ProbeReply(content=final_part, reasoning=None)


def seal(
    folder: Path,
    pair: Pair,
    vote: VoteAdvice,
    probes: Sequence[Probe],
    evaluation: Sequence[Evaluation],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Writes the pointer into config.json, then `its.json` by one rename; returns the manifest as read back.

    Ended in between, the folder is left with a pointer and no manifest of that pair, which is refused
    when it is opened. Sealing again with the same pair replaces probes, evaluation and provenance.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "origin": "recorded",
        "pair": pair.model_dump(mode="json", exclude_unset=True),
        "vote": vote.model_dump(mode="json", exclude_unset=True),
        "probes": [probe.model_dump(mode="json", exclude_unset=True) for probe in probes],
        "evaluation": [row.model_dump(mode="json", exclude_unset=True) for row in evaluation],
        "provenance": dict(provenance),
    }
    data = manifest_bytes(document)
    manifest = parse_manifest(data)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["its"] = {"schema_version": SCHEMA_VERSION, "pair_id": manifest.pair_id}
    replace_file(config_path, (json.dumps(config, indent=2) + "\n").encode())
    replace_file(folder / FILE_NAME, data)
    return manifest
