"""docs/reliability.md: what its-proxy survives, written from the results and from contract.yaml.

python -m benchmarks.reliability.page       # or: make reliability
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.reliability.pictures import draw_all
from benchmarks.reliability.results import FOLDER
from benchmarks.vllm_fleet.report import table

CONTRACT = Path(__file__).with_name("contract.yaml")
PAGE = Path(__file__).parents[2] / "docs/reliability.md"
Result = Mapping[str, Any]
_HEAD = """# What its-proxy survives

For whoever puts its-proxy between many clients and expensive GPUs: first the figures, then what clients are told when
an upstream fails, then every row of the contract with the test or the measurement that shows it.

`make test` runs a short form of all of it, `make torture` the long forms; `make reliability` writes this page from
their results in `docs/results/reliability/`. All of it ran on one shared machine with two cores, where its-proxy, the
upstream and the clients stood beside each other and beside other work: times are upper bounds. No GPU is needed for
any of it: what upstreams do is scripted, over real connections between real processes."""
_WAYS = ("plain", "counted", "voted stream", "one streamed", "passed through")


def read_results(folder: Path) -> dict[str, Result]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def read_contract() -> dict[str, Any]:
    contract: dict[str, Any] = yaml.safe_load(CONTRACT.read_text())
    return contract


def page(results: Mapping[str, Result], contract: Mapping[str, Any], pictures: Iterable[str]) -> str:
    sections = [_HEAD, "## In figures", _figures(results, contract["goals"])]
    sections += [f"![{Path(name).stem}](results/reliability/{name})" for name in pictures]
    sections += ["Conditions:", _conditions(results, contract["goals"])]
    if "faults" in results:
        sections += ["## 34 faults of an upstream", _faults(results["faults"])]
    sections += ["## The contract, row by row"]
    for title, rows in contract["tables"].items():
        sections += [f"### {title}", _rows(rows, results)]
    sections += ["## Not shown here", _gaps(contract, results)]
    return "\n\n".join(sections) + "\n"


def _figures(results: Mapping[str, Result], goals: Mapping[str, Any]) -> str:
    rows = []
    for name, goal in goals.items():
        found = results.get(name)
        rows.append({
            "": "not measured" if found is None else "holds" if found["passed"] else "**does not hold**",
            "what": f"[{goal['what']}](results/reliability/{name}.json)" if found is not None else goal["what"],
            "goal": goal["goal"],
            "found": goal.get("gap", "") if found is None else found_by(name, found),
        })  # fmt: skip
    return table(rows)


def found_by(name: str, result: Result) -> str:
    """A measurement's figures in one line."""
    figures = result["figures"]
    if name in _SAID:
        return _SAID[name](figures)
    plain = {key: value for key, value in figures.items() if isinstance(value, str | int | float)}
    return "; ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in plain.items())


_SAID: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "faults": lambda f: (
        f"{f['replies']:,} replies, {f['as_told']:,} as told; latest {f['latest_over_deadline_ms']} ms "
        "past the deadline"
    ),
    "disconnects": lambda f: (
        f"{f['disconnects']:,} disconnects, {f['candidates_cancelled']:,} candidates: "
        f"{f['orphans']} orphans, {f['slots_leaked']} slots leaked; p50 {f['p50_ms']}, p99 {f['p99_ms']}, "
        f"most {f['max_ms']} ms"
    ),
    "descriptors": lambda f: (
        f"/livez within {f['/livez answered after, s at most']} s meanwhile; well again within "
        f"{f['well again after, s at most']} s after they went"
    ),
    "large_bodies": lambda f: (
        f"{f['most memory, MiB more']} MiB more; the slowest body of 2 MiB read in {f['slowest reading, ms']} ms"
    ),
    "key_timing": lambda f: (
        f"t of {f['t, near misses, against guesses']} for keys that are nearly right, "
        f"{f['t, half a key, against guesses']} for half of one"
    ),
    "fuzz": lambda f: (
        f"{f['requests: requests']:,} requests, {f['requests: 5xx']} answered by a 5xx, "
        f"{f['requests: longest on the event loop, ms of processor time']} ms at most on the loop; "
        f"{f['examples: examples']:,} examples; {_total(f, ': inputs'):,} inputs led by coverage, "
        f"{max(value for name, value in f.items() if name.endswith('slowest_ms'))} ms at most"
    ),
    "endless": lambda f: f"at most {max(f.values())} MiB",
    "retry_budget": lambda f: f"at most {max(row['calls_per_candidate'] for row in f.values())}",
    "flapping": lambda f: "; ".join(f"{name}: {100 * row['answered_share']:.2f}%" for name, row in f.items()),
    "outage": lambda f: "; ".join(f"{name}: {row['recovered_within_s']:g} s" for name, row in f.items()),
    "straggler": lambda f: f"p99 {f['one_slow_p99_ms']} ms, without it {f['even_p99_ms']} ms: {f['p99_ratio']}x",
    "overload": lambda f: "; ".join(map(_overload, f.items())),
    "soak": lambda f: (
        f"{f['requests']:,} requests in {f['minutes']} minutes; memory {f['rss_mib_after_warm_up']} MiB "
        f"after 5 minutes, {f['rss_mib_at_the_end']} at the end ({f['rss_growth_percent']:+}%); descriptors "
        f"{_arrow(f['descriptors_before_after'])}, tasks {_arrow(f['tasks_before_after'])}; "
        f"{f['requests_without_a_fault_not_answered_200']} without a fault not answered in time"
    ),
}


