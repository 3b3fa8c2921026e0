"""Checkpoints that differ from the packaged demo in one thing each, built once and kept.

shop = Workshop(Path("build/torture-vllm"), bases=None)
shop.variant("swapped-layers", lambda folder: edit_weights(folder, swap_layers))
"""

import json
import random
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import its_proxy
import its_training.record.probes
from its_proxy.checkpoint import read_manifest
from its_proxy.codesign.canonical import digest
from its_proxy.codesign.manifest import Manifest, Pair
from its_proxy.seal import manifest_bytes
from its_training.demo.problems import draw
from its_training.files import build, holds, load_checkpoint
from its_training.record.probes import Reference, measure_probes, seal

DEMO = Path(its_proxy.__file__).parent / "demo"
ARM = "demo-random"
SIBLINGS = ("demo-none", "demo-similar", "demo-dissimilar")

MAKERS = [Path(__file__).with_name(name) for name in ("workshop.py", "checkpoints.py", "files.py")]
MAKERS.append(Path(its_training.record.probes.__file__))
"""The code that a checkpoint comes from: made anew when it changes."""

Document = dict[str, Any]
Weights = dict[str, Any]
"""Tensors by name."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """`folder` keeps what was built; `bases` is what `its-train demo --out` left, where there is such a folder."""

    folder: Path
    bases: Path | None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def demo(self, name: str = ARM) -> Path:
        return DEMO / name

    def trained(self, name: str) -> Path:
        """`seen/base` or `unseen/arms/random` of the demo's own run."""
        assert self.bases is not None
        return self.bases / name

    def variant(self, name: str, change: Callable[[Path], None], source: Path | None = None) -> Path:
        """A copy of a checkpoint (by default of the demo's `random` arm) that `change` has edited, whole or absent."""
        folder, source = self.folder / "checkpoints" / name, source or self.demo()
        inputs = {"source": _digests(source.iterdir()), "made by": _digests(MAKERS)}

        def make(work: Path) -> None:
            shutil.copytree(source, work, dirs_exist_ok=True)
            change(work)

        with self.lock:  # two starts may want the same one
            if not holds(folder, inputs):
                shutil.rmtree(folder, ignore_errors=True)
                build(folder, inputs, make)
        return folder


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


# -- files -----------------------------------------------------------------------------------------------------------


