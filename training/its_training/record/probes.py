"""Measures a checkpoint's probes from the saved files, one model in memory at a time, and seals a manifest.

The manifest is sealed last and at once: a folder holds a whole manifest that matches its weights, or none.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

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
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite
from its_proxy.evidence import MAX_TOKENS, scored_tokens
from its_proxy.seal import manifest_bytes, replace_file
from its_proxy.voting.answers import after_reasoning
from its_training.progress import Advance
from its_training.record.models import load_model, load_tokenizer

Show: TypeAlias = Callable[[str], AbstractContextManager[Advance]]
"""Shows how far a stage of that title is, as `Stages.show`."""


@contextmanager
def quietly(title: str) -> Iterator[Advance]:
    yield lambda done, total: None


@dataclass(frozen=True, slots=True)
class Reference:
    """Another checkpoint that a probe is told apart from: the base, or an arm trained beside this one."""

    name: str
    folder: Path


def measure_probes(
    folder: Path,
    side: Side,
    queries: Sequence[str],
    base: Reference,
    siblings: Sequence[Reference],
    *,
    pool: Pool | None = None,
) -> list[Probe]:
    """A probe for each query: its rewrite, its tokens, the greedy completion, measured in fp32 from the saved files.

    `pool` holds the personas where they are not our template personas.
    """
    recipe = recipe_of(side, taxonomy_pool() if pool is None else pool)
    tokenizer = load_tokenizer(folder, base.folder)
    rendered = [render(tokenizer, recipe, side.chat_template_kwargs, query) for query in queries]
    return measure(folder, tokenizer, rendered, base, siblings)


def render(tokenizer: Any, recipe: Recipe, template_kwargs: Mapping[str, Any], query: str) -> Probe:
    """The query's rewrite and its tokens, of which nothing is measured yet."""
    messages = [dict(message) for message in rewrite(recipe, [{"role": "user", "content": query}]).messages]
    return Probe(query=query, messages=messages, prompt_token_ids=tokens_of(tokenizer, messages, template_kwargs))


def tokens_of(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any]) -> list[int]:
    """What the chat template makes of the messages, up to where the model's own words begin."""
    rendered = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=True, **template_kwargs
    )
    return list(rendered["input_ids"])


def measure(
    folder: Path,
    tokenizer: Any,
    rendered: Sequence[Probe],
    base: Reference,
    siblings: Sequence[Reference],
    *,
    device: str = "cpu",
    show: Show = quietly,
) -> list[Probe]:
    """Completes and scores rendered probes.

    `noise` tells how far the same weights lie from themselves when they are computed with in bf16.
    """
    import torch

    with show(f"probes of {folder.name}") as advance:
        model = load_model(folder, base.folder, device)
        probes = [_completed(model, tokenizer, probe) for probe in told(rendered, advance)]
        this = score_probes(model, probes)
        rounded = score_probes(model.to(torch.bfloat16), probes)
        del model
    others = {}
    for reference in (base, *siblings):
        with show(f"log-probabilities of {reference.name}") as advance:
            model = load_model(reference.folder, base.folder, device)
            others[reference.name] = score_probes(model, told(probes, advance))
            del model  # before the next one is loaded: both together may not fit
    return [
        probe.model_copy(
            update={
                "dtype": "float32",
                "logprobs": Logprobs(
                    this=this[n],
                    base=others[base.name][n],
                    siblings={sibling.name: others[sibling.name][n] for sibling in siblings},
                    noise=mean_difference(this[n], rounded[n]),
                ),
            }
        )
        for n, probe in enumerate(probes)
    ]


def told(probes: Sequence[Probe], advance: Advance) -> Iterator[Probe]:
    """The same probes, each of which moves the bar when it is done."""
    for n, probe in enumerate(probes, 1):
        yield probe
        advance(n, len(probes))


def _completed(model: Any, tokenizer: Any, probe: Probe) -> Probe:
    completion = _greedy(model, probe.prompt_token_ids)
    reply = reply_of(tokenizer, probe.prompt_token_ids, completion) if completion else None
    return probe.model_copy(update={"completion_token_ids": completion, "reply": reply})


def _greedy(model: Any, prompt: list[int]) -> list[int]:
    """The most likely completion, up to its end of turn or to what a probe may hold, which may be nothing."""
    import torch

    n_free = MAX_TOKENS - len(prompt)
    if n_free <= 0:
        return []
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_free
        )
    completion: list[int] = output[0, len(prompt) :].tolist()
    return completion


def score_probes(model: Any, probes: "Sequence[Probe] | Iterator[Probe]") -> list[list[float]]:
    """The log-probabilities of every probe's tokens, as many as a server is asked for."""
    return [teacher_forced(model, scored_tokens(probe)) for probe in probes]


def teacher_forced(model: Any, tokens: Sequence[int]) -> list[float]:
    """Log-probability, in nats, of each token after the first given those before it, to four decimals."""
    import torch

    ids = torch.tensor([tokens], device=model.device)
    with torch.inference_mode():
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    return [round(value, 4) for value in logprobs.gather(1, ids[0, 1:, None].to(logprobs.device))[:, 0].tolist()]


def mean_difference(left: Sequence[float], right: Sequence[float]) -> float:
    """Mean absolute difference, in nats, to four decimals."""
    return round(sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left), 4)


def reply_of(tokenizer: Any, prompt: Sequence[int], completion: Sequence[int]) -> ProbeReply | None:
    """What a vote reads of the completion: all of it, or what follows its thoughts, which a parser may take out or not.

    None where the thoughts do not end.
    """
    if after_reasoning(tokenizer.decode([*prompt, *completion])) is None:
        return None
    final_part = after_reasoning(tokenizer.decode(completion).removesuffix(str(tokenizer.eos_token)))
    return None if final_part is None else ProbeReply(content=final_part, reasoning=None)


def document_bytes(
    pair: Pair,
    vote: VoteAdvice | None,
    probes: Sequence[Probe],
    evaluation: Sequence[Evaluation],
    provenance: Mapping[str, Any],
) -> bytes:
    """A recorded manifest in its file form."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "origin": "recorded",
        "pair": pair.model_dump(mode="json", exclude_unset=True),
        "vote": None if vote is None else vote.model_dump(mode="json", exclude_unset=True),
        "probes": [probe.model_dump(mode="json", exclude_unset=True) for probe in probes],
        "evaluation": [row.model_dump(mode="json", exclude_unset=True) for row in evaluation],
        "provenance": dict(provenance),
    }
    return manifest_bytes(document)


def seal(
    folder: Path,
    pair: Pair,
    vote: VoteAdvice | None,
    probes: Sequence[Probe],
    evaluation: Sequence[Evaluation],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Writes the pointer into config.json, then `its.json` by one rename; returns the manifest as read back.

    Ended in between, the folder is left with a pointer and no manifest of that pair, which is refused
    when it is opened. Sealing again with the same pair replaces probes, evaluation and provenance.
    """
    data = document_bytes(pair, vote, probes, evaluation, provenance)
    manifest = parse_manifest(data)
    config_path = folder / "config.json"
    if config_path.exists():  # an adapter has none, and its own config keeps no strangers
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config["its"] = {"schema_version": SCHEMA_VERSION, "pair_id": manifest.pair_id}
        replace_file(config_path, (json.dumps(config, indent=2) + "\n").encode())
    replace_file(folder / FILE_NAME, data)
    return manifest
