"""What a checkpoint is asked with, in words: the sides of its pair, and one rewritten query."""

import re
from collections.abc import Iterator, Sequence

from its_proxy.codesign.manifest import Side
from its_training.report.found import Sealed
from its_training.report.table import table


def prompts(manifests: Sequence[Sealed]) -> Iterator[str]:
    """A section: each pair's two sides, and a query as a model of it reads one."""
    yield "## Prompts"
    pairs = {sealed.manifest.pair_id: sealed for sealed in manifests}
    for sealed in pairs.values():
        manifest = sealed.manifest
        sides = {"trained with": manifest.pair.trained_with, "served with": manifest.pair.serve_with}
        rows = [[name, *_side_row(side)] for name, side in sides.items()]
        columns = ["side", "strategy", "template", "turns", "personas", "system prompt", "chat template", "seed"]
        yield f"Pair `{manifest.pair_id}` (`{sealed.file.label}`):\n\n" + table(columns, rows)
        if manifest.probes:
            first = manifest.probes[0].messages
            said = "\n\n".join(f"[{message.get('role')}]\n{message.get('content')}" for message in first)
            yield "A probe's query as the model reads it, before the chat template:\n\n" + _fenced(said)


def _side_row(side: Side) -> list[str]:
    return [
        f"{side.strategy}, version {side.version}",
        side.template if side.personas is not None else "-",
        side.turns,
        personas_in_words(side),
        "none" if side.system_prompt is None else side.system_prompt,
        f"sha256 {side.chat_template_sha256[:16]}" if side.chat_template_sha256 else "unknown",
        str(side.seed),
    ]


def personas_in_words(side: Side) -> str:
    """Where its personas come from; ours are always called what they are."""
    personas = side.personas
    if personas is None:
        return "none"
    if personas.source == "taxonomy":
        return "template personas (its-proxy's own taxonomy, no language model)"
    if personas.source == "writer":
        return "asked of a live writer"
    by = f", written by {personas.written_by.model}" if personas.written_by is not None else ""
    return f"pool {personas.file}, sha256 {str(personas.sha256)[:16]}{by}"


def _fenced(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"
