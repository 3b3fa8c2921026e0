"""The `its-proxy` command: parses, calls, prints. The work is done in functions that tests call directly."""

import asyncio
import json
import os
import random
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from its_proxy import __version__
from its_proxy.cli_evaluate import evaluate, gate, replay
from its_proxy.cli_manifest import manifest
from its_proxy.codesign.errors import ConfigError, ItsError, UpstreamError
from its_proxy.protocol.client import get_json, post_json
from its_proxy.settings import CONFIG_VARIABLE, Settings, effective, load_settings, quick_model

if TYPE_CHECKING:
    from its_proxy.doctor import Diagnosis
    from its_proxy.server.engine import Launch

DEMO_PROBLEMS = Path(__file__).parent / "demo" / "problems.jsonl"
DEMO_MODEL = "demo-random"
DEFAULT_URL = "http://127.0.0.1:8080/v1"
_PIPE_COLUMNS = 300
_SECONDS = click.FloatRange(min=0)


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


for command in (manifest, evaluate, replay, gate):
    main.add_command(command)

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
        click.option(
            "--checkpoint-root",
            "roots",
            type=click.Path(path_type=Path),
            multiple=True,
            help="Folder in which the upstream's models are looked for, by the root that it lists; repeatable.",
        ),
        click.option("--hub/--no-hub", default=None, help="Look for manifests on the Hugging Face Hub, too."),
        click.option("--host", help="Address to listen on; any but loopback needs keys.  [default: 127.0.0.1]"),
        click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8080]"),
        click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain for TLS, a PEM file."),
        click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's key, a PEM file."),
        click.option("--max-n", type=int, help="Most candidates of one query.  [default: 16]"),
        click.option("--strict/--no-strict", default=None, help="End on a mismatch (default with one --checkpoint)."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _engine_options(command: Any) -> Any:
    options = [
        click.argument("folder", metavar="[CHECKPOINT]", required=False),
        click.argument("engine_flags", metavar="[-- FLAGS OF VLLM]", nargs=-1, type=click.UNPROCESSED),
        click.option("--engine", type=click.Choice(["embedded", "vllm"]), help="What runs CHECKPOINT, if no upstream."),
        click.option("--engine-command", help="The command that starts vLLM.  [default: vllm]"),
        click.option("--engine-start-timeout-s", type=float, help="Longest start of vLLM.  [default: as it takes]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_engine_options
@_serving_options
def serve(**options: Any) -> None:
    """Serve; without options the packaged demo checkpoints, embedded, at 127.0.0.1:8080.

    CHECKPOINT is a folder, for --engine vllm also a Hub id: that starts vLLM for it, and ends it together with
    its-proxy.

    SIGHUP reads the settings again: what they change is in force for new queries, those in flight are not disturbed.
    """
    from its_proxy.server.engine import VllmEngine
    from its_proxy.server.run import run

    options, launch = _with_engine(**options)
    settings = _settings(**options)
    engine = VllmEngine(
        launch, settings.engine_command, start_timeout_s=settings.engine_start_timeout_s, say=_say
    ) if launch is not None else None  # fmt: skip
    run(settings, _announce, lambda: _settings(**options), engine)


@main.command()
@_engine_options
@_serving_options
def config(**options: Any) -> None:
    """Show every effective setting and where it comes from; serves nothing."""
    table = Table("setting", "value", "from", box=None)
    options, launch = _with_engine(**options)
    settings = _settings(**options)
    for key, value, source in effective(settings):
        table.add_row(key, json.dumps(value, default=str), source)
    _console().print(table)
    if launch is not None:
        _console().print(f"\nstarts  {shlex.join(launch.command(settings.engine_command))}")


@main.command()
@_serving_options
@click.option("--timeout", "timeout_s", type=_SECONDS, default=0.0, help="Seconds to wait for servers still loading.")
@click.option("--no-weights", is_flag=True, help="Ask for no log-probabilities.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def doctor(ctx: click.Context, /, timeout_s: float, no_weights: bool, as_json: bool, **options: Any) -> None:
    """Examine every model at every target, as `serve` would, and show each check with its evidence.

    Exits 0 if all are verified (or have no manifest), 1 for a mismatch, 3 for what is unverified or pending, 2 for
    options or settings that cannot be used.
    """
    from its_proxy.doctor import NOT_VERIFIED, document_of, exit_code, tables

    try:
        # A refused manifest is one finding among others here.
        settings = _settings(**{**options, "strict": False})
        diagnoses = asyncio.run(_diagnosed(settings, timeout_s, skip_weights=no_weights))
    except ItsError as error:
        click.echo(f"Error: {error}", err=True)
        ctx.exit(NOT_VERIFIED if isinstance(error, UpstreamError) else 2)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        ctx.exit(130)
    if as_json:
        click.echo(json.dumps(document_of(diagnoses), indent=2))
    else:
        for table in tables(diagnoses):
            _console().print(table)
    ctx.exit(exit_code(diagnoses))


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
        shares = [f"{name}: {weight}" for name, weight in its.get("alias_of", {}).items()]
        why = its.get("reason") or its.get("advice") or ", ".join(its.get("members", []) or shares)
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


def _with_engine(
    folder: str | None, engine: str | None, engine_flags: tuple[str, ...], **options: Any
) -> "tuple[dict[str, Any], Launch | None]":
    """The options that CHECKPOINT and --engine stand for, and the vLLM server to start, if any."""
    if folder is not None and folder.startswith("-"):
        raise ConfigError("--engine vllm: needs CHECKPOINT before the --")
    if engine == "vllm":
        return _with_vllm(folder, engine_flags, **options)
    if engine_flags:
        raise ConfigError(f"{engine_flags[0]}: one CHECKPOINT is served", hint="flags behind -- need --engine vllm")
    if engine == "embedded" and options["upstream"] is not None:
        raise ConfigError("--engine embedded: needs no --upstream")
    if folder is not None:
        if options["checkpoint"] is not None:
            raise ConfigError("--checkpoint: CHECKPOINT is given already", hint="say it once")
        options["checkpoint"] = Path(folder)
    return options, None


def _with_vllm(
    folder: str | None, flags: tuple[str, ...], *, checkpoint: Path | None, model: str | None, **options: Any
) -> "tuple[dict[str, Any], Launch]":
    """As if its address, its name and its key had been given; --checkpoint says where another manifest lies."""
    from its_proxy.server.engine import KEY_VARIABLE, checkpoint_and_name, pair_name, plan_launch

    if folder is None:
        raise ConfigError("--engine vllm: needs CHECKPOINT, a folder or a Hub id")
    for option in ("upstream", "upstream_key_env", "served_name"):
        if options[option] is not None:
            raise ConfigError(f"--{option.replace('_', '-')}: --engine vllm starts the upstream itself")
    weights, folder_name = checkpoint_and_name(folder)
    if checkpoint is None and Path(weights).is_dir():
        checkpoint = Path(weights)
    model = model or folder_name
    launch = plan_launch(weights, pair_name(model, checkpoint), flags)
    # Both ends read it there: vLLM what to ask for, the upstream what to show. Nobody else on this machine knows it.
    os.environ[KEY_VARIABLE] = secrets.token_urlsafe(32)
    options |= {"upstream": launch.url, "upstream_key_env": KEY_VARIABLE, "served_name": launch.served_name}
    return {**options, "checkpoint": checkpoint, "model": model}, launch


def _settings(config: Path | None, upstream: str | None, upstream_key_env: str | None, model: str | None,
              served_name: str | None, checkpoint: Path | None, **flags: Any) -> Settings:  # fmt: skip
    fragment = quick_model(upstream, model, checkpoint, served_name)
    if upstream_key_env is not None:
        if upstream is None:
            raise ConfigError("--upstream-key-env: needs --upstream")
        fragment["upstreams"]["default"]["key_env"] = upstream_key_env
    flags["roots"] = tuple(Path(root).absolute() for root in flags["roots"]) or None
    return load_settings(config, os.environ, {**flags, **fragment})


async def _diagnosed(settings: Settings, timeout_s: float, *, skip_weights: bool) -> "list[Diagnosis]":
    from its_proxy.doctor import diagnose
    from its_proxy.server.build import build_context
    from its_proxy.server.logs import configure_logs

    configure_logs("error")  # the tables say the rest
    catalog = build_context(settings).catalog
    console = Console(stderr=True)
    try:
        if catalog.open_upstream is not None:
            await catalog.open_upstream.refresh()
        targets = list(catalog.targets())
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("targets", total=len(targets))
            return await diagnose(
                targets, timeout_s=timeout_s, skip_weights=skip_weights, on_done=lambda done: progress.advance(task)
            )
    finally:
        await catalog.close()


def _say(line: str) -> None:
    """One line about the engine or of its own, on stderr beside the log."""
    from its_proxy.server.logs import say

    who, bar, words = line.partition(" | ")
    if bar and sys.stderr is not None and sys.stderr.isatty():
        line = click.style(who + bar, dim=True) + words
    say(line)


def _announce(url: str, context: Any) -> None:
    names = ", ".join(context.catalog.served) or "everything that the upstream lists"
    _say(f"its-proxy serves {names} at {url}")
    if context.settings.demo:
        _say("try: its-proxy ask --demo")


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