def _overload(kind: tuple[str, Mapping[str, Any]]) -> str:
    name, found = kind
    goodput = " and ".join(f"{100 * found[load]['goodput_of_peak']:.0f}%" for load in ("double", "tenfold"))
    rejects = [found[load]["reject_p99_ms"] for load in ("double", "tenfold") if found[load]["reject_p99_ms"]]
    recovery_s = max(found["recovery_after_double_s"], found["recovery_after_tenfold_s"])
    return f"{name}: {goodput} of the peak, rejects p99 {max(rejects, default=0)} ms, recovery {recovery_s} s"


def _total(figures: Mapping[str, Any], ending: str) -> int:
    return sum(value for name, value in figures.items() if name.endswith(ending))


def _arrow(values: Iterable[int]) -> str:
    return " to ".join(map(str, values))


def _number(value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _conditions(results: Mapping[str, Result], goals: Mapping[str, Any]) -> str:
    skipped = ("cores", "python", "aiohttp", "system")
    lines = []
    for name in goals:
        if (result := results.get(name)) is not None:
            told = [f"{key}: {value}" for key, value in result["conditions"].items() if key not in skipped]
            what = goals[name]["what"]
            lines.append(f"- {what}: " + "; ".join([f"`{result['command']}`", result["date"], *told]))
    return "\n".join(lines)


def _faults(result: Result) -> str:
    rows = [{"fault": fault, **{way: told.get(way, "") for way in _WAYS}} for fault, told in result["told"].items()]
    return (
        "What a client is told when every candidate suffers it. *plain*: a vote of eight, asked plainly; *counted*: "
        "each of the eight streamed; *voted stream*: the client reads a stream; *one streamed*: no vote; *passed "
        "through*: a model without a manifest. *200, then ...*: the stream ends with that error. When two of eight "
        "suffer it, the other six decide, and the reply says `lost: 2`, but where the fault leaves a candidate whole."
        "\n\n" + table(rows)
    )


def _rows(rows: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    return table([
        {"": name, "what happens": row["failure"], "what its-proxy does": row["does"], "shown by": _shown(row, results)}
        for name, row in rows.items()
    ])  # fmt: skip


def _shown(row: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    tests = [f"[{_spoken(name)}](../{file})" for file, _, name in (test.partition("::") for test in row["tests"])]
    measured = [f"[{name}](results/reliability/{name}.json)" for name in row.get("results", ()) if name in results]
    return "; ".join([*tests, *measured]) or "not covered"


def _spoken(test: str) -> str:
    """A test's name is a sentence."""
    return test.removeprefix("test_").replace("_", " ")


def _gaps(contract: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    lines = [
        f"- {goal['what']}: {goal.get('gap', 'not measured')}"
        for name, goal in contract["goals"].items() if name not in results
    ]  # fmt: skip
    for rows in contract["tables"].values():
        lines += [f"- {name}: {row['gap']}" for name, row in rows.items() if "gap" in row]
    return "\n".join(f"{line}." for line in lines)


@click.command(help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
@click.option("--out", type=click.Path(path_type=Path), default=PAGE, show_default=False)
def main(results: Path, out: Path) -> None:
    found = read_results(results)
    out.write_text(page(found, read_contract(), draw_all(found, results)))
    failed = [name for name, result in found.items() if not result["passed"]]
    print(f"{out}: {len(found)} measurements" + (f", not holding: {', '.join(failed)}" if failed else ""))


if __name__ == "__main__":
    main()
