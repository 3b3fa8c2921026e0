"""The report of a run as Markdown, from its files alone: what they do not hold is named as missing."""

from collections.abc import Iterator, Mapping
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Manifest
from its_proxy.evaluate import score
from its_training.report.found import Candidates, Dropped, File, Found, Sealed
from its_training.report.loss import losses
from its_training.report.prompts import prompts
from its_training.report.table import percent, plain, table

MISSING = "not in these files"


def page(found: Found) -> str:
    """The whole report."""
    sections = [
        "# Report",
        "Written by `its-train report` from the files listed at the end, and from nothing else. Numbers are percent "
        "with 95% intervals over items (pass@1: clustered by item; maj@k and greedy: Wilson); they say nothing about "
        "other training seeds.",
        *_scores(found),
        *_training(found),
        *_data(found),
        *prompts(_one_a_run(found)),
        *_conditions(found),
        _missing_section(found),
        "## Files\n\n" + table(["file", "sha256"], [[file.label, f"`{file.sha256}`"] for file in _all_files(found)]),
    ]
    return "\n\n".join(sections) + "\n"


def _scores(found: Found) -> Iterator[str]:
    yield "## Scores"
    if not found.candidates:
        yield f"Candidates files: {MISSING}."
    else:
        scored = [(n, run, _cells(run)) for n, run in enumerate(found.candidates, 1)]
        columns = list(dict.fromkeys(column for _, _, cells in scored for column in cells))
        rows = [[str(n), *(cells.get(column, "") for column in columns)] for n, _, cells in scored]
        yield table(["run", *columns], rows)
        conditions = [[str(n), run.file.label, _seed(run), _asked(run)] for n, run, _ in scored]
        yield "How each run was asked:\n\n" + table(["run", "file", "sampling seed", "settings sent"], conditions)
    sealed = [(one, row) for one in found.manifests for row in one.manifest.evaluation]
    if sealed:
        yield "Numbers that manifests hold:\n\n" + table(
            ["manifest", "benchmark", "split", "items", "metric", "value", "asked", "seeds"],
            [
                [
                    one.file.label,
                    row.benchmark,
                    row.split,
                    str(row.items),
                    row.metric,
                    percent(row.value, row.ci95),
                    plain((row.model_extra or {}).get("asked", MISSING)),
                    plain((row.model_extra or {}).get("seeds", MISSING)),
                ]
                for one, row in sealed
            ],
        )


def _cells(run: Candidates) -> dict[str, str]:
    try:
        return score(run.rows).cells()
    except ConfigError as error:
        raise ConfigError(f"{run.file.path}: {error.message}", hint=error.hint) from None


def _seed(run: Candidates) -> str:
    seeds = {plain(row.asked["seed"]) for row in run.rows if "seed" in row.asked}
    if seeds:
        return ", ".join(sorted(seeds))
    has_own = all(candidate.seed is not None for row in run.rows for candidate in row.candidates)
    return "stands with each candidate" if has_own else MISSING


def _asked(run: Candidates) -> str:
    """What was sent beside the query, but for the seed."""
    asked = {key: value for key, value in run.rows[0].asked.items() if key != "seed"}
    return f"`{plain(asked)}`" if asked else MISSING


def _training(found: Found) -> Iterator[str]:
    yield "## Training"
    for recipe in found.recipes:
        yield f"Settings `{recipe.file.label}`:\n\n" + _flat_table(recipe.content)
    curves = {log.file.label: losses(log) for log in found.logs}
    drawn = {label: points for label, points in curves.items() if points}
    if drawn:
        yield table(
            ["log", "steps logged", "first loss", "last loss", "lowest"],
            [
                [label, str(len(points)), *(f"{loss:.4f}" for loss in _summary(points))]
                for label, points in drawn.items()
            ],
        )
        yield "![Training loss over optimizer steps](loss.png)"


