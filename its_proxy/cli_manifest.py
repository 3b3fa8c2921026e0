"""`its-proxy manifest init | show | diff | bundle`: parses, calls, prints."""

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.codesign.manifest import FILE_NAME, Side, VoteAdvice, recipe_of
from its_proxy.codesign.personas import MAX_POOL_BYTES
from its_proxy.codesign.strategies import DEFAULT_TEMPLATE, name_from_input, strategy_named
from its_proxy.settings import load_settings, quick_model
from its_proxy.strategies_option import load_listed, strategies_option

if TYPE_CHECKING:
    from its_proxy.declare import Declaration, Declared
    from its_proxy.describe import Difference
    from its_proxy.retrofit import Fit

MAX_QUERIES_BYTES = 2**20
_PATH = click.Path(path_type=Path)
_KINDS = get_args(VoteAdvice.model_fields["answer"].annotation)


@click.group()
@strategies_option
def manifest(strategies: str) -> None:
    """Declare, read, compare and bundle manifests (its.json)."""
    load_listed(strategies)


@manifest.command()
@click.option("--upstream", required=True, help="Base URL of the server to ask, such as http://gpu:8000/v1.")
@click.option("--upstream-key-env", help="NAME of the variable that holds the server's key.")
@click.option("--model", required=True, help="Public model name.")
@click.option("--served-name", help="The server's name for the model, where it differs.")
@click.option("--trained", default="none", help="Strategy that the model was trained with.")
@click.option("--served-with", help="Strategy to serve it with.  [default: the same]")
@click.option("--out", type=_PATH, help="Folder to write.  [default: ./MODEL.its]")
@click.option("--force", is_flag=True, help="Replace a manifest that is there.")
@click.option("--queries", type=_PATH, help="Queries to probe with: a line each, or JSONL with `query`.")
@click.option(
    "--chat-template-kwargs", help="JSON object for the chat template, such as '{\"enable_thinking\": true}'."
)
@click.option("--system-prompt", help="System prompt where a client sends none.")
@click.option("--n", default=8, help="Candidates of a vote.")
@click.option("--temperature", default=0.8, help="Of a vote's candidates; at 0 all are equal.")
@click.option("--top-p", type=float, help="Of a vote's candidates.")
@click.option("--max-tokens", type=int, help="Most tokens of a candidate.")
@click.option("--answer", default=_KINDS[0], type=click.Choice(_KINDS), help="How answers are written.")
@click.option("--rows", type=_PATH, help="JSONL the model was trained on: proves any strategy but none.")
@click.option("--template", help="How persona and query were joined.  [default: {persona}\\n\\n{query}]")
@click.option("--pool", type=_PATH, help="Personas: JSONL with text and domain.  [default: our template personas]")
@click.option("--seed", default=0, help="Seed of the draws.")
@click.option("--turns", default="all", type=click.Choice(["all", "last"]), help="User turns that are rewritten.")
@click.option("--query-field", help="Field of a row with the query.  [default: query, question, problem, ...]")
@click.option("--rewritten-field", help="Field with the prompt.  [default: rewritten, prompt, input, messages, ...]")
@click.option("--id-field", help="Field with the row's id, which `mixed` goes by.  [default: id, row_id, unique_id]")
def init(**options: Any) -> None:
    """Declare a model that was not trained with its-train, with probes taken from the live server."""
    from its_proxy.declare import check_free, write_declared

    folder = options["out"] or Path(f"{safe_name(options['model'])}.its")
    check_free(folder, force=options["force"])
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        declared, fit = _declare(options, progress)
    write_declared(folder, declared, force=options["force"])
    if fit is not None:
        console.print(f"{fit.n_same} of {fit.n_rows} rows come out byte for byte")
    n_scored = sum(probe.logprobs is not None for probe in declared.manifest.probes)
    console.print(
        f"wrote {folder}: pair {declared.manifest.pair_id[:8]}, {len(declared.manifest.probes)} probes, "
        f"{n_scored} with log-probabilities"
    )
    for remark in declared.remarks:
        console.print(f"note: {remark}")
    console.print("serve it with:")
    click.echo(serve_command(options, folder))


@manifest.command()
@click.argument("path", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="The whole document, with its pair id.")
def show(path: Path, as_json: bool) -> None:
    """Show what a manifest says: a checkpoint's folder, its its.json, or a bundle."""
    from its_proxy.describe import document_of, page

    checkpoint = open_checkpoint(_folder_of(path), allow_one_sided=True)
    if as_json:
        click.echo(json.dumps(document_of(checkpoint.manifest), indent=1, sort_keys=True))
        return
    for heading, rows in page(checkpoint):
        click.echo(click.style(_clean(heading), bold=True))
        for name, value in rows:
            click.echo(f"  {_clean(name):<18} {_clean(value)}".rstrip())


