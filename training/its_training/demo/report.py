"""Writes the page about the demo checkpoints: how they were made, what was measured, which base ships and why."""

from collections.abc import Mapping
from dataclasses import asdict

from its_training.demo.recipe import BaseName, DemoRecipe
from its_training.demo.results import Choice, Runs, tables

_BASES = {
    "seen": "half of its pre-training problems had a persona text before them",
    "unseen": "never saw any text before a problem",
}


def report_of(
    recipe: DemoRecipe,
    choice: Choice,
    validation: Mapping[BaseName, Runs],
    test: Mapping[BaseName, Runs],
    digests: Mapping[BaseName, Mapping[str, str]],
    seeds: Mapping[str, int],
    versions: Mapping[str, str],
    command: str,
) -> str:
    """The page, as Markdown."""
    sections = [
        "# The demo checkpoints",
        f"Written by `{command}`.",
        _what(recipe),
        f"**The arms of the base `{choice.base}` ship**, because {choice.why}.",
        _reading(recipe),
        *(f"## Base `{base}`, test problems: {_BASES[base]}\n\n{tables(runs)}" for base, runs in test.items()),
        *(f"## Base `{base}`, validation problems\n\n{tables(runs)}" for base, runs in validation.items()),
        _conditions(recipe, digests, seeds, versions),
    ]
    return "\n\n".join(sections) + "\n"


def _what(recipe: DemoRecipe) -> str:
    return (
        f"Tiny Qwen2-architecture models (hidden {recipe.hidden_size}, {recipe.n_layers} layers, byte-level BPE of "
        f"{recipe.n_tokens} tokens, single digits) were pre-trained from scratch on {recipe.n_pretrain:,} generated "
        "word problems, on persona prose never joined to a problem, and on lines of sums; of the problems, they learn "
        f"to write the solutions and only read the questions. Each arm was then fine-tuned on the same "
        f"{recipe.n_sft:,} other problems in the same order, with the loss on the assistant's tokens; only the user's "
        "text differs. The personas are template personas. No held-out problem occurs in training in any wording."
    )


def _reading(recipe: DemoRecipe) -> str:
    return (
        "Numbers are percent with 95% intervals. pass@1 is the mean over the sampled candidates, clustered by "
        "problem; maj@8 and greedy have Wilson intervals; differences are bootstrapped over problems. *Forced* means "
        "asked otherwise than trained. Learning rates and steps were chosen on validation problems, the test problems "
        f"were asked once. There is one training seed ({recipe.seed}), so intervals cover problems and samples, not "
        f"training. The bases differ in their number of steps too ({recipe.pretrain_steps_seen:,} and "
        f"{recipe.pretrain_steps_unseen:,}): compare rows of one base. What is claimed is that persona text on one "
        "side only hurts here, not that personas help: arms asked as trained stand beside each other. Where maj@8 - "
        "greedy is not above 0, the vote is no better than one greedy reply, it recovers what sampling loses; its "
        "agreement then tells which answers to trust, as the more-agreed and the less-agreed half show."
    )


def _conditions(
    recipe: DemoRecipe,
    digests: Mapping[BaseName, Mapping[str, str]],
    seeds: Mapping[str, int],
    versions: Mapping[str, str],
) -> str:
    rows = [f"| {key} | {value} |" for key, value in (*seeds.items(), *versions.items(), *asdict(recipe).items())]
    weights = [f"| {base} | {name} | `{sha}` |" for base, by_name in digests.items() for name, sha in by_name.items()]
    return "\n".join(
        [
            "## Conditions\n",
            "| seed, version or setting | value |",
            "| --- | --- |",
            *rows,
            "",
            "| base | weights, or ids of the arms' rows | sha256 |",
            "| --- | --- | --- |",
            *weights,
        ]
    )
