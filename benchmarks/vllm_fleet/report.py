"""The parts that have been measured -> docs/results/vllm-fleet.md and its picture."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.plot import Line, draw
from benchmarks.vllm_fleet.many import MIB, SAMPLES, WARM_UP_S
from benchmarks.vllm_fleet.part import Part

SCRIPTED = "many-scripted"
TITLES = {
    "roll-over": "Roll-over from one checkpoint to the next",
    "roll-over-kill": "Roll-over while another server is killed and started again",
    "lose": "A server killed, and one stopped without draining",
    "ensemble": "`demo-three` over three servers",
    "many-1": "64 voted clients before one server",
    "many-3": "64 voted clients before three servers",
    SCRIPTED: "64 voted clients before a scripted server",
}
_HEAD = """# A fleet of real vLLM servers behind its-proxy

Three vLLM 0.32.0 servers (CPU build, bfloat16, `--enforce-eager`) with the demo checkpoints, and its-proxy as a process
of its own, all on one machine with two cores that others used too: times are upper bounds, and what is measured is
whether anything is lost or mixed up, not speed. What the servers received is read from their own logs
(`--enable-log-requests`, the request logger at DEBUG: every prompt as the engine got it, under the candidate's request
id) and compared with the rewrite of the same query recomputed for each checkpoint; only queries that the checkpoints
rewrite differently are asked. Every reply is checked against those logs by its `its.pair_id` and `its.target`.

vLLM runs with `VLLM_HTTP_TIMEOUT_KEEP_ALIVE=60` unless a part says otherwise: processes of this machine stood still for
up to five seconds at a time, and with vLLM's default of 5 s some calls were then sent on connections just being closed
(8 of 1,600 queries of two runs, each ended by 502; its-proxy has since halved the time that it keeps idle connections).
It runs with `--no-enable-chunked-prefill`, as its CPU build dies of a prompt that it reads in two steps under a seed.

Command: `make fleet-vllm`. its-proxy {its_proxy}, Python {python}."""


def write_report(parts: Mapping[str, Part], out: Path) -> None:
    """The page, and beside it the picture where memory was measured."""
    sections = [_HEAD.format(its_proxy=version("its-proxy"), python=sys.version.split()[0])]
    sections += [_section(TITLES[name], parts[name]) for name in TITLES if name in parts]
    lines = {TITLES[name]: _rss(part) for name, part in parts.items() if (part.folder / SAMPLES).exists()}
    out.parent.mkdir(parents=True, exist_ok=True)
    if lines:
        picture = out.with_name(f"{out.stem}-rss.svg")
        title = "Memory of its-proxy under 64 voted clients"
        picture.write_text(draw(title, "seconds (shaded: warm-up)", "RSS, MiB", lines, WARM_UP_S))
        sections.append(f"![Memory of its-proxy over time]({picture.name})")
    out.write_text("\n\n".join(sections) + "\n")


def _section(title: str, part: Part) -> str:
    checks = [{"": "holds" if held else "FAILS", "what": asked, "found": found} for held, asked, found in part.checks]
    blocks = [f"## {title}", f"{part.began}. {part.conditions}", table(checks)]
    # Rows of one shape stand in one table.
    shapes = list(dict.fromkeys(tuple(row) for row in part.rows))
    blocks += [table([row for row in part.rows if tuple(row) == shape]) for shape in shapes]
    if part.events:
        blocks.append(table([{"second": f"{at:.0f}", "event": line} for at, line in part.events]))
    return "\n\n".join(blocks)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """One line a row; the columns are the keys of the first."""
    columns = list(rows[0])
    lines: Iterable[Sequence[str]] = [columns, ["---"] * len(columns)]
    cells = [[str(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*lines, *cells])


def _rss(part: Part) -> Line:
    samples = json.loads((part.folder / SAMPLES).read_text())
    return [(at, held["rss_bytes"] / MIB) for at, held in samples]
