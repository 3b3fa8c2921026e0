"""`its-train prepare`: parses and prints; the work is in pipeline.py."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.strategies import DEFAULT_TEMPLATE, name_from_input

_PATH = click.Path(path_type=Path)
_THINK = click.Choice(["tags", "keep", "strip"])
ARMS = "none,similar,dissimilar,random,mixed"


@click.command()
@click.argument("source", metavar="FILE|HUB_ID")
@click.option("--out", type=_PATH, required=True, help="Folder of the prepared data set; must not exist.")
@click.option("--layout", default="auto", help="auto, or one of those that its-train knows.")
@click.option("--map", "fields", metavar="query=F,completion=F,answer=F", help="Fields of a layout of your own.")
@click.option("--split", default="train", help="Of a Hub data set.")
@click.option("--config", "hub_config", help="Of a Hub data set.")
@click.option("--revision", help="Of a Hub data set; recorded.")
@click.option("--license", "license_", help="Of the data, where the layout does not know it.")
@click.option("--filter", "filters", multiple=True, help="Named filter or preset (ot15k), in this order; repeatable.")
@click.option("--n", "n_rows", type=click.IntRange(min=1), help="Rows to take, by hash rank.  [default: all]")
@click.option("--seed", type=int, default=7, help="Of the sample.")
@click.option("--against", multiple=True, type=_PATH, help="Evaluation file to decontaminate against; repeatable.")
@click.option("--near-duplicates/--no-near-duplicates", "drops_near", default=True, help="Drop near duplicates.")
@click.option("--tokenizer", help="Folder or Hub id: counts tokens, finds over-long rows.")
@click.option("--max-length", type=click.IntRange(min=8), help="Most tokens of a row; needs --tokenizer.")
@click.option("--over-long", type=click.Choice(["drop", "refuse"]), default="drop", help="Never cut.")
@click.option("--think", type=_THINK, default="tags", help="Thoughts: in <think> tags, as in the source, or left out.")
@click.option("--calculator-marks", "marks", is_flag=True, help="Keep GSM8K's <<...>> and ####.")
@click.option("--system-prompt", default="none", help="none, source, or a text.")
@click.option("--arms", default=ARMS, help="With commas between; N, S, D (or U), R are understood.")
@click.option("--persona-seed", type=int, default=7, help="Names the draws of personas.")
@click.option("--template", default=DEFAULT_TEMPLATE, show_default=False, help="Placement.  [default: persona first]")
@click.option("--pool", type=_PATH, help="Folder that its-train personas froze, or a pool file.  [default: templates]")
def command(source: str, out: Path, arms: str, **options: Any) -> None:
    """Makes matched arms from a data set: filters, duplicates, decontamination, sample, rewriting.

    OUT appears when it is complete; nothing is ever cut short or dropped without a line in OUT/dropped.jsonl.
    """
    from its_training.files import build
    from its_training.prepare.dataset import write_sidecar
    from its_training.prepare.pipeline import Prepared, run
    from its_training.progress import Stages

    os.environ.setdefault("HF_HUB_OFFLINE", "0")  # a Hub id is meant to be fetched
    if out.exists():
        raise ConfigError(f"--out: {out} exists", hint="nothing is overwritten; name another folder")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    request, digests = _request(source, _names(arms), **options)
    done: list[Prepared] = []

    def make(work: Path) -> None:
        done.append(run(request, work, Stages(console)))
        _copy_pool(request, work)
        write_sidecar(request, done[0], work, out.name, digests, shlex.join(["its-train", *sys.argv[1:]]))

    build(out, {"command": "prepare"}, make)
    console.print(_table(done[0].ledger.steps))
    console.print(f"{out}: {len(done[0].files)} arms of {next(iter(done[0].files.values())).n_rows} rows, "
                  f"ids {done[0].ids_sha256[:12]}")  # fmt: skip


def _names(text: str) -> list[str]:
    names = [name_from_input(name.strip()) for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--arms: name at least one", hint=ARMS)
    return names


def _request(
    name: str,
    names: list[str],
    *,
    layout: str,
    fields: str | None,
    split: str,
    hub_config: str | None,
    revision: str | None,
    license_: str | None,
    filters: tuple[str, ...],
    n_rows: int | None,
    seed: int,
    against: tuple[Path, ...],
    drops_near: bool,
    tokenizer: str | None,
    max_length: int | None,
    over_long: str,
    think: Any,
    marks: bool,
    system_prompt: str,
    persona_seed: int,
    template: str,
    pool: Path | None,
) -> tuple[Any, dict[str, str]]:
    """The options as a Request, and the digests of the evaluation files. Raises ConfigError."""
    from its_training.prepare.arms import arms
    from its_training.prepare.decontaminate import read_evaluation
    from its_training.prepare.filters import filters_named
    from its_training.prepare.layouts import Choices, layout_of, mapped, read_record
    from its_training.prepare.pipeline import Request
    from its_training.prepare.pools import open_source
    from its_training.prepare.source import Source
    from its_training.prepare.tokens import open_counter

    if (tokenizer is None) != (max_length is None):
        raise ConfigError("--tokenizer and --max-length go together", hint="rows are counted, then kept or not")
    source, choices = Source(name, split, hub_config, revision), Choices(think, marks)
    first = next(iter(source.rows()), None)
    if first is None:
        raise ConfigError(f"{name} holds no rows")
    known = mapped(_fields(fields)) if fields is not None else layout_of(layout, first)
    known = replace(known, license=license_ or known.license)
    takes_system = system_prompt == "source"
    system = read_record(known, first, 1, choices).system if takes_system else _text_or_none(system_prompt)
    evaluation, digests = read_evaluation(against)
    personas = open_source(pool)
    made = arms(names, personas, persona_seed, template, system)
    counter = open_counter(tokenizer, max_length) if tokenizer is not None and max_length is not None else None
    request = Request(
        source, known, choices, filters_named(filters), evaluation, made, personas, seed, n_rows, drops_near, counter,
        refuses_over_long=over_long == "refuse", source_system=system if takes_system else None,
    )  # fmt: skip
    return request, dict(digests)


def _fields(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name and equals and field for name, equals, field in pairs):
        raise ConfigError(f"--map {text}: not names and fields", hint="--map query=FIELD,completion=FIELD,answer=FIELD")
    return {name.strip(): field.strip() for name, _, field in pairs}


def _text_or_none(text: str) -> str | None:
    return None if text == "none" else text


def _copy_pool(request: Any, work: Path) -> None:
    """The pool and its prompts, so that the arms can be opened where they lie."""
    from its_training.prepare.arms import pool_files

    for path, data in pool_files(request.personas, work):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _table(steps: list[dict[str, Any]]) -> Table:
    table = Table("step", "kept", "dropped", "what", box=None)
    for step in steps:
        table.add_row(step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", step.get("says", ""))
    return table
