"""`its-proxy models | ask | explain`: asks a running server, and prints what it says."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from its_proxy.codesign.errors import ConfigError
from its_proxy.console import coloured, console
from its_proxy.protocol.client import get_json, post_json

DEMO_PROBLEMS = Path(__file__).parent / "demo" / "problems.jsonl"
DEMO_MODEL = "demo-random"
DEFAULT_URL = "http://127.0.0.1:8080/v1"

_url = click.option(
    "--url", default=DEFAULT_URL, callback=lambda *args: args[-1].rstrip("/"), help="Base URL of a running its-proxy."
)
_json = click.option("--json", "as_json", is_flag=True, help="The server's own answer.")
_key = click.option("--key", envvar="ITS_KEY", show_envvar=True, help="API key, where the server has keys.")


@click.command()
@_url
@_key
@_json
def models(url: str, key: str | None, as_json: bool) -> None:
    """List what a running server offers: pairs, strategies and handshakes."""
    document = get_json(f"{url}/models", key)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    if not document["data"]:
        click.echo(
            "no models: an upstream that cannot be asked for its list shows none; the server's log says why", err=True
        )
        return
    table = Table("model", "strategy", "n", "pair", "handshake", "why", box=None)
    for card in document["data"]:
        its = card.get("its") or {}
        shares = [f"{name}: {weight}" for name, weight in its.get("alias_of", {}).items()]
        why = its.get("reason") or its.get("advice") or ", ".join(its.get("members", []) or shares)
        pair, state = its.get("pair_id") or "", its.get("handshake") or ""
        shown = Text(", ").join(map(coloured, state if isinstance(state, list) else [state]))
        table.add_row(card["id"], its.get("strategy") or "", str(its.get("n") or ""), pair[:8], shown, why)
    console().print(table)


@click.command()
@click.argument("query", required=False)
@click.option("--demo", is_flag=True, help="Ask a problem of the kind that the demo checkpoints know.")
@click.option("--model", default=DEMO_MODEL, help="Model to ask.")
@click.option("--n", type=click.IntRange(min=1), help="Candidates.")
@_json
@_url
@_key
def ask(query: str | None, demo: bool, model: str, n: int | None, as_json: bool, url: str, key: str | None) -> None:
    """Ask a running server, and show the vote."""
    answer = None
    if demo:
        query, answer = _demo_problem()
    if query is None:
        raise click.UsageError("give a QUERY, or --demo")
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": query}]}
    if n is not None:
        body["its"] = {"n": n}
    reply = post_json(f"{url}/chat/completions", body, key)
    if as_json:
        click.echo(json.dumps(reply, indent=2))
        return
    _print_vote(console(), query, answer, reply)


@click.command()
@click.argument("query")
@click.option("--model", default=DEMO_MODEL, help="Model to explain.")
@_json
@_url
@_key
def explain(query: str, model: str, as_json: bool, url: str, key: str | None) -> None:
    """Show what would be sent for a query, without sending it."""
    body = {"model": model, "messages": [{"role": "user", "content": query}], "its": {"explain": True}}
    plan = post_json(f"{url}/chat/completions", body, key)
    if as_json:
        click.echo(json.dumps(plan, indent=2))
        return
    _print_plan(console(), query, plan)


def _demo_problem() -> tuple[str, str]:
    """A random held-out problem: no demo checkpoint was trained on it."""
    try:
        row = json.loads(random.choice(DEMO_PROBLEMS.read_text().splitlines()))
    except OSError:
        raise ConfigError("this installation holds no demo problems") from None
    return row["query"], row["answer"]


def _print_vote(to: Console, query: str, answer: str | None, reply: Mapping[str, Any]) -> None:
    to.print("query", style="bold")
    to.print(query)
    to.print(f"\nreply of {reply['model']}", style="bold")
    to.print(reply["choices"][0]["message"].get("content") or "")
    if (its := reply.get("its")) is None:
        return
    to.print("\nvote", style="bold")
    total = max(its["votes"].values(), default=1)
    for text, weight in its["votes"].items():
        bar = ("█" * round(24 * weight / total), "green" if text == its["answer"] else "blue")
        to.print(Text.assemble(f"  {text:>12}  ", bar, f" {weight}"))
    members = its["members"] or [its]
    told = (
        f"  agreement {its['agreement']:.2f}; {its['n']} asked, {its['cancelled']['candidates']} cancelled early; "
        f"stopped: {its['stopped']}; strategy {', '.join(member['strategy'] for member in members)}; handshake "
    )
    to.print(Text.assemble(told, Text(", ").join(coloured(member["handshake"]) for member in members)))
    if answer is not None:
        to.print(f"  the right answer is {answer}")


def _print_plan(to: Console, query: str, plan: Mapping[str, Any]) -> None:
    for member in plan["members"]:
        to.print(
            Text.assemble(
                f"{member['model']}: strategy {member['strategy']}, handshake ",
                coloured(member["handshake"]),
                f", {member['n']} of {plan['n']} candidates",
                style="bold",
            )
        )
        for message in member["messages"]:
            content = message["content"] if isinstance(message["content"], str) else json.dumps(message["content"])
            before, found, after = content.partition(query)
            to.print(Text.assemble((f"{message['role']}: ", "dim"), (before, "cyan"), found, after))
    to.print(
        f"vote {plan['vote']}, starts with {plan['starts_with']}, stop {plan['stop']}, answer {plan['answer']}, "
        f"sampling {plan['sampling']}"
    )
