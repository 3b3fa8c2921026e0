"""docs/scaling.md and its picture, written from docs/results/scaling.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling.growth import exponent, said
from benchmarks.scaling.picture import draw
from benchmarks.vllm_fleet.report import table

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results/scaling.json"
PAGE = DOCS / "scaling.md"
PICTURE = DOCS / "results/scaling.svg"
CAPTION = ("The proxy's CPU time for a request", "milliseconds")
_HEAD = """# How the cost grows

For whoever wants to know what becomes dearer with more of it, and what does not. One thing is made larger at a time;
everything else stays as small as it can be. `make scaling` measures it anew, some minutes, and writes
this page.

Two costs are told: the CPU time of the server process for one request, which depends on the machine, and the steps
that our own code takes for it (lines run and calls made), which do not. The exponent k says how a cost grows, as
size^k, where the sizes are largest: 0 is constant, 1 is linear. Calls to upstreams are real HTTP over loopback; what
the upstream and the client spend is not counted. A stream's events come as fast as they are read, which is the worst
that a server can do."""
_DRAWN = """Microseconds of CPU time to draw a persona for a query of 80 characters and to rewrite the query with it, by
the number of personas in the pool. `similar` and `dissimilar` also look for the query's domain by its words."""
_TAIL = (
    """`make guard-update` and `tests/test_counted_work.py` keep what a single request takes from growing unnoticed."""
)


def page(document: Mapping[str, Any]) -> str:
    sections = [_HEAD, "## In short", _short(document["axes"]), _picture_of(PICTURE), "## In figures"]
    for name, axis in document["axes"].items():
        sections += [
            f"### {name.capitalize()}: {axis['sizes'][0]:,} to {axis['sizes'][-1]:,} {axis['unit']}",
            _lines(axis),
        ]
        if "start_cpu_s" in axis:
            sections.append(_start(axis))
    sections += ["## A draw", _DRAWN, _draws(document["draws"]), "## Start", _started(document["start"])]
    conditions = ", ".join(f"{name} {value}" for name, value in document["machine"].items())
    sections.append(
        f"Measured {document['date']} on a machine that did other work, too: {conditions}. CPU times are the least of "
        "three rounds."
    )
    return "\n\n".join([*sections, _TAIL]) + "\n"


def _short(axes: Mapping[str, Any]) -> str:
    """What grows how, by the CPU time."""
    by_word: dict[str, list[str]] = {}
    for axis in axes.values():
        words: dict[str, list[str]] = {}
        for asked, line in axis["lines"].items():
            words.setdefault(said(exponent(axis["sizes"], line["cpu_ms"])), []).append(asked)
        for word, asked in words.items():
            by_word.setdefault(word, []).append(f"{axis['unit']} ({', '.join(asked)})")
    order = ("constant", "less than linear", "linear", "more than linear")
    return "\n".join(f"- **{word.capitalize()}** in: {'; '.join(by_word[word])}." for word in order if word in by_word)


def _picture_of(path: Path) -> str:
    return f"![CPU time of a request over what is made larger]({path.relative_to(DOCS)})"


def _lines(axis: Mapping[str, Any]) -> str:
    rows = []
    for name, line in axis["lines"].items():
        k_time, k_steps = exponent(axis["sizes"], line["cpu_ms"]), exponent(axis["sizes"], line["steps"])
        rows.append({
            "what is asked": name,
            "CPU, ms": _from_to(line["cpu_ms"]),
            "steps": _from_to(line["steps"]),
            "k of CPU": _told(k_time),
            "k of steps": _told(k_steps),
            "CPU grows": said(k_time),
        })  # fmt: skip
    return table(rows)


def _start(axis: Mapping[str, Any]) -> str:
    """What the server itself takes at each size."""
    rows = [
        {axis["unit"]: f"{size:,}", "CPU until ready, s": f"{cpu:.2f}", "resident memory, MiB": f"{rss:.0f}"}
        for size, cpu, rss in zip(axis["sizes"], axis["start_cpu_s"], axis["rss_mib"], strict=True)
    ]
    return table(rows)


def _draws(found: Mapping[str, Any]) -> str:
    rows = [
        {
            "strategy": name,
            **{f"{size:,}": "" if us is None else f"{us:.1f}" for size, us in zip(found["sizes"], drawn, strict=True)},
        }
        for name, drawn in found["rewrite_us"].items()
    ]
    return table(rows)


def _started(start: Mapping[str, Any]) -> str:
    return (
        f"`its-proxy serve --upstream URL --model NAME --checkpoint DIR`, until `/readyz` says 200: "
        f"{start['ready_s']:.2f} s, of which {start['cpu_s']:.2f} s are CPU time; a second later it holds "
        f"{start['rss_mib']:.1f} MiB of resident memory. Medians of {start['starts']} starts, the first one left out. "
        "What it does not import is kept by `tests/test_imports.py`."
    )


def _from_to(costs: Sequence[float | None]) -> str:
    known = [cost for cost in costs if cost is not None]
    return " → ".join(_number(cost) for cost in (known[0], known[-1]))


def _number(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _told(k: float | None) -> str:
    return "" if k is None else f"{k:.2f}"


def write(document: Mapping[str, Any]) -> None:
    PICTURE.write_text(draw(*CAPTION, document["axes"]))
    PAGE.write_text(page(document))
