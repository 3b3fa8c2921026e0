"""The `its-proxy` command: parses, calls, prints. The work is done in functions that tests call directly."""

import asyncio
import json
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from its_proxy import __version__
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.protocol.client import get_json, post_json
from its_proxy.settings import CONFIG_VARIABLE, Settings, effective, load_settings, quick_model

DEMO_PROBLEMS = Path(__file__).parent / "demo" / "problems.jsonl"
DEMO_MODEL = "demo-random"
DEFAULT_URL = "http://127.0.0.1:8080/v1"
_PIPE_COLUMNS = 300


class _Group(click.Group):
    """Every error on purpose becomes one line and exit code 1; 2 stays click's own usage error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ItsError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"show_default": True, "auto_envvar_prefix": None})
@click.version_option(__version__, prog_name="its-proxy")
def main() -> None:
    """Serve persona-trained checkpoints the way they were trained, and vote over their answers."""


_config = click.option(
    "--config", type=click.Path(path_type=Path), envvar=CONFIG_VARIABLE, show_envvar=True, help="A YAML file."
)
_url = click.option(
    "--url", default=DEFAULT_URL, callback=lambda *args: args[-1].rstrip("/"), help="Base URL of a running its-proxy."
)
_key = click.option("--key", envvar="ITS_KEY", show_envvar=True, help="API key, where the server has keys.")


def _serving_options(command: Any) -> Any:
    options = [
        _config,
        click.option("--upstream", help="Base URL of an OpenAI-compatible server, such as http://gpu:8000/v1."),
        click.option("--upstream-key-env", help="NAME of the variable that holds the upstream's key."),
        click.option("--model", help="Public model name."),
        click.option("--served-name", help="The upstream's name for the model, where it differs."),
        click.option("--checkpoint", type=click.Path(path_type=Path), help="Folder with its.json."),
        click.option("--host", help="Address to listen on; any but loopback needs keys.  [default: 127.0.0.1]"),
        click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8080]"),
        click.option("--max-n", type=int, help="Most candidates of one query.  [default: 16]"),
        click.option("--strict/--no-strict", default=None, help="End on a mismatch (default with one --checkpoint)."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_serving_options
def serve(**options: Any) -> None:
    """Serve; without options the packaged demo checkpoints, embedded, at 127.0.0.1:8080."""
    from its_proxy.server.run import run

    run(_settings(**options), _announce)


@main.command()
@_serving_options
def config(**options: Any) -> None:
    """Show every effective setting and where it comes from; serves nothing."""
    table = Table("setting", "value", "from", box=None)
    for key, value, source in effective(_settings(**options)):
        table.add_row(key, json.dumps(value, default=str), source)
    _console().print(table)


@main.command()
@_url
@_key
@click.option("--json", "as_json", is_flag=True, help="The server's own answer.")
def models(url: str, key: str | None, as_json: bool) -> None:
    """List what a running server offers: pairs, strategies and handshakes."""
    document = get_json(f"{url}/models", key)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    table = Table("model", "strategy", "n", "pair", "handshake", "why", box=None)
    for card in document["data"]:
        its = card.get("its") or {}
        why = its.get("reason") or its.get("advice") or ", ".join(its.get("members", []))
        pair, state = its.get("pair_id") or "", its.get("handshake") or ""
        state = ", ".join(state) if isinstance(state, list) else state
        table.add_row(card["id"], its.get("strategy") or "", str(its.get("n") or ""), pair[:8], state, why)
    _console().print(table)


@main.command()
@click.argument("query", required=False)
@click.option("--demo", is_flag=True, help="Ask a problem of the kind that the demo checkpoints know.")
@click.option("--model", default=DEMO_MODEL, help="Model to ask.")
@click.option("--n", type=int, help="Candidates.")
@_url
@_key
def ask(query: str | None, demo: bool, model: str, n: int | None, url: str, key: str | None) -> None:
    """Ask a running server, and show the vote."""
    answer = None
    if demo:
        query, answer = _demo_problem()
    if query is None:
        raise click.UsageError("give a QUERY, or --demo")
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": query}]}
    if n is not None:
        body["its"] = {"n": n}
    _print_vote(_console(), query, answer, post_json(f"{url}/chat/completions", body, key))


@main.command()
@click.argument("query")
@click.option("--model", default=DEMO_MODEL, help="Model to explain.")
@click.option("--json", "as_json", is_flag=True, help="The server's own answer.")
@_url
@_key
def explain(query: str, model: str, as_json: bool, url: str, key: str | None) -> None:
    """Show what would be sent for a query, without sending it."""
    body = {"model": model, "messages": [{"role": "user", "content": query}], "its": {"explain": True}}
    plan = post_json(f"{url}/chat/completions", body, key)
    if as_json:
        click.echo(json.dumps(plan, indent=2))
        return
    _print_plan(_console(), query, plan)


@main.command()
@click.argument("items", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Candidates file; a second run resumes it.")
@click.option("--model", required=True, help="Model to ask.")
@click.option("--n", default=8, help="Candidates of each item.")
@click.option("--limit", type=int, help="Only the first items.")
@click.option("--strategy", help="Ask with another strategy than the recorded one (forced, marked).")
@click.option("--greedy/--no-greedy", default=True, help="Also one greedy reply an item.")
@click.option("--concurrency", default=2, help="Items asked at the same time.")
@_url
@_key
def evaluate(items: Path, out: Path, **options: Any) -> None:
    """Ask a running server every item, and report pass@1, maj@n and greedy with 95% intervals."""
    from its_proxy.evaluate import as_markdown, collect, read_candidates, read_items, score

    limit, url, model = options.pop("limit"), options.pop("url"), options.pop("model")
    wanted = read_items(items)[:limit]
    asyncio.run(collect(url, model, wanted, out, force=options["strategy"] is not None, **options))
    click.echo(as_markdown([score(read_candidates(out))]))


def _settings(config: Path | None, upstream: str | None, upstream_key_env: str | None, model: str | None,
              served_name: str | None, checkpoint: Path | None, **flags: Any) -> Settings:  # fmt: skip
    fragment = quick_model(upstream, model, checkpoint, served_name)
    if upstream_key_env is not None:
        if upstream is None:
            raise ConfigError("--upstream-key-env: needs --upstream")
        fragment["upstreams"]["default"]["key_env"] = upstream_key_env
    return load_settings(config, os.environ, {**flags, **fragment})


def _announce(url: str, context: Any) -> None:
    names = ", ".join(context.catalog.served) or "everything that the upstream lists"
    click.echo(f"its-proxy serves {names} at {url}", err=True)
    if context.settings.demo:
        click.echo("try: its-proxy ask --demo", err=True)


def _demo_problem() -> tuple[str, str]:
    """A random held-out problem: no demo checkpoint was trained on it."""
    try:
        row = json.loads(random.choice(DEMO_PROBLEMS.read_text().splitlines()))
    except OSError:
        raise ConfigError("this installation holds no demo problems") from None
    return row["query"], row["answer"]


def _console() -> Console:
    """Texts keep their own line breaks, and tables their whole values where no terminal tells its width."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(width=width, soft_wrap=True, highlight=False, markup=False)


