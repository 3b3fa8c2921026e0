"""docs/performance.md: what its-proxy costs beside others, written from the results and from nothing else.

python -m benchmarks.speed.page       # make bench measures first, and then writes it
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import click

from benchmarks.speed.goals import GOALS, Results, middle, ratio, values
from benchmarks.speed.pictures import COLOURS, draw_all
from benchmarks.speed.results import FOLDER, read_results
from benchmarks.speed.scenarios import CONCURRENCY, scenarios
from benchmarks.vllm_fleet.report import table

PAGE = Path(__file__).parents[2] / "docs/performance.md"
TEXTS = Path(__file__).with_name("page.md")
Rows = Sequence[Mapping[str, object]]


def page(results: Results, pictures: Iterable[str]) -> str:
    """The words stand in page.md, with the names of the parts in double braces."""
    shown = [f"![{Path(name).stem}](results/performance/{name})" for name in pictures]
    parts = {
        "warning": _warning(results),
        "goals": table([goal.row(results) for goal in GOALS]),
        "pictures": "\n\n".join(shown) or "No picture: nothing was measured.",
        "cpu": _table(_cpu(results)),
        "rates": _table(_rates(results)),
        "times": _table(_times(results)),
        "paced": _table(_paced(results)),
        "failed": _table(_failed(results)),
        "starts": _table(_starts(results)),
        "votes": _table(_votes(results)),
        "hang_ups": _table(_hang_ups(results)),
        "chat": _table(_chat(results)),
        "draws": _table(_draws(results)),
        "missing": _missing(results),
        "conditions": _conditions(results),
    }
    text = TEXTS.read_text()
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part)
    return text


def _table(rows: Rows) -> str:
    return table(rows) if rows else "Not measured."


def _targets(results: Results) -> list[str]:
    figures = results.get("rates", {}).get("figures", {})
    return [name for name in COLOURS if any(name in by_target for by_target in figures.values())]


_BUSY = 1.5
_PACED = ("paced-100ms", "paced-50ms", "paced-20ms")


def _is_quick(results: Results) -> bool:
    return bool(results.get("rates", {}).get("conditions", {}).get("is_quick"))


def _warning(results: Results) -> str:
    """Above all figures, where they must not be taken for more than they are."""
    load = results.get("rates", {}).get("conditions", {}).get("load average before", 0)
    said = []
    if _is_quick(results):
        said.append("These figures are of a quick run, one short round: good to see that all works, not to be quoted.")
    if load > _BUSY:
        said.append(
            f"The machine was busy with other work, its load average {load} before: CPU and ratios may be trusted, "
            "rates and times may not."
        )
    return "".join(f"\n**{each}**\n" for each in said)


def _says(results: Results) -> dict[str, str]:
    return {scenario.name: scenario.says for scenario in scenarios(_is_quick(results))}


def _cpu(results: Results) -> Rows:
    names, rows = [name for name in _targets(results) if name != "direct"], []
    for scenario, says in _says(results).items():
        cells = {name: _spread(values(results, scenario, name, "cpu_ms")) for name in names}
        if any(cells.values()):
            times = ratio(results, scenario, "its-proxy", "nginx")
            told = "" if times is None else f"{times.value:.1f}x"
            rows.append({"CPU, ms a request": says, **cells, "its-proxy to nginx": told})
    return rows


def _spread(seen: Sequence[float]) -> str:
    """The median of the rounds, and in brackets their least and most."""
    if not seen:
        return ""
    return _short(median(seen)) + (f" ({_short(min(seen))} to {_short(max(seen))})" if len(seen) > 1 else "")


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" if value else "0"


def _rates(results: Results) -> Rows:
    names, rows = _targets(results), []
    for scenario, says in _says(results).items():
        cells = {name: middle(results, scenario, name, "per_second") for name in names}
        if any(cells.values()) and not scenario.startswith("paced"):
            rows.append({"requests a second": says, **{name: _whole(rate) for name, rate in cells.items()}})
    return rows


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _times(results: Results) -> Rows:
    """What each adds to what the upstream takes by itself."""
    shown = {"json-1": "p50", "slow-64": "p50", "sse-1": "first_p50", "sse-64": "first_p50", "large-4": "p50"}
    names, rows, says = [name for name in _targets(results) if name != "direct"], [], _says(results)
    for scenario, figure in shown.items():
        direct = middle(results, scenario, "direct", figure)
        if direct is None:
            continue
        what = "to the first byte: " if figure == "first_p50" else ""
        cells = {name: middle(results, scenario, name, figure) for name in names}
        added = {name: "" if ms is None else _short(max(0.0, ms - direct)) for name, ms in cells.items()}
        rows.append({"added to direct, median, ms": f"{what}{says[scenario]}", **added})
    return rows


def _paced(results: Results) -> Rows:
    says = _says(results)
    return [
        {
            "streams": says[scenario],
            "through": name,
            "CPU, ms a stream": "" if name == "direct" else _spread(values(results, scenario, name, "cpu_ms")),
            "gap between events, p99, ms": _spread(values(results, scenario, name, "gap_p99")),
            "longest gap, ms": _short(max(values(results, scenario, name, "gap_max"))),
            "first event p50, ms": _spread(values(results, scenario, name, "first_p50")),
            "cut or not whole after 30 s": _failed_of(results, scenario, name),
        }
        for scenario in _PACED
        for name in _targets(results)
        if values(results, scenario, name, "gap_p99")
    ]


def _failed_of(results: Results, scenario: str, name: str) -> str:
    failed, answered = (values(results, scenario, name, key) for key in ("failed", "answered"))
    return f"{sum(failed):.0f} of {sum(failed) + sum(answered):,.0f}" if failed else ""


def _failed(results: Results) -> Rows:
    rows = [{"failed or unfinished, at a time": str(c),
             **{name: _failed_of(results, f"json-{c}", name) for name in _targets(results)}}
            for c in CONCURRENCY]  # fmt: skip
    return rows if any(any(list(row.values())[1:]) for row in rows) else []


def _starts(results: Results) -> Rows:
    figures = results.get("starts", {}).get("figures", {})
    return [
        {
            "": name,
            "start to the first answer, s": _spread(started["ready_s"]),
            "CPU till then, s": _spread(started.get("ready_cpu_s", [])),
            "idle, MiB": _spread(started["idle_mib"]),
            "after all of this page, at most, MiB": f"{started['peak_mib']:.0f}" if "peak_mib" in started else "",
        }
        for name, started in figures.items()
    ]


def _votes(results: Results) -> Rows:
    looked = results.get("rates", {}).get("looked", {})
    return [
        {
            "": name,
            "upstream calls": seen["vote"]["calls"],
            "answer (7 is right, 3 comes first)": seen["vote"]["answer"],
            "timed": seen["vote"]["wrong"] or "yes",
        }
        for name, seen in looked.items()
        if "vote" in seen
    ]


def _hang_ups(results: Results) -> Rows:
    return [
        {"asked for": way, "through": name, "open when they left": left["open"], "closed early": left["aborted"],
         "ran to their end for nobody": left["finished"], "begun later": left["begun_later"]}
        for way, by_target in results.get("hang-ups", {}).get("figures", {}).items()
        for name, left in by_target.items()
    ]  # fmt: skip


def _chat(results: Results) -> Rows:
    return [
        {"model": name, "upstream calls": chatted["counters"]["requests"],
         "closed early": chatted["counters"]["aborted"],
         "tokens generated": f"{chatted['counters']['tokens']:,}",
         "how the votes ended": ", ".join(f"{how} {n}" for how, n in chatted["stopped"].items() if how != "None")}
        for name, chatted in results.get("chat", {}).get("figures", {}).items()
    ]  # fmt: skip


def _draws(results: Results) -> Rows:
    return [{"strategy": name, "CPU, us a draw": _spread(seen)}
            for name, seen in results.get("draws", {}).get("figures", {}).items()]  # fmt: skip


def _missing(results: Results) -> str:
    missing = results.get("rates", {}).get("missing", {})
    looked = results.get("rates", {}).get("looked", {})
    wrong = [f"- {name}, {kind}: not timed, {seen['wrong']}." for name, by_kind in looked.items()
             for kind, seen in by_kind.items() if seen["wrong"]]  # fmt: skip
    lines = [f"- {name}: left out, {reason}" for name, reason in missing.items()] + wrong
    return "\n".join(lines) or "None was left out in this run."


def _conditions(results: Results) -> str:
    """What all have in common once, the rest of each."""
    everywhere = [result["conditions"] for result in results.values()]
    common = {key: value for key, value in (everywhere[0] if everywhere else {}).items()
              if all(each.get(key) == value for each in everywhere)}  # fmt: skip
    lines = [f"- {key}: {_told(value)}" for key, value in common.items()]
    for name, result in results.items():
        own = [f"{key}: {_told(value)}" for key, value in result["conditions"].items() if key not in common]
        told = "; ".join([f"`{result['command']}`", result["date"], *own])
        lines.append(f"- [{name}](results/performance/{name}.json): {told}")
    return "\n".join(lines) or "Nothing was measured."


def _told(value: object) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)


def write(results_folder: Path = FOLDER, out: Path = PAGE) -> None:
    results = read_results(results_folder)
    out.write_text(page(results, draw_all(results, results_folder)))
    not_held = [row["what"] for row in (goal.row(results) for goal in GOALS) if "not hold" in row[""]]
    print(f"{out}: {len(results)} results" + (f"; does not hold: {'; '.join(not_held)}" if not_held else ""))


@click.command(help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
@click.option("--out", type=click.Path(path_type=Path), default=PAGE, show_default=False)
def main(results: Path, out: Path) -> None:
    write(results, out)


if __name__ == "__main__":
    main()
