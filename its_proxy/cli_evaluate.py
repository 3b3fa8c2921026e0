"""`its-proxy evaluate | replay | gate`: parses, calls, prints."""

import asyncio
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import click

from its_proxy import __version__
from its_proxy.candidates import Row, read_candidates
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.layouts import LAYOUTS, Benchmark, read_benchmark
from its_proxy.seal import replace_file
from its_proxy.voting.answers import AnswerKind
from its_proxy.voting.stop import RULES

EXIT_CODES: Mapping[str, int] = {"pass": 0, "fail": 1, "undecided": 3}
UNUSABLE = 2
INTERRUPTED = 130
_PATH = click.Path(path_type=Path)


def _listed(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value else ()


def _sizes(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _listed(ctx, parameter, value))
    except ValueError:
        raise click.BadParameter("numbers with commas between them, such as 1,2,4,8") from None


_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_EQUIVALENCE = click.option(
    "--equivalence/--no-equivalence",
    default=True,
    help="Prove that answers are equal which are written differently, where its-proxy[math] is installed.",
)


@click.command()
@click.argument("items", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Candidates file; a second run resumes it.")
@click.option("--model", required=True, help="Model to ask.")
@click.option("--layout", type=click.Choice(["auto", *LAYOUTS]), default="auto", help="How ITEMS are written.")
@click.option("--n", default=8, type=click.IntRange(min=1), help="Candidates of each item.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first items.")
@click.option("--seed", default=0, help="Seed of the candidates; another one is another draw.")
@click.option("--choice-seed", default=0, help="Seed that shuffles the choices of GPQA, question by question.")
@click.option("--append", help="Text after every query, such as 'Put the final answer in \\boxed{}.'")
@click.option("--answer", type=click.Choice(get_args(AnswerKind)), help="How answers are read.  [default: the pair's]")
@click.option("--strategy", help="Ask with another strategy than the recorded one (forced, marked).")
@click.option("--greedy/--no-greedy", default=True, help="Also one greedy reply an item.")
@click.option("--concurrency", default=2, type=click.IntRange(min=1), help="Items asked at the same time.")
@_EQUIVALENCE
@click.option("--metrics", callback=_listed, help="Such as greedy,pass@1,maj@8.  [default: all usual ones]")
@click.option("--json", "json_file", type=_PATH, help="Run file: every number, with the conditions it holds under.")
@click.option("--url", default="http://127.0.0.1:8080/v1", help="Base URL of a running its-proxy.")
@click.option("--key", envvar="ITS_KEY", show_envvar=True, help="API key, where the server has keys.")
def evaluate(items: Path, out: Path, metrics: Sequence[str], json_file: Path | None, **options: Any) -> None:
    """Ask a running server every item of a benchmark, and report what its candidates are worth.

    ITEMS is JSONL, JSON or CSV, with gold answers or without: AIME 2024 and 2025, MATH-500, GPQA, GSM8K, or plain
    items.
    """
    from its_proxy.compared import compared
    from its_proxy.measurement import as_markdown, measure
    from its_proxy.metrics import read_metric

    for metric in metrics:
        read_metric(metric)  # now rather than after hours of asking
    benchmark = read_benchmark(items, options["layout"], options["choice_seed"]).first(options["limit"])
    if options["append"]:
        benchmark = benchmark.with_text(options["append"])
    click.echo(f"{benchmark.layout.title}: {len(benchmark.items)} items", err=True)
    for remark in benchmark.remarks:
        click.echo(f"note: {remark}", err=True)
    _collect(benchmark, out, options)
    wanted = {item.id for item in benchmark.items}
    (rows,) = compared([row for row in read_candidates(out) if row.id in wanted], is_off=not options["equivalence"])
    measurement = measure(rows, metrics)
    click.echo(as_markdown(measurement))
    if json_file is not None:
        document = _run_file(benchmark, out, rows, options) | {"measurement": measurement.document()}
        _write(json_file, json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def _collect(benchmark: Benchmark, out: Path, options: Mapping[str, Any]) -> None:
    from its_proxy.collect import collect

    kept = ("n", "greedy", "concurrency", "key", "seed", "strategy")
    asking = collect(
        options["url"].rstrip("/"),
        options["model"],
        benchmark.items,
        out,
        force=options["strategy"] is not None,
        answer=options["answer"] or benchmark.layout.answer,
        **{name: options[name] for name in kept},
    )
    try:
        asyncio.run(asking)
    except KeyboardInterrupt:
        click.echo(f"interrupted; the same command goes on with what {out} holds", err=True)
        raise SystemExit(INTERRUPTED) from None


def _run_file(benchmark: Benchmark, out: Path, rows: Sequence[Row], options: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of a measurement: what was asked, of whom, how and when."""
    from its_proxy.compared import how_compared
    from its_proxy.measurement import SCHEMA_VERSION

    dates = sorted(row.date for row in rows if row.date)
    return {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"its-proxy": __version__, "python": platform.python_version()},
        "items": {
            "layout": benchmark.layout.name,
            "file": benchmark.file,
            "sha256": benchmark.sha256,
            "remarks": list(benchmark.remarks),
            "choice_seed": options["choice_seed"],
            "append": options["append"],
        },
        "candidates": {"file": out.name, "sha256": sha256(out.read_bytes()).hexdigest()},
        "answers": how_compared(rows),
        "asked": {**rows[0].asked, "first": dates[0] if dates else None, "last": dates[-1] if dates else None},
    }


@click.command()
@click.argument("file", type=_PATH)
@click.option("--n", "sizes", callback=_sizes, help="Numbers of candidates.  [default: 1, 2, 4, ... and all]")
@click.option("--stop", "rules", callback=_listed, default=",".join(RULES), help="Stop rules.")
@click.option("--order", help="arrival, tokens or a seed.  [default: arrival where times are known, else tokens]")
@click.option("--min-agreement", type=click.FloatRange(0, 1, min_open=True), help="Floor of the verdict.")
@_EQUIVALENCE
@click.option("--picture", type=_PATH, help="SVG or PNG of accuracy against tokens (needs matplotlib).")
@_JSON
def replay(
    file: Path,
    sizes: tuple[int, ...],
    rules: tuple[str, ...],
    order: str | None,
    min_agreement: float | None,
    equivalence: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Vote again over a candidates FILE under other n and stop rules, and mark the smallest n that is enough."""
    from its_proxy.compared import as_sentence, compared
    from its_proxy.evaluate import as_markdown
    from its_proxy.replay import default_order, order_name, read_order, sweep
    from its_proxy.replay_picture import draw

    rows = read_candidates(file)
    if not rows:
        raise ConfigError(f"{file} holds no rows")
    n = min(len(row.candidates) for row in rows)
    chosen = default_order(rows) if order is None else read_order(order)
    powers = tuple(2**power for power in range(n.bit_length()) if 2**power < n)
    (rows,) = compared(rows, is_off=not equivalence)
    settings = sweep(rows, sizes or (*powers, n), rules, chosen, min_agreement)
    if picture is not None:
        draw(settings, picture, title=f"{rows[0].model}, {len(rows)} items")
    if as_json:
        about = {
            "model": rows[0].model,
            "items": len(rows),
            "n": n,
            "order": order_name(chosen),
            "answers": as_sentence(rows),
        }
        click.echo(json.dumps({"version": 1, **about, "settings": [asdict(each) for each in settings]}, indent=1))
        return
    click.echo(as_markdown(settings))
    times = f"; times as recorded while {n} ran side by side" if chosen == "arrival" else ""
    click.echo(
        f"\n{len(rows)} items of {rows[0].model}, {n} candidates each, arriving {order_name(chosen)}{times}. "
        f"The first candidates of each item are taken; an interval is Wilson's, over items. {as_sentence(rows)}"
    )


@click.command()
@click.argument("new", type=_PATH)
@click.option("--against", "old", type=_PATH, required=True, help="Candidates file of the checkpoint in service.")
@click.option("--metric", required=True, help="greedy, pass@K, avg@K or maj@K, such as maj@8.")
@click.option("--margin", required=True, type=click.FloatRange(0, 100, min_open=True), help="Points it may lose.")
@_EQUIVALENCE
@click.option("--junit", type=_PATH, help="JUnit XML file to write.")
@click.option("--markdown", type=_PATH, help="Markdown file to write.")
@_JSON
@click.option("--allow-other-ways", is_flag=True, help="Compare although the two were asked in different ways.")
@click.pass_context
def gate(
    ctx: click.Context,
    new: Path,
    old: Path,
    metric: str,
    margin: float,
    equivalence: bool,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    allow_other_ways: bool,
) -> None:
    """Tell whether the checkpoint of candidates file NEW is at most a margin worse than the old one.

    Exits 0 for pass, 1 for fail, 3 for undecided (and says how many items would decide), 2 for options or files that
    cannot be compared.
    """
    from its_proxy.compared import compared
    from its_proxy.gate import decide
    from its_proxy.gate_page import advice, as_junit, as_markdown, sentence
    from its_proxy.metrics import read_metric

    try:
        new_rows, old_rows = compared(*_two_files(new, old), is_off=not equivalence)
        verdict = decide(new_rows, old_rows, read_metric(metric), margin / 100, allow_other_ways=allow_other_ways)
        if junit is not None:
            _write(junit, as_junit(verdict))
        if markdown is not None:
            _write(markdown, as_markdown(verdict).encode())
    except ItsError as error:
        # Not 1: that would say that the checkpoint is worse.
        click.echo(f"Error: {error}", err=True)
        ctx.exit(UNUSABLE)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        ctx.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps({"version": 1, "exit_code": EXIT_CODES[verdict.decision], **asdict(verdict)}, indent=1))
        ctx.exit(EXIT_CODES[verdict.decision])
    click.echo(sentence(verdict))
    click.echo(verdict.equality)
    if (told := advice(verdict)) is not None:
        click.echo(told)
    ctx.exit(EXIT_CODES[verdict.decision])


def _two_files(new: Path, old: Path) -> tuple[list[Row], list[Row]]:
    rows = read_candidates(new), read_candidates(old)
    if all(rows) and new.read_bytes() == old.read_bytes():
        raise ConfigError(f"{new} and {old} are the same run", hint="a checkpoint cannot be compared with itself")
    return rows


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