def _summary(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    return points[0][1], points[-1][1], min(loss for _, loss in points)


def _flat_table(content: Mapping[str, Any]) -> str:
    return table(["setting", "value"], [[key, plain(value)] for key, value in _flat(content)])


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _data(found: Found) -> Iterator[str]:
    yield "## Data"
    for sidecar in found.sidecars:
        content = dict(sidecar.content)
        steps, arms = content.pop("steps", None), content.pop("arms", None)
        yield f"Data set `{sidecar.file.label}`:\n\n" + _flat_table(content)
        if isinstance(steps, list) and steps:
            yield table(["step", "kept", "dropped", "what"], [_step_row(step) for step in steps])
        if isinstance(arms, dict) and arms:
            yield table(["arm", "rows", "sha256", "ids_sha256"], [_arm_row(name, arm) for name, arm in arms.items()])
    for dropped in found.dropped:
        yield _dropped_table(dropped)


def _step_row(step: Mapping[str, Any]) -> list[str]:
    return [*(plain(step.get(key, MISSING)) for key in ("name", "kept", "dropped")), plain(step.get("says", ""))]


def _arm_row(name: str, arm: Mapping[str, Any]) -> list[str]:
    return [name, *(plain(arm.get(key, MISSING)) for key in ("rows", "sha256", "ids_sha256"))]


def _dropped_table(dropped: Dropped) -> str:
    rows = [[step, reason, str(n)] for step, reason, n in dropped.counts]
    head = f"Dropped rows of `{dropped.file.label}`: {sum(n for *_, n in dropped.counts)}"
    return head + ("\n\n" + table(["step", "reason", "rows"], rows) if rows else "")


def _conditions(found: Found) -> Iterator[str]:
    yield "## Versions and provenance"
    for sealed in _one_a_run(found):
        provenance = {key: value for key, value in sealed.manifest.provenance.items() if key != "record"}
        if provenance:
            yield f"`{sealed.file.label}`:\n\n" + _flat_table(provenance)
        power = (sealed.manifest.provenance.get("record") or {}).get("power")
        if isinstance(power, dict) and "verdict" in power:
            yield f"Probes of `{sealed.file.label}`: {power['verdict']}"


def _one_a_run(found: Found) -> list[Sealed]:
    """Checkpoints of one run share pair and seed; the one that was trained longest speaks for them."""
    longest: dict[tuple[str, str], Sealed] = {}
    for sealed in sorted(found.manifests, key=lambda one: _step(one.manifest)):
        longest[sealed.manifest.pair_id, plain(sealed.manifest.provenance.get("seed"))] = sealed
    return sorted(longest.values(), key=lambda one: one.file.label)


def _step(manifest: Manifest) -> int:
    step = manifest.provenance.get("step")
    return step if isinstance(step, int) else 0


def _missing_section(found: Found) -> str:
    missing = list(_missing(found))
    said = "\n".join(f"- {line}" for line in missing) if missing else "Nothing that this report looks for."
    return f"## Missing\n\n{said}"


def _missing(found: Found) -> Iterator[str]:
    for what, is_there in (
        ("candidates files: no score was computed", found.candidates),
        ("training logs (metrics.jsonl): no loss curve", any(losses(log) for log in found.logs)),
        ("settings (a recipe or run.json): how it was trained", found.recipes),
        ("data set (dataset.json): rows, filters, decontamination", found.sidecars),
        ("dropped rows (dropped.jsonl): which rows were dropped, and why", found.dropped),
        ("manifest (its.json): prompts, versions, provenance", found.manifests),
    ):
        if not is_there:
            yield what
    for run in found.candidates:
        if _seed(run) == MISSING:
            yield f"sampling seed of {run.file.label}"
        if any(row.greedy is None for row in run.rows):
            yield f"greedy replies of {run.file.label}"
    for sealed in _one_a_run(found):
        yield from (f"{what} of {sealed.file.label}" for what in _missing_of(sealed.manifest))


def _missing_of(manifest: Manifest) -> Iterator[str]:
    for key in ("base_model", "dataset_sha256", "ids_sha256", "weights_sha256", "versions", "licenses"):
        if not manifest.provenance.get(key):
            yield f"provenance.{key}"
    if not manifest.evaluation:
        yield "evaluation"
    if not manifest.probes:
        yield "probes"


def _all_files(found: Found) -> list[File]:
    kinds = (found.candidates, found.logs, found.sidecars, found.recipes, found.manifests, found.dropped)
    return sorted((one.file for kind in kinds for one in kind), key=lambda file: file.label)
