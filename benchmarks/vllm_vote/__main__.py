"""Measures the vote before a real vLLM, and writes docs/results/vllm-vote.md.

    make results-vllm                       # everything; an hour or two on two cores
    make results-vllm ARGS="gauge"          # one part: accuracy, tokens or gauge
    make results-vllm ARGS="--report-only"  # the page again, from what has been measured

Resumable: what stands in `--keep` is not measured again. Ctrl-C and SIGTERM end every process that it started.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import aiohttp
import click
from rich.console import Console
from rich.progress import Progress

from benchmarks.vllm_vote import accuracy, gauge, tokens
from benchmarks.vllm_vote.kept import Kept
from benchmarks.vllm_vote.servers import DEMO, Servers, start_servers
from its_proxy.codesign.errors import ItsError
from its_proxy.evaluate import Item, read_items

PARTS = ("gauge", "accuracy", "tokens")
MODELS = ("demo-random", "demo-none", "demo-similar", "demo-dissimilar")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and where its records are kept."""

    parts: Sequence[str]
    models: Sequence[str]
    items: Sequence[Item]
    n_token_items: int
    n_rounds: int
    keep: Path

    @property
    def tokens(self) -> Kept:
        return Kept(self.keep / f"{self.models[0]}-tokens.jsonl")

    @property
    def crowds(self) -> Kept:
        return Kept(self.keep / f"{self.models[0]}-crowds.jsonl")

    @property
    def gauge(self) -> Kept:
        return Kept(self.keep / f"{self.models[0]}-gauge.jsonl")

    @property
    def sessions(self) -> Kept:
        return Kept(self.keep / "sessions.jsonl")

    def waiting(self, model: str) -> list[str]:
        """The parts that need vLLM with this model; tokens and gauge are measured on the first one."""
        is_first = model == self.models[0]
        is_waiting = {
            "accuracy": not accuracy.is_complete(self.keep, model, "vllm", self.items),
            "tokens": is_first and self._waits_for_tokens(),
            "gauge": is_first and any(gauge.waiting(self.gauge, end, self.n_rounds) for end in gauge.ENDS),
        }
        return [part for part in self.parts if is_waiting[part]]

    def _waits_for_tokens(self) -> bool:
        items = self.items[: self.n_token_items]
        return bool(tokens.waiting(self.tokens, items) or tokens.waiting_crowds(self.crowds, items))

    def waiting_embedded(self) -> list[str]:
        return [model for model in self.models if not accuracy.is_complete(self.keep, model, "embedded", self.items)]


