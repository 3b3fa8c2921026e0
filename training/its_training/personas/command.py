"""`its-train personas write | freeze | report`: parses and prints; the work is in the modules beside this one."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from its_proxy.codesign.errors import ConfigError
from its_proxy.seal import replace_file
from its_training.files import check_writable
from its_training.personas.endpoints import Endpoints
from its_training.personas.freeze import POOL_FILE, keep_prompts
from its_training.personas.freeze import freeze as freeze_ledger
from its_training.personas.ledger import Ledger, Totals, open_ledger
from its_training.personas.prompts import packaged_prompts
from its_training.personas.tasks import (
    N_DOMAINS,
    PER_QUERY,
    Task,
    queries_file,
    read_queries,
    tasks_per_domain,
    tasks_per_query,
)
from its_training.personas.write import Ran, Writer
from its_training.personas.write import write as write_all
from its_training.progress import Stages

UNWRITTEN_FILE = "unwritten.jsonl"
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Options:
    """What `write` was given on the command line."""

    dataset: Path | None
    queries: Path | None
    strategies: tuple[str, ...]
    per_domain: int | None
    endpoints: tuple[str, ...]
    model: str
    key_env: str | None
    out: Path
    seed: int
    temperature: float
    top_p: float | None
    max_tokens: int
    concurrency: int
    asks: int
    timeout_s: float
    failures: int
    price_in: float | None
    price_out: float | None

    @property
    def sampling(self) -> dict[str, Any]:
        top_p = {} if self.top_p is None else {"top_p": self.top_p}
        return {"temperature": self.temperature, **top_p, "max_tokens": self.max_tokens}


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
def write(**given: Any) -> None:
    """Have a language model write personas; every reply is checked, refused ones are asked for again."""
    options = Options(**given)
    tasks, n_tasks = _tasks(options)
    key = _key(options.key_env)
    check_writable(options.out, "--out")
    writer = Writer(options.model, options.sampling, packaged_prompts(), options.asks)
    keep_prompts(options.out, writer.prompts)
    console = _console()
    with open_ledger(options.out, create=True) as ledger:
        ran = asyncio.run(_write(writer, tasks, n_tasks, ledger, key, options, console))
        _list_unwritten(ledger, options.out / UNWRITTEN_FILE)
        totals = ledger.totals()
    console.print(f"{n_tasks} tasks, {ran.n_calls} calls now; in {options.out} altogether:")
    _print_totals(console, totals, options)
    if ran.n_lost:
        raise ConfigError(f"{ran.n_lost} tasks got no reply at all", hint="the same command tries them again")


def _tasks(options: Options) -> tuple[Iterator[Task], int]:
    """The tasks, read as they are needed, and how many they are; a file is read through once before any call."""
    sources = [source for source in (options.dataset, options.queries, options.per_domain) if source is not None]
    if len(sources) != 1:
        raise ConfigError("one of --dataset, --queries and --per-domain is needed", hint="what to write personas for")
    if options.per_domain is not None:
        if options.strategies:
            raise ConfigError("--strategy does not go with --per-domain", hint="its personas serve every strategy")
        return tasks_per_domain(options.per_domain, options.seed), options.per_domain * N_DOMAINS
    file = queries_file(options.dataset or options.queries or Path())
    strategies = tuple(dict.fromkeys(options.strategies)) or ("similar",)
    n_queries = sum(1 for _ in read_queries(file))
    if n_queries == 0:
        raise ConfigError(f"{file} holds no queries", hint="JSON lines with id and query")
    return tasks_per_query(read_queries(file), strategies, options.seed), n_queries * len(strategies)


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
    options: Options,
    console: Console,
) -> Ran:
    n_done = 0
    with Stages(console).show(f"personas by {writer.model}") as advance:

        def one_more() -> None:
            nonlocal n_done
            n_done += 1
            advance(n_done, n_tasks)

        asked = Endpoints(options.endpoints, key=key, timeout_s=options.timeout_s, max_failures=options.failures)
        async with asked as endpoints:
            return await write_all(writer, tasks, endpoints, ledger, concurrency=options.concurrency, advance=one_more)


def _list_unwritten(ledger: Ledger, path: Path) -> None:
    names = ("id", "strategy", "domain", "reason")
    rows = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in ledger.unwritten()]
    replace_file(path, "".join(rows).encode())


def _print_totals(console: Console, totals: Totals, options: Options) -> None:
    console.print(f"  {totals.n_calls} calls, {totals.n_again} of them re-asks; {totals.n_accepted} personas accepted")
    if totals.rejected:
        console.print("  refused: " + ", ".join(f"{reason} {n}" for reason, n in totals.rejected.items()))
    console.print(f"  {totals.prompt_tokens} prompt tokens, {totals.completion_tokens} completion tokens")
    if options.price_in is not None or options.price_out is not None:
        price_in, price_out = options.price_in or 0.0, options.price_out or 0.0
        cost = (totals.prompt_tokens * price_in + totals.completion_tokens * price_out) / 1e6
        console.print(f"  cost: {cost:.4f}, at {price_in} in and {price_out} out a million")
    if totals.models:
        console.print(f"  model as reported: {', '.join(totals.models)}")
    if totals.fingerprints:
        console.print(f"  system_fingerprint: {', '.join(totals.fingerprints)}")
    if totals.n_unwritten:
        where = options.out / UNWRITTEN_FILE
        console.print(f"  {totals.n_unwritten} without a persona, listed in {where}; a larger --asks goes on with them")


@command.command()
@click.argument("work", type=_PATH)
@click.option("--out", type=_PATH, required=True, metavar="DIR", help="Folder of the pool, its prompts, and who wrote.")
@click.option("--model", help="Which writer's, where WORK holds several.")
@click.option("--allow-missing", is_flag=True, help="Also where domains have none: a pool for random alone.")
def freeze(work: Path, out: Path, model: str | None, allow_missing: bool) -> None:
    """Freeze the accepted personas of WORK into a pool that its-train prepare takes."""
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
