"""A manifest in words, and what two manifests differ in; values in, lines of text out."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import ItsError
from its_proxy.codesign.manifest import Evaluation, Manifest, Probe, Side
from its_proxy.codesign.strategies import Recipe, rewrite

SAMPLE_QUERY = "A shop sells 12 eggs for 3 dollars. How much do 20 eggs cost?"
_SHOWN = 72

Section = tuple[str, list[tuple[str, str]]]
"""A heading, and rows of name and value."""


def page(checkpoint: Checkpoint) -> list[Section]:
    """The whole manifest, for a person: what is long is counted."""
    manifest = checkpoint.manifest
    pair = manifest.pair
    head = [
        ("pair id", manifest.pair_id),
        ("origin", manifest.origin + (": by an operator, from a live server" if manifest.origin == "declared" else "")),
    ]
    if checkpoint.is_one_sided:
        head.append(("one-sided", "persona text on one side only: served only if forced, and then marked"))
    sections: list[Section] = [(str(checkpoint.source), head)]
    if _plain(pair.trained_with) == _plain(pair.serve_with):
        sections.append(("trained with, and served with", _side_rows(pair.serve_with, checkpoint.serve)))
    else:
        sections.append(("trained with", _side_rows(pair.trained_with, checkpoint.trained)))
        sections.append(("served with", _side_rows(pair.serve_with, checkpoint.serve)))
    sections.append(("vote", _mapping_rows(_plain(manifest.vote)) if manifest.vote else [("", "no advice")]))
    sections.append(("probes", _probe_rows(manifest.probes)))
    if manifest.evaluation:
        sections.append(("evaluation", [_evaluation_row(row) for row in manifest.evaluation]))
    if manifest.provenance:
        sections.append(("provenance", _mapping_rows(manifest.provenance)))
    return sections


def document_of(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written, with its pair id."""
    return {"pair_id": manifest.pair_id, **_plain(manifest)}


def _plain(model: Any) -> dict[str, Any]:
    document: dict[str, Any] = model.model_dump(mode="json", exclude_unset=True)
    return document


def _side_rows(side: Side, recipe: Recipe) -> list[tuple[str, str]]:
    rows = [("strategy", f"{side.strategy}, version {side.version} ({side.family})")]
    if side.family != "none":
        rows += [
            ("template", json.dumps(side.template, ensure_ascii=False)),
            ("turns", side.turns),
            ("seed", str(side.seed)),
            ("personas", _personas(side, recipe)),
        ]
    if side.personas is not None and (written_by := side.personas.written_by) is not None:
        prompts = f", prompts in {written_by.prompts.folder}" if written_by.prompts is not None else ""
        rows.append(("written by", f"{written_by.model}{', ' + written_by.date if written_by.date else ''}{prompts}"))
    rows.append(("system prompt", _brief(side.system_prompt) if side.system_prompt is not None else "none"))
    rows.append(
        ("chat template", f"sha256 {side.chat_template_sha256[:8]}" if side.chat_template_sha256 else "unknown")
    )
    if side.chat_template_kwargs:
        rows.append(("template kwargs", json.dumps(side.chat_template_kwargs)))
    return rows


def _personas(side: Side, recipe: Recipe) -> str:
    assert side.personas is not None
    if side.personas.source == "writer":
        return "asked of a live writer"
    assert recipe.pool is not None
    name = "template personas" if side.personas.source == "taxonomy" else side.personas.file
    n_domains = len(recipe.pool.by_domain)
    return f"{name}: {len(recipe.pool.personas)} in {n_domains} domains, sha256 {recipe.pool.sha256[:8]}"