@click.command(context_settings={"show_default": True})
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="[default: all four; repeatable]")
@click.option("--limit", default=1000, help="Items of the accuracy part.")
@click.option("--token-items", default=200, help="Items of the tokens part.")
@click.option("--rounds", default=50, help="Rounds of each end in the gauge part.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("build/vllm-vote"), help="What was measured.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/vllm-vote.md"))
@click.option("--report-only", is_flag=True, help="Measure nothing, write the page.")
def main(parts: Sequence[str], models: Sequence[str], limit: int, token_items: int, rounds: int, keep: Path, out: Path,
         report_only: bool) -> None:  # fmt: skip
    """Measures PARTS (all without any), then writes the page over everything that has been measured."""
    items = read_items(DEMO / "problems.jsonl")[:limit]
    plan = Plan(parts or PARTS, models or MODELS, items, token_items, rounds, keep)
    keep.mkdir(parents=True, exist_ok=True)
    if not report_only:
        # SIGTERM as Ctrl-C; and that one also where a shell in the background has it ignored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            asyncio.run(_measure(plan))
        except (RuntimeError, ItsError, aiohttp.ClientError) as error:
            raise click.ClickException(f"{error}\nWhat has been measured is kept: the same command goes on.") from None
    out.write_text(_report(plan))
    click.echo(f"written: {out}", err=True)


async def _measure(plan: Plan) -> None:
    for model in plan.models:
        if waiting := plan.waiting(model):
            async with start_servers(model, plan.keep) as servers:
                for part in waiting:
                    click.echo(f"{model} on vLLM: {part}", err=True)
                    await _measure_part(plan, servers, model, part)
                    await _note(plan, servers, model, part)
    if "accuracy" in plan.parts and (models := plan.waiting_embedded()):
        # When vLLM has gone: both would want all cores.
        click.echo("embedded engine: accuracy", err=True)
        await accuracy.ask_embedded(models, plan.items, plan.keep)


async def _measure_part(plan: Plan, servers: Servers, model: str, part: str) -> None:
    match part:
        case "accuracy":
            await accuracy.ask(servers.url, model, "vllm", plan.items, plan.keep)
        case "tokens":
            await _measure_tokens(plan, servers, model)
        case "gauge":
            await _measure_gauge(plan, servers)


async def _measure_tokens(plan: Plan, servers: Servers, model: str) -> None:
    kept, crowds, items = plan.tokens, plan.crowds, plan.items[: plan.n_token_items]
    seeds = {item.id: 1000 * number for number, item in enumerate(items)}
    with _progress() as progress:
        for item, way in progress.track(tokens.waiting(kept, items), description="alone"):
            kept.add(await tokens.ask(servers, model, item, way, seeds[item.id]))
        for crowd, way in progress.track(tokens.waiting_crowds(crowds, items), description="in crowds"):
            crowds.add(await tokens.ask_crowd(servers, model, crowd, way, [seeds[item.id] for item in crowd]))


async def _measure_gauge(plan: Plan, servers: Servers) -> None:
    kept, items = plan.gauge, gauge.hardest_first(plan.items)
    with _progress() as progress:
        for end in gauge.ENDS:
            bar = progress.add_task(end, total=plan.n_rounds, completed=gauge.n_counting(kept, end))
            while gauge.n_counting(kept, end) < plan.n_rounds:
                number = len(kept.where(end=end))
                kept.add(await gauge.ask(servers, items[number % len(items)], end, number))
                progress.update(bar, completed=gauge.n_counting(kept, end))


async def _note(plan: Plan, servers: Servers, model: str, part: str) -> None:
    """Under which conditions a part was measured."""
    async with servers.http.get(f"{servers.vllm.root}/version") as reply:
        vllm = (await reply.json())["version"]
    date, load = f"{datetime.now(UTC):%Y-%m-%d}", round(os.getloadavg()[2], 1)
    plan.sessions.add({"part": part, "model": model, "date": date, "vllm": vllm, "load": load})


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal)


def _report(plan: Plan) -> str:
    parts = {
        "Accuracy through vLLM and through the embedded engine": accuracy.report(plan.models, plan.items, plan.keep),
        f"Generated tokens, by vLLM's own counter (`{plan.models[0]}`)": tokens.report(plan.tokens, plan.crowds),
        f"Back to no running request (`{plan.models[0]}`)": gauge.report(plan.gauge, plan.n_rounds),
    }
    return "\n\n".join([_head(plan), *(f"## {title}\n\n{text}" for title, text in parts.items())]) + "\n"


def _head(plan: Plan) -> str:
    sessions = plan.sessions.records
    dates, vllms = ({session[key] for session in sessions} for key in ("date", "vllm"))
    loads = ", ".join(f"{session['load']} ({session['part']})" for session in sessions)
    arguments = [*(f"--model {model}" for model in plan.models), f"--limit {len(plan.items)}"]
    arguments += [f"--token-items {plan.n_token_items}", f"--rounds {plan.n_rounds}"]
    return f"""# The vote before a real vLLM

its-proxy as a process of its own before one `vllm serve` (CPU build, bfloat16, eager, context 512), on loopback; items
are `its_proxy/demo/problems.jsonl`. Intervals are 95%.

Command: `make results-vllm ARGS="{" ".join(arguments)}"`. Date: {", ".join(sorted(dates))}.
Versions: its-proxy {version("its-proxy")}, vLLM {", ".join(sorted(vllms))}, Python {sys.version.split()[0]}.
Machine: {os.cpu_count()} cores, shared with other work, so every time is an upper bound; load average at the end of a
part: {loads}."""


if __name__ == "__main__":
    main()