def _print_vote(console: Console, query: str, answer: str | None, reply: Mapping[str, Any]) -> None:
    console.print("query", style="bold")
    console.print(query)
    console.print(f"\nreply of {reply['model']}", style="bold")
    console.print(reply["choices"][0]["message"].get("content") or "")
    if (its := reply.get("its")) is None:
        return
    console.print("\nvote", style="bold")
    total = max(its["votes"].values(), default=1)
    for text, weight in its["votes"].items():
        console.print(f"  {text:>12}  {'█' * round(24 * weight / total)} {weight}")
    strategies = [member["strategy"] for member in its["members"] or [its]]
    console.print(
        f"  agreement {its['agreement']:.2f}; {its['n']} asked, {its['cancelled']['candidates']} cancelled early; "
        f"stopped: {its['stopped']}; strategy {', '.join(strategies)}; handshake {its['handshake']}"
    )
    if answer is not None:
        console.print(f"  the right answer is {answer}")


def _print_plan(console: Console, query: str, plan: Mapping[str, Any]) -> None:
    for member in plan["members"]:
        console.print(
            f"{member['model']}: strategy {member['strategy']}, handshake {member['handshake']}, "
            f"{member['n']} of {plan['n']} candidates",
            style="bold",
        )
        for message in member["messages"]:
            content = message["content"] if isinstance(message["content"], str) else json.dumps(message["content"])
            before, found, after = content.partition(query)
            console.print(Text.assemble((f"{message['role']}: ", "dim"), (before, "cyan"), found, after))
    console.print(
        f"vote {plan['vote']}, starts with {plan['starts_with']}, stop {plan['stop']}, answer {plan['answer']}, "
        f"sampling {plan['sampling']}"
    )