@manifest.command()
@click.argument("one", type=_PATH)
@click.argument("other", type=_PATH)
@click.option("--query", help="Query to show rewritten by both.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def diff(one: Path, other: Path, query: str | None, as_json: bool) -> None:
    """Show what two manifests differ in. Exits 0 if their pairs are equal, 1 if not, 2 for trouble."""
    from its_proxy.describe import SAMPLE_QUERY, difference

    try:
        first, second = (open_checkpoint(_folder_of(path), allow_one_sided=True) for path in (one, other))
    except ItsError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    found = difference(first, second, query or SAMPLE_QUERY)
    if as_json:
        click.echo(json.dumps(_diff_document(found, first.pair_id, second.pair_id), indent=1))
    else:
        _print_difference(found, first.pair_id[:8], second.pair_id[:8])
    raise SystemExit(0 if found.is_pair_equal else 1)


def _diff_document(found: "Difference", one: str, other: str) -> dict[str, Any]:
    return {
        "version": 1,
        "is_pair_equal": found.is_pair_equal,
        "pair_ids": [one, other],
        "changes": [{**asdict(change), "is_pair": change.is_pair} for change in found.changes],
        "sample": found.sample,
    }


def _print_difference(found: "Difference", *pairs: str) -> None:
    if found.is_pair_equal:
        click.echo(f"equal pairs ({pairs[0]}): every request is rewritten alike")
    else:
        click.echo(f"different pairs ({pairs[0]} | {pairs[1]})")
    for heading, changes in (
        ("what makes the pair", [change for change in found.changes if change.is_pair]),
        ("what does not: vote, probes, evaluation, provenance", [c for c in found.changes if not c.is_pair]),
    ):
        if changes:
            click.echo(click.style(heading, bold=True))
        for change in changes:
            more = f" (and {change.n_more} more like it)" if change.n_more else ""
            click.echo(f"  {_clean(change.key)}{more}: {_value(change.one)} | {_value(change.other)}")
    if found.sample is not None:
        said = "alike, as far as this query shows" if found.is_rewritten_alike else "differently"
        click.echo(click.style(f"a query is rewritten {said}", bold=True))
        for pair, text in zip(pairs, found.sample, strict=True):
            click.echo(f"  {pair}  {_clean(text, '            ')}")


@manifest.command()
@click.argument("folder", type=_PATH)
@click.option("--out", type=_PATH, help="File to write.  [default: FOLDER.bundle.json]")
def bundle(folder: Path, out: Path | None) -> None:
    """Write one JSON file with the manifest and every file that it names, for a Kubernetes ConfigMap."""
    from its_proxy.bundle import CONFIG_MAP_BYTES, bundle_of, is_bundle, read_bundle
    from its_proxy.seal import replace_file

    checkpoint = open_checkpoint(_folder_of(folder), allow_one_sided=True)
    data = bundle_of(checkpoint.source, checkpoint.manifest)
    out = out or Path(f"{folder.resolve().name.removesuffix('.its')}.bundle.json")
    if out.exists() and not is_bundle(out):
        raise ConfigError(f"{out} is there already, and is no bundle", hint="choose another --out")
    try:
        replace_file(out, data)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}", hint="choose a writable --out") from None
    read_bundle(out)
    click.echo(f"wrote {out}: pair {checkpoint.pair_id[:8]}, {len(data):,} bytes", err=True)
    if len(data) > CONFIG_MAP_BYTES:
        click.echo(f"note: a ConfigMap holds at most {CONFIG_MAP_BYTES:,} bytes; mount this one as a volume", err=True)


def _folder_of(path: Path) -> Path:
    """Whoever names the manifest itself means the folder that it lies in."""
    return path.parent if path.name == FILE_NAME and path.is_file() else path


def _clean(text: str, indent: str = "") -> str:
    """Texts of a manifest may hold what a terminal would obey; line breaks stay, indented."""
    shown = (
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )
    return "".join(shown).replace("\n", f"\n{indent}")


def _value(text: str | None) -> str:
    return "not written" if text is None else _clean(text)