def _probe_rows(probes: Sequence[Probe]) -> list[tuple[str, str]]:
    if not probes:
        return [("", "none: the live server cannot be compared")]
    n_prompt = sum(len(probe.prompt_token_ids) for probe in probes)
    n_completion = sum(len(probe.completion_token_ids) for probe in probes)
    scored = [probe.logprobs for probe in probes if probe.logprobs is not None]
    references = dict.fromkeys(["this"] if scored else [])
    for logprobs in scored:
        references |= dict.fromkeys((["base"] if logprobs.base else []) + list(logprobs.siblings))
    dtypes = sorted({probe.dtype for probe in probes if probe.dtype is not None})
    rows = [
        ("probes", f"{len(probes)}, {n_prompt} prompt and {n_completion} completion tokens"),
        ("log-probabilities", f"{len(scored)} probes, of {', '.join(references)}" if scored else "none"),
    ]
    if scored:
        rows.append(("noise", f"{max(logprobs.noise for logprobs in scored):.4f} nats a token at most"))
    if dtypes:
        rows.append(("dtype", ", ".join(dtypes)))
    rows.append(("reply texts", str(sum(probe.reply is not None for probe in probes))))
    return rows


def _evaluation_row(row: Evaluation) -> tuple[str, str]:
    interval = f" [{row.ci95[0]:g}, {row.ci95[1]:g}]" if row.ci95 is not None else ""
    # The measurer's own conditions, but not which file holds the candidates.
    conditions = "".join(f"; {key} {_brief(value)}" for key, value in (row.model_extra or {}).items() if key != "run")
    return row.metric, f"{row.value:g}{interval} on {row.items} items of {row.benchmark}, {row.split}{conditions}"


def _mapping_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _brief(value)) for key, value in values.items()]


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


# -- two manifests -----------------------------------------------------------------------------------------------------


_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """`key` is dotted, and begins with the manifest's own key; a value is text, and None where none is written.

    Changes of the same key in several probes or measurements are one, of the first of them; `n_more` others.
    """

    key: str
    one: str | None
    other: str | None
    n_more: int = 0

    @property
    def is_pair(self) -> bool:
        return self.key.startswith("pair.")


@dataclass(frozen=True, slots=True)
class Difference:
    """`is_pair_equal`: the pair ids are the same. `sample`: what each serves a query as, where they are not."""

    is_pair_equal: bool
    changes: tuple[Change, ...]
    sample: tuple[str, str] | None = None

    @property
    def is_rewritten_alike(self) -> bool:
        """Whether the sample comes out the same: pairs may differ in what it does not show."""
        return self.sample is None or self.sample[0] == self.sample[1]


def difference(one: Checkpoint, other: Checkpoint, query: str = SAMPLE_QUERY) -> Difference:
    """Key by key; `query` is rewritten by both if their pairs differ."""
    changes = tuple(_merged(_changes("", _plain(one.manifest), _plain(other.manifest))))
    if one.pair_id == other.pair_id:
        return Difference(True, changes)
    return Difference(False, changes, (_served(one, query), _served(other, query)))


def _changes(key: str, one: Any, other: Any) -> Iterator[Change]:
    """Down to where the two are of a kind; a list of numbers or words is one value."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            yield from _changes(f"{key}.{name}" if key else name, one.get(name, _ABSENT), other.get(name, _ABSENT))
    elif _holds_objects(one) and _holds_objects(other):
        for number, (ours, theirs) in enumerate(zip_longest(one, other, fillvalue=_ABSENT)):
            yield from _changes(f"{key}[{number}]", ours, theirs)
    elif one is _ABSENT or other is _ABSENT or one != other or type(one) is not type(other):
        yield Change(key, _value(one, other), _value(other, one))


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, dict) for part in value)


def _merged(changes: Iterable[Change]) -> list[Change]:
    """One change for each key, whatever its number in a list."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(re.sub(r"\[\d+\]", "[]", change.key), []).append(change)
    return [replace(first, n_more=len(more)) for first, *more in groups.values()]


def _value(value: Any, other: Any) -> str | None:
    """In brief; of long lists where they part, which their brief forms may not show."""
    if value is _ABSENT:
        return None
    text = _brief(value)
    if not (isinstance(value, list) and isinstance(other, list)) or len(text) <= _SHOWN:
        return text
    place = next((k for k, (a, b) in enumerate(zip(value, other, strict=False)) if a != b), None)
    return f"{len(value)} values" + ("" if place is None else f", {value[place]} at {place}")


def _served(checkpoint: Checkpoint, query: str) -> str:
    """The messages that the query is served as, or why that cannot be shown."""
    try:
        messages = rewrite(checkpoint.serve, [{"role": "user", "content": query}]).messages
    except ItsError as error:
        return f"({error.message})"
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
