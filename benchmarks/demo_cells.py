"""Asks running its-proxy servers the held-out demo problems, each arm through its manifest and against it.

    make results            # starts two servers, asks 1,000 problems in 8 cells, writes docs/results/demo-http.md

Resumable: candidates are kept in `--keep`, and a cell that is complete is not asked again.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

import click

from its_proxy.evaluate import (
    Comparison,
    Item,
    Replay,
    Row,
    Score,
    as_markdown,
    collect,
    compare,
    read_candidates,
    read_items,
    replay,
    score,
)
from its_proxy.statistics import Estimate

ARMS = ("none", "similar", "dissimilar", "random")
# (arm, strategy asked with; None: its own, through the manifest)
CELLS = [(arm, None) for arm in ARMS] + [(arm, "random" if arm == "none" else "none") for arm in ARMS]


PORT = 8391


@click.command()
@click.option("--servers", default=2, show_default=True, help="Servers to start, a core each; cells are shared out.")
@click.option("--items", type=click.Path(path_type=Path), default=Path("its_proxy/demo/problems.jsonl"))
@click.option("--limit", default=1000, show_default=True, help="Problems of each cell.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("build/demo-cells"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/demo-http.md"), show_default=True)
def main(servers: int, items: Path, limit: int, keep: Path, out: Path) -> None:
    """Asks every cell, then writes the tables."""
    keep.mkdir(parents=True, exist_ok=True)
    with serving_demo(servers) as urls:
        asyncio.run(_ask_all(urls, read_items(items)[:limit], keep))
    cells = {cell: read_candidates(_file(keep, *cell))[:limit] for cell in CELLS}
    out.write_text(_report(cells, limit))
    click.echo(f"written: {out}")


@contextmanager
def serving_demo(n: int) -> Iterator[list[str]]:
    """`n` its-proxy processes on the demo, ready to answer, ended when the block is left."""
    ports = [PORT + k for k in range(n)]
    command = [sys.executable, "-m", "its_proxy", "serve", "--log-level", "error", "--port"]
    processes = [subprocess.Popen([*command, str(port)]) for port in ports]
    try:
        for port in ports:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz")
        yield [f"http://127.0.0.1:{port}/v1" for port in ports]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def _wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            with urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise click.ClickException(f"no server became ready at {url}")


async def _ask_all(urls: Sequence[str], items: Sequence[Item], keep: Path) -> None:
    queue = list(reversed(CELLS))

    async def work(url: str) -> None:
        while queue:
            arm, strategy = queue.pop()
            await collect(
                url, f"demo-{arm}", items, _file(keep, arm, strategy), strategy=strategy, force=strategy is not None
            )

    await asyncio.gather(*map(work, urls))


def _file(keep: Path, arm: str, strategy: str | None) -> Path:
    return keep / f"{arm}-asked-{strategy or 'own'}.jsonl"


def _report(cells: dict[tuple[str, str | None], list[Row]], limit: int) -> str:
    own = [score(cells[arm, None]) for arm in ARMS]
    crossed = [score(cells[arm, "random" if arm == "none" else "none"]) for arm in ARMS]
    pairs = [compare(cells[arm, None], cells[arm, "random" if arm == "none" else "none"]) for arm in ARMS]
    against_none = [compare(cells[arm, None], cells["none", None]) for arm in ARMS[1:]]
    replays = [_Named(f"demo-{arm}", replay(cells[arm, None], order=order)) for arm in ARMS for order in ("tokens", 0)]
    parts = [
        _head(limit),
        "## Each arm through its manifest\n\n" + as_markdown(own),
        "## Each arm asked the other way (forced, marked)\n\n" + as_markdown(crossed),
        "## What a mismatch costs: own minus other, paired by problem\n\n" + as_markdown(pairs),
        "## Persona arms against `none`, each through its own manifest\n\n" + as_markdown(against_none),
        "## `exact` against the full vote, replayed on the saved candidates\n\n" + as_markdown(replays),
        "## In words\n\n" + _words(own, pairs),
    ]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Named:
    """A replay's cells with its model before them."""

    model: str
    replay: Replay

    def cells(self) -> dict[str, str]:
        return {"model": self.model, **self.replay.cells()}


def _head(limit: int) -> str:
    return f"""# The demo checkpoints, asked over HTTP

{limit:,} held-out problems (`its_proxy/demo/problems.jsonl`), 8 candidates each at the manifest's sampling, one greedy
reply; one base seed, one fine-tuning seed: intervals (95%) cover problems and samples, not training seeds.
Command: `make results`. Date: {datetime.now(UTC):%Y-%m-%d}. Versions: its-proxy {version("its-proxy")},
torch {version("torch")}, transformers {version("transformers")}, Python {sys.version.split()[0]}."""


def _words(own: Sequence[Score], pairs: Sequence[Comparison]) -> str:
    lines = []
    for arm, cell, pair in zip(ARMS, own, pairs, strict=True):
        greedy = cell.majority_minus_greedy
        lines.append(
            f"- `{arm}`: maj@8 minus pass@1 {_points(cell.majority_minus_pass)}; "
            f"maj@8 minus greedy {_points(greedy) if greedy else 'not asked'}; "
            f"own minus other at maj@8 {_points(pair.majority)}."
        )
    return "\n".join(lines)


def _points(estimate: Estimate) -> str:
    value, low, high = (100 * part for part in estimate)
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
