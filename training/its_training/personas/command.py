"""`its-train personas write | freeze | report`: parses and prints; the work is in the modules beside this one."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from its_proxy.codesign.errors import ConfigError
from its_proxy.seal import replace_file
from its_training.files import check_writable
from its_training.personas.ledger import Ledger, Totals, open_ledger
from its_training.personas.tasks import (
    N_DOMAINS,
    PER_QUERY,
    Task,
    queries_file,
    read_queries,
    tasks_per_domain,
    tasks_per_query,
)
from its_training.personas.write import Writer
from its_training.progress import Stages

UNWRITTEN_FILE = "unwritten.jsonl"
_PATH = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Personas by a language model: write them, freeze them into a pool, report on their quality."""


@command.command()
@click.option("--dataset", type=_PATH, help="What its-train prepare wrote: a persona for each of its queries.")
@click.option("--queries", type=_PATH, help="Or a file: JSON lines with id, query and, where known, answer.")
@click.option("--strategy", "strategies", multiple=True, type=click.Choice(PER_QUERY), help="Repeatable.  [similar]")
@click.option("--per-domain", type=click.IntRange(min=1), help="Or so many for each domain of the taxonomy.")
@click.option("--endpoint", "endpoints", multiple=True, required=True, metavar="URL", help="Ends in /v1; repeatable.")
@click.option("--model", required=True, help="The writer, by the name that the endpoints know.")
@click.option("--key-env", metavar="NAME", help="Environment variable that holds the endpoints' key.")
@click.option("--out", type=_PATH, required=True, metavar="WORK", help="Folder of the ledger; a second run goes on.")
@click.option("--seed", type=int, default=0, help="Of the domains drawn, and of the writer.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=1.0, help="The writer's.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="The writer's.")
@click.option("--max-tokens", type=click.IntRange(min=16), default=512, help="Of one reply; a cut one is refused.")
@click.option("--concurrency", type=click.IntRange(1, 1024), default=16, help="Calls in flight at most.")
@click.option("--asks", type=click.IntRange(1, 10), default=3, help="Calls for one persona: the first and re-asks.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=120.0, help="Seconds for one call.")
@click.option("--failures", type=click.IntRange(min=0), default=100, help="Failed calls borne; two successes pay one.")
@click.option("--price-in", type=click.FloatRange(min=0), help="Of a million prompt tokens, to add up the cost.")
@click.option("--price-out", type=click.FloatRange(min=0), help="Of a million completion tokens.")
def write(**options: Any) -> None:
    """Have a language model write personas; every reply is checked, refused ones are asked for again."""
    tasks, n_tasks = _tasks(options)
    key = _key(options["key_env"])
    folder: Path = options["out"]
    check_writable(folder, "--out")
    from its_training.personas.freeze import keep_prompts
    from its_training.personas.prompts import packaged_prompts

    sampling = {name: options[name] for name in ("temperature", "top_p", "max_tokens") if options[name] is not None}
    writer = Writer(options["model"], sampling, packaged_prompts(), options["asks"])
    keep_prompts(folder, writer.prompts)
    console = _console()
    with open_ledger(folder, create=True) as ledger:
        n_calls = asyncio.run(_write(writer, tasks, n_tasks, ledger, key, options, console))
        _list_unwritten(ledger, folder / UNWRITTEN_FILE)
        totals = ledger.totals()
    console.print(f"{n_tasks} tasks, {n_calls} calls now; in {folder} altogether:")
    _print_totals(console, totals, options["price_in"], options["price_out"])
    if totals.n_unwritten:
        console.print(f"{totals.n_unwritten} without a persona, listed in {folder / UNWRITTEN_FILE}; --asks asks more")


def _tasks(options: dict[str, Any]) -> tuple[Iterator[Task], int]:
    """The tasks, read as they are needed, and how many they are; the files are read through once before any call."""
    sources = [options[name] for name in ("dataset", "queries", "per_domain") if options[name] is not None]
    if len(sources) != 1:
        raise ConfigError("one of --dataset, --queries and --per-domain is needed", hint="what to write personas for")
    if options["per_domain"] is not None:
        if options["strategies"]:
            raise ConfigError("--strategy does not go with --per-domain", hint="its personas serve every strategy")
        return tasks_per_domain(options["per_domain"], options["seed"]), options["per_domain"] * N_DOMAINS
    file = queries_file(sources[0])
    strategies = tuple(dict.fromkeys(options["strategies"])) or ("similar",)
    n_queries = sum(1 for _ in read_queries(file))
    if n_queries == 0:
        raise ConfigError(f"{file} holds no queries", hint="JSON lines with id and query")
    return tasks_per_query(read_queries(file), strategies, options["seed"]), n_queries * len(strategies)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ConfigError(f"--key-env: {variable} is not set", hint="export the endpoints' key under that name")
    return key


async def _write(
    writer: Writer,
    tasks: Iterator[Task],
    n_tasks: int,
    ledger: Ledger,
    key: str | None,
    options: dict[str, Any],
    console: Console,
) -> int:
    from its_training.personas.endpoints import Endpoints
    from its_training.personas.write import write as write_all

    asked = Endpoints(options["endpoints"], key=key, timeout_s=options["timeout_s"], max_failures=options["failures"])
    n_done = 0
    with Stages(console).show(f"personas by {writer.model}") as advance:

        def one_more() -> None:
            nonlocal n_done
            n_done += 1
            advance(n_done, n_tasks)

        async with asked as endpoints:
            return await write_all(
                writer, tasks, endpoints, ledger, concurrency=options["concurrency"], advance=one_more
            )


def _list_unwritten(ledger: Ledger, path: Path) -> None:
    names = ("id", "strategy", "domain", "reason")
    rows = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in ledger.unwritten()]
    replace_file(path, "".join(rows).encode())


def _print_totals(console: Console, totals: Totals, price_in: float | None, price_out: float | None) -> None:
    console.print(f"  {totals.n_calls} calls, {totals.n_again} of them re-asks; {totals.n_accepted} personas accepted")
    if totals.rejected:
        console.print("  refused: " + ", ".join(f"{reason} {n}" for reason, n in totals.rejected.items()))
    console.print(f"  {totals.prompt_tokens} prompt tokens, {totals.completion_tokens} completion tokens")
    if price_in is not None or price_out is not None:
        cost = (totals.prompt_tokens * (price_in or 0) + totals.completion_tokens * (price_out or 0)) / 1e6
        console.print(f"  cost: {cost:.4f}, at {price_in or 0} in and {price_out or 0} out a million")
    if totals.models:
        console.print(f"  model as reported: {', '.join(totals.models)}")
    if totals.fingerprints:
        console.print(f"  system_fingerprint: {', '.join(totals.fingerprints)}")


@command.command()
@click.argument("work", type=_PATH)
@click.option("--out", type=_PATH, required=True, metavar="DIR", help="Folder of the pool, its prompts, and who wrote.")
@click.option("--model", help="Which writer's, where WORK holds several.")
@click.option("--allow-missing", is_flag=True, help="Also where domains have none: a pool for random alone.")
def freeze(work: Path, out: Path, model: str | None, allow_missing: bool) -> None:
    """Freeze the accepted personas of WORK into a pool that its-train prepare takes."""
    from its_training.personas.freeze import POOL_FILE
    from its_training.personas.freeze import freeze as freeze_ledger

    with open_ledger(work) as ledger:
        frozen = freeze_ledger(ledger, work, out, model=model, allow_missing=allow_missing)
    console = _console()
    console.print(f"wrote {out / POOL_FILE}: {len(frozen.pool.personas)} personas, sha256 {frozen.pool.sha256[:8]}")
    if frozen.missing:
        console.print(f"no persona of: {', '.join(frozen.missing)}; similar and dissimilar cannot draw from it")


@command.command()
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("--dataset", type=_PATH, help="For a pool: the prepared data set whose queries draw from it.")
@click.option("--limit", type=click.IntRange(min=1), default=2_000, help="Queries of each strategy, chosen by hash.")
@click.option("--out", type=_PATH, help="Page; its picture goes beside it.  [DIR/persona-quality.md]")
def report(folder: Path, dataset: Path | None, limit: int, out: Path | None) -> None:
    """Report on the personas of DIR: what personas write or freeze wrote, or a prepared data set."""
    from its_training.personas.page import page
    from its_training.personas.picture import draw
    from its_training.personas.quality import measure
    from its_training.personas.sources import open_source

    target = out or folder / "persona-quality.md"
    stages = Stages(_console())
    with stages.show("personas read"):
        source = open_source(folder, dataset, limit)
    check_writable(target.parent, "--out")
    with stages.show("personas measured"):
        quality = measure(source)
    picture = target.with_suffix(".png") if quality.measured else None
    if picture is not None:
        draw(source.label, quality, picture)
    replace_file(target, page(source, quality, picture.name if picture else None).encode())
    for compared in quality.compared:
        stages.console.print(f"{compared.nearer} > {compared.farther}: {compared.verdict}")
    stages.console.print(f"wrote {target}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