def edit_json(path: Path, change: Callable[[Document], object]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")


def edit_text(path: Path, change: Callable[[str], str]) -> None:
    """Raises AssertionError for a change that changes nothing."""
    before = path.read_text("utf-8")
    assert change(before) != before, f"{path} is as it was"
    path.write_text(change(before), "utf-8")


def edit_pair(folder: Path, change: Callable[[Document], object]) -> None:
    """Edits both sides of the pair, and makes the pointer agree: what an edit by hand would look like at its best."""

    def edit(document: Document) -> None:
        for side in document["pair"].values():
            change(side)

    edit_json(folder / "its.json", edit)
    point_to_pair(folder)


def point_to_pair(folder: Path) -> None:
    pair_id = digest(json.loads((folder / "its.json").read_text("utf-8"))["pair"])
    edit_json(folder / "config.json", lambda config: config["its"].update(pair_id=pair_id))


def edit_template(folder: Path, change: Callable[[str], str]) -> None:
    """Another chat template in the checkpoint, which its manifest does not know of."""
    edit_text(folder / "chat_template.jinja", change)


def adopt_template(folder: Path, change: Callable[[str], str]) -> None:
    """The same, and the pair names it; the probes stay, so it must render them as before."""
    edit_template(folder, change)
    template = (folder / "chat_template.jinja").read_bytes()
    edit_pair(folder, lambda side: side.update(chat_template_sha256=sha256(template).hexdigest()))


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def pair_name(folder: Path) -> str:
    """NAME@<first 8 of pair id>, as a server of this checkpoint is to be called."""
    return f"{folder.name}@{manifest_of(folder).pair_id[:8]}"


def record(folder: Path, base: Path, siblings: Sequence[Path] = (), *, rendered_by: Path | None = None) -> None:
    """Measures the checkpoint's probes anew and seals them in; the pair stays.

    `rendered_by`: a folder of the same weights whose template renders what this one's does with the pair's kwargs.
    """
    before = manifest_of(DEMO / ARM)
    pair = Pair.model_validate(json.loads((folder / "its.json").read_text("utf-8"))["pair"])
    probes = measure_probes(
        rendered_by or folder,
        pair.serve_with,
        [probe.query for probe in before.probes],
        Reference("base", base),
        [Reference(sibling.name, sibling) for sibling in siblings],
    )
    assert before.vote is not None
    seal(folder, pair, before.vote, probes, [], {"made_by": "make torture-vllm"})


def with_parsed_replies(folder: Path) -> None:
    """The manifest as one would be that was recorded behind a reasoning parser: thoughts apart from the answer."""

    def parse(document: Document) -> None:
        tokenizer = load_checkpoint(folder)[1]
        for probe in document["probes"]:
            said = tokenizer.decode(probe["completion_token_ids"], skip_special_tokens=True)
            thoughts, _, answer = said.partition("</think>")
            probe["reply"] = {"content": answer, "reasoning": thoughts.removeprefix("<think>")}

    document = json.loads((folder / "its.json").read_text("utf-8"))
    parse(document)
    (folder / "its.json").write_bytes(manifest_bytes(document))


# -- weights ---------------------------------------------------------------------------------------------------------


def edit_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Tensors are handed over in fp32 and written in the dtype they came in."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    before = load_file(path)
    after = change({name: tensor.float() for name, tensor in before.items()})
    first = next(iter(before.values())).dtype
    save_file({name: tensor.to(first).contiguous() for name, tensor in after.items()}, path, metadata={"format": "pt"})


def perturbed(scale: float, seed: int) -> Callable[[Weights], Weights]:
    """Every tensor plus normal noise of `scale` times its own standard deviation."""
    import torch

    def change(weights: Weights) -> Weights:
        chance = torch.Generator().manual_seed(seed)
        return {
            name: tensor + scale * tensor.std() * torch.randn(tensor.shape, generator=chance)
            for name, tensor in weights.items()
        }

    return change


def swapped_layers(first: int, second: int) -> Callable[[Weights], Weights]:
    def renamed(name: str) -> str:
        for ours, theirs in ((first, second), (second, first)):
            if f".layers.{ours}." in name:
                return name.replace(f".layers.{ours}.", f".layers.{theirs}.")
        return name

    return lambda weights: {renamed(name): tensor for name, tensor in weights.items()}


def without_last_layer(folder: Path) -> None:
    """Weights and config agree with each other: nothing but the answers tells that a layer is missing."""

    def shorten(config: Document) -> None:
        last = config["num_hidden_layers"] - 1
        config.update(num_hidden_layers=last, layer_types=config["layer_types"][:last])
        edit_weights(folder, lambda weights: {name: t for name, t in weights.items() if f".layers.{last}." not in name})

    edit_json(folder / "config.json", shorten)


def rounded(bits: int) -> Callable[[Weights], Weights]:
    """Matrices as weight-only quantisation leaves them: each row on a grid of 2^bits steps, symmetric round zero."""
    top = 2 ** (bits - 1) - 1

    def change(weights: Weights) -> Weights:
        return {name: round_rows(tensor) if tensor.ndim == 2 else tensor for name, tensor in weights.items()}

    def round_rows(tensor: Any) -> Any:
        step = tensor.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / top
        return (tensor / step).round() * step

    return change


def mixed_with(other: Path, share: float) -> Callable[[Weights], Weights]:
    """A merge of two checkpoints: `share` of the other's weights, the rest its own."""
    from safetensors.torch import load_file

    theirs = load_file(other / "model.safetensors")
    return lambda weights: {name: (1 - share) * own + share * theirs[name].float() for name, own in weights.items()}


# -- tokenizers ------------------------------------------------------------------------------------------------------


def without_merges(n: int) -> Callable[[Document], None]:
    """The last `n` merges gone: some words come in more pieces than in training."""

    def change(tokenizer: Document) -> None:
        del tokenizer["model"]["merges"][-n:]

    return change


def swapped_tokens(first: str, second: str) -> Callable[[Document], None]:
    """Two entries of the vocabulary exchanged, as when a tokenizer was trained again."""

    def change(tokenizer: Document) -> None:
        vocab = tokenizer["model"]["vocab"]
        vocab[first], vocab[second] = vocab[second], vocab[first]

    return change


def with_think_tokens(tokenizer: Document) -> None:
    """`<think>` and `</think>` in the place of two bytes that no UTF-8 text holds."""
    vocab = tokenizer["model"]["vocab"]
    for unused, token in (("þ", "<think>"), ("ÿ", "</think>")):
        vocab[token] = vocab.pop(unused)
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": vocab[token], "content": token, **flags})
    tokenizer["added_tokens"].sort(key=lambda added: added["id"])
    tokenizer["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda entry: entry[1]))


# -- training --------------------------------------------------------------------------------------------------------


def teach_to_think(folder: Path, steps: int = 150, batch: int = 32) -> None:
    """Fine-tunes the checkpoint to write its sums between think tags and the answer after them."""
    import torch

    from its_proxy.codesign.manifest import recipe_of
    from its_proxy.codesign.personas import taxonomy_pool
    from its_proxy.codesign.strategies import rewrite

    edit_json(folder / "tokenizer.json", with_think_tokens)
    model, tokenizer = load_checkpoint(folder)
    recipe = recipe_of(manifest_of(folder).pair.serve_with, taxonomy_pool())
    rows = []
    for problem in draw(steps * batch // 2, "sft", seed=11):
        sums, _, answer = problem.solution.rpartition("\n")
        messages = rewrite(recipe, [{"role": "user", "content": problem.query}]).messages
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        rows.append((prompt, tokenizer(f"<think>\n{sums}\n</think>\n{answer}<|im_end|>")["input_ids"]))
    torch.manual_seed(11)
    chance = random.Random(11)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = chance.sample(rows, batch)
        length = max(len(prompt) + len(reply) for prompt, reply in chosen)
        ids, labels = torch.zeros((batch, length), dtype=torch.long), torch.full((batch, length), -100)
        for row, (prompt, reply) in enumerate(chosen):
            ids[row, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
            labels[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    trained = model.state_dict()
    edit_weights(folder, lambda weights: {name: trained[name] for name in weights})


def adapter(folder: Path, seed: int, strength: float) -> Path:
    """A small random LoRA on every matrix, in PEFT's own files; `strength` scales what it adds."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_checkpoint(DEMO / ARM)[0], config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(strength)
    model.save_pretrained(folder)
    return folder


def merge_adapter(folder: Path, lora: Path) -> None:
    """The checkpoint's weights with the adapter added to them for good."""
    from peft import PeftModel

    merged: Mapping[str, Any] = (
        PeftModel.from_pretrained(load_checkpoint(DEMO / ARM)[0], lora).merge_and_unload().state_dict()
    )
    edit_weights(folder, lambda weights: {name: merged[name] for name in weights})
