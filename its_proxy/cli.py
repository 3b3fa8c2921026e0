"""The `its-proxy` command: parses, calls, prints. The work is done in functions that tests call directly."""

import asyncio
import json
import os
import secrets
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from its_proxy import __version__
from its_proxy.codesign.errors import ConfigError, ItsError, UpstreamError
from its_proxy.settings import CONFIG_VARIABLE, Settings, effective, load_settings, quick_model

if TYPE_CHECKING:
    from its_proxy.doctor import Diagnosis
    from its_proxy.server.engine import Launch, VllmEngine

_ELSEWHERE = ("ask", "evaluate", "explain", "gate", "manifest", "models", "replay")
_SECONDS = click.FloatRange(min=0)
INTERRUPTED = 130
# What click writes is plain where NO_COLOR is set; rich sees to its own.
_CONTEXT = {"show_default": True, "auto_envvar_prefix": None, "color": False if os.environ.get("NO_COLOR") else None}
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


class _Group(click.Group):
    """Every error on purpose becomes one line and exit code 1; 2 stays click's own usage error, and Ctrl-C is 130.

    A command that has a file of its own is imported when it is asked for: a server lives long, and would keep in
    memory what it never runs.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted((*super().list_commands(ctx), *_ELSEWHERE))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _from_elsewhere(cmd_name) if cmd_name in _ELSEWHERE else super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ItsError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="its-proxy")
def main() -> None:
    """Serve persona-trained checkpoints the way they were trained, and vote over their answers."""


def _from_elsewhere(name: str) -> click.Command:
    if name == "manifest":
        from its_proxy.cli_manifest import manifest

        return manifest
    if name in ("ask", "explain", "models"):
        from its_proxy import cli_ask

        return {"ask": cli_ask.ask, "explain": cli_ask.explain, "models": cli_ask.models}[name]
    from its_proxy import cli_evaluate

    return {"evaluate": cli_evaluate.evaluate, "gate": cli_evaluate.gate, "replay": cli_evaluate.replay}[name]


_config = click.option(
    "--config", type=click.Path(path_type=Path), envvar=CONFIG_VARIABLE, show_envvar=True, help="A YAML file."
)


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
        click.option("--workers", type=int, help="Processes that share the port.  [default: 1]"),
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
    options, launch = _with_engine(**options)
    settings = _settings(**options)
    worker = None
    if settings.workers > 1:
        from its_proxy.server.workers import Worker, run_workers

        if launch is not None:
            raise ConfigError("workers: several servers cannot start vLLM side by side", hint="leave it out")
        if (worker := Worker.of(os.environ)) is None:
            sys.exit(run_workers(settings, _say))
    from its_proxy.server.run import run

    engine = None if launch is None else _vllm(launch, settings)
    run(settings, _announce, lambda: _settings(**options), engine, worker)


@main.command()
@_engine_options
@_serving_options
@_json
def config(as_json: bool, **options: Any) -> None:
    """Show every effective setting and where it comes from; serves nothing."""
    from rich.table import Table

    from its_proxy.console import console

    options, launch = _with_engine(**options)
    settings = _settings(**options)
    starts = launch.command(settings.engine_command) if launch is not None else None
    if as_json:
        listed = [{"setting": key, "value": value, "from": source} for key, value, source in effective(settings)]
        click.echo(json.dumps({"version": 1, "settings": listed, "starts": starts}, indent=2, default=str))
        return
    table = Table("setting", "value", "from", box=None)
    for key, value, source in effective(settings):
        table.add_row(key, json.dumps(value, default=str), source)
    console().print(table)
    if starts is not None:
        console().print(f"\nstarts  {shlex.join(starts)}")


@main.command()
@_serving_options
@click.option("--timeout", "timeout_s", type=_SECONDS, default=0.0, help="Seconds to wait for servers still loading.")
@click.option("--no-weights", is_flag=True, help="Ask for no log-probabilities.")
@_json
@click.pass_context
def doctor(ctx: click.Context, /, timeout_s: float, no_weights: bool, as_json: bool, **options: Any) -> None:
    """Examine every model at every target, as `serve` would, and show each check with its evidence.

    Exits 0 if all are verified (or have no manifest), 1 for a mismatch, 3 for what is unverified or pending, 2 for
    options or settings that cannot be used.
    """
    from its_proxy.console import console
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
        ctx.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(document_of(diagnoses), indent=2))
    else:
        for table in tables(diagnoses):
            console().print(table)
    ctx.exit(exit_code(diagnoses))


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


def _vllm(launch: "Launch", settings: Settings) -> "VllmEngine":
    from its_proxy.server.engine import VllmEngine

    return VllmEngine(launch, settings.engine_command, start_timeout_s=settings.engine_start_timeout_s, say=_say)


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
    from rich.console import Console
    from rich.progress import Progress

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
        with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
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
    if bar and sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        line = click.style(who + bar, dim=True) + words
    say(line)


def _announce(url: str, context: Any) -> None:
    names = ", ".join(context.catalog.served) or "everything that the upstream lists"
    _say(f"its-proxy serves {names} at {url}")
    if context.settings.demo:
        _say(f"try: {called()} ask --demo")


def called() -> str:
    """This command as it can be typed here: with its folder, where that is not on the PATH."""
    path = sys.argv[0]
    return path if Path(path).name == "its-proxy" and shutil.which("its-proxy") is None else "its-proxy"