def safe_name(model: str) -> str:
    """A model's name as a folder's: `meta/llama-3` -> `meta-llama-3`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-")[:100] or "model"


def serve_command(options: dict[str, Any], folder: Path) -> str:
    """What to paste next."""
    words = ["its-proxy", "serve", "--upstream", options["upstream"], "--model", options["model"]]
    for name in ("served_name", "upstream_key_env"):
        if options[name] is not None:
            words += ["--" + name.replace("_", "-"), options[name]]
    return shlex.join([*words, "--checkpoint", str(folder)])


def _declare(options: dict[str, Any], progress: Progress) -> "tuple[Declared, Fit | None]":
    """What the server says of the model, and how the training rows fit where there are some."""
    from its_proxy.declare import Declaration, n_steps

    pool = None if options["pool"] is None else _read(options["pool"], MAX_POOL_BYTES)
    trained, serve = _sides(options, pool)
    fit = _fit(options, trained, pool, progress)
    declaration = Declaration(
        options["served_name"] or options["model"],
        trained,
        serve,
        _vote(options),
        pool=pool,
        provenance={} if fit is None else {"rows": {"sha256": fit.sha256, "n": fit.n_rows, "identical": fit.n_same}},
        **({} if options["queries"] is None else {"queries": read_queries(options["queries"])}),
    )
    bar = progress.add_task("asking the server", total=n_steps(declaration))
    on_step = partial(progress.update, bar, advance=1)
    return asyncio.run(_ask(options, declaration, lambda what: on_step(description=what))), fit


async def _ask(options: dict[str, Any], declaration: "Declaration", on_step: Callable[[str], None]) -> "Declared":
    from its_proxy.declare import declare
    from its_proxy.upstreams.http import HttpUpstream

    variable = options["upstream_key_env"]
    fragment = quick_model(options["upstream"], options["model"], None, options["served_name"])
    fragment["upstreams"]["default"] |= {} if variable is None else {"key_env": variable}
    environ = {variable: os.environ.get(variable, "")} if variable is not None else {}
    settings = load_settings(None, environ, fragment)
    url = settings.upstreams["default"].url
    upstream = HttpUpstream(url, url, key=environ.get(variable))
    try:
        return await declare(upstream, declaration, on_step)
    finally:
        await upstream.close()


def _fit(options: dict[str, Any], trained: Side, pool: bytes | None, progress: Progress) -> "Fit | None":
    """Whether the training rows are what the strategy makes. Only `none` may be declared without any."""
    from its_proxy.declare import pool_of
    from its_proxy.retrofit import Fields, check_rows

    rows = options["rows"]
    if rows is None:
        if trained.family != "none":
            hint = "the rows that it was trained on prove the strategy; it is never guessed"
            raise ConfigError(f"--trained {trained.strategy}: needs --rows", hint=hint)
        return None
    fields = Fields(options["query_field"], options["rewritten_field"], options["id_field"])
    bar = progress.add_task("rewriting rows", total=rows.stat().st_size if rows.is_file() else None)
    recipe = recipe_of(trained, pool_of(trained, pool))
    fit = check_rows(rows, recipe, fields, partial(progress.advance, bar))
    progress.remove_task(bar)
    return fit


def _sides(options: dict[str, Any], pool: bytes | None) -> tuple[Side, Side]:
    trained = _side(name_from_input(options["trained"]), options, pool)
    serve = _side(name_from_input(options["served_with"] or options["trained"]), options, pool)
    if trained.personas is None and serve.personas is None:
        for name in ("pool", "template"):
            if options[name] is not None:
                raise ConfigError(f"--{name}: strategy {trained.strategy!r} writes no persona", hint="see --trained")
    return trained, serve


def _side(strategy: str, options: dict[str, Any], pool: bytes | None) -> Side:
    from its_proxy.declare import personas_of

    return Side(
        strategy=strategy,
        version=1,
        template=DEFAULT_TEMPLATE if options["template"] is None else unescaped(options["template"]),
        turns=options["turns"],
        personas=None if strategy_named(strategy).family == "none" else personas_of(pool),
        system_prompt=options["system_prompt"],
        chat_template_sha256=None,
        chat_template_kwargs=_object(options["chat_template_kwargs"], "--chat-template-kwargs"),
        seed=options["seed"],
    )


def _vote(options: dict[str, Any]) -> VoteAdvice:
    names = ("n", "temperature", "top_p", "max_tokens", "answer")
    try:
        return VoteAdvice(**{name: options[name] for name in names if options[name] is not None}, stop="exact")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None


def _object(text: str | None, flag: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = strict_json(text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{flag}: should be a JSON object")
    return value


def unescaped(template: str) -> str:
    r"""A shell hands `'{persona}\n\n{query}'` over with backslashes: `\n`, `\t` and `\\` mean what they do in JSON."""
    meaning = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: meaning[found[1]], template)


def read_queries(path: Path) -> list[str]:
    """A query a line, or JSONL with `query` or the like; empty lines do not count. Raises ConfigError."""
    from its_proxy.handshake import MAX_PROBES
    from its_proxy.retrofit import QUERY_FIELDS

    try:
        lines = [line for line in _read(path, MAX_QUERIES_BYTES).decode("utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: invalid byte at position {error.start}") from None
    if not lines or len(lines) > MAX_PROBES:
        raise ConfigError(f"{path} holds {len(lines)} queries", hint=f"1 to {MAX_PROBES} are probed with")
    if not lines[0].lstrip().startswith("{"):
        return [line.strip() for line in lines]
    rows = [_object(line, f"{path}, query {number}") for number, line in enumerate(lines, 1)]
    queries = [next((row[name] for name in QUERY_FIELDS if isinstance(row.get(name), str)), "") for row in rows]
    if not all(query.strip() for query in queries):
        raise ConfigError(f"{path}: a row without a query", hint=f"one of {', '.join(QUERY_FIELDS)}")
    return queries


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes} bytes")
    return data
