"""Settings read again ten times a second under load, each time with an alias that stands for the other pair.

    python -m benchmarks.reliability.reloads [--seconds 60] [--per-second 50]

Two pairs, each with a persona of its own. A reply is mixed where a candidate was asked with another persona than that
of the pair which the reply names.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import click
import yaml

from benchmarks.proxy import Proxy, start_proxy
from benchmarks.reliability.clients import Reply, quantile, steady_load
from benchmarks.reliability.results import FOLDER, save
from tests.scripted import Say, scripted_upstream
from tests.serving import digest_of, manifest, side, write_checkpoint

GOAL = "10 reloads a second for 60 s at 50 requests/s: 0 failures, 0 mixed pairs."
PAIRS = ("A", "B")
N = 3
EVERY_S = 0.1


def checkpoint_at(folder: Path, name: str) -> Path:
    """A pair whose only persona is its name."""
    pool = json.dumps({"domain": "cooking", "text": f"You are {name}."}).encode() + b"\n"
    personas = {"source": "pool", "file": "its-personas.jsonl", "sha256": digest_of(pool), "domains": "taxonomy/1"}
    pair = dict.fromkeys(("trained_with", "serve_with"), side("random", personas=personas))
    write_checkpoint(folder, manifest("random", pair=pair, probes=[]))
    (folder / "its-personas.jsonl").write_bytes(pool)
    return folder


def script(body: Mapping[str, Any], number: int) -> Say:
    """Answers with the name of the persona that it was asked with."""
    asked = str(body["messages"])
    return Say(next((name for name in PAIRS if f"You are {name}." in asked), "none") + " \\boxed{7}")


def settings_of(url: str, folder: Path, now: str) -> dict[str, Any]:
    """`best` stands for the pair `now`; both are served all along."""
    models = {name: {"upstream": "gpu", "served_name": "model", "checkpoint": str(folder / name)} for name in PAIRS}
    return {
        "upstreams": {"gpu": {"url": url}},
        "models": models,
        "aliases": {"best": {"models": {now: 1}}},
        "log_level": "warning",
        "lame_duck_s": 0,
    }


async def reload_often(proxy: Proxy, url: str, folder: Path, is_over: asyncio.Event) -> int:
    """How often its settings were written anew, and it was told so."""
    n, began, draft = 0, monotonic(), proxy.config.with_suffix(".new")
    while not is_over.is_set():
        n += 1
        draft.write_text(yaml.safe_dump(settings_of(url, folder, PAIRS[n % 2])))
        draft.replace(proxy.config)  # at once: a reload must never meet half a file
        os.kill(proxy.pid, signal.SIGHUP)
        await asyncio.sleep(max(0.0, began + n * EVERY_S - monotonic()))
    return n


def judged(reply: Reply, pairs: Mapping[str, str]) -> str:
    """The pair that answered, `mixed`, or what else became of a request. `pairs`: names by pair id."""
    if reply.status != 200 or reply.its is None:
        return f"failed: {reply.status} {reply.code}"
    named = pairs[reply.its["pair_id"]]
    asked = {str(candidate["text"]).split(" ")[0] for candidate in reply.its["candidates"]}
    return named if asked == {named} else "mixed"


async def measure(seconds: float, per_second: float, folder: Path) -> dict[str, Any]:
    messages = [{"role": "user", "content": "How many eggs are 3 eggs and 4 eggs?"}]
    its = {"n": N, "vote": "always", "stop": "none", "candidates": True}
    body = {"model": "best", "messages": messages, "its": its}
    pairs = {_pair_id(checkpoint_at(folder / name, name)): name for name in PAIRS}
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(scripted_upstream(script))
        proxy = await stack.enter_async_context(start_proxy(settings_of(upstream.url, folder, "A"), folder))
        for name in PAIRS:
            await proxy.until(name, "gpu", "verified", "unverified")
        is_over = asyncio.Event()
        reloading = asyncio.create_task(reload_often(proxy, upstream.url, folder, is_over))
        replies = await steady_load(proxy.url, per_second, seconds, lambda number: body)
        is_over.set()
        n_told = await reloading
        done = {labels["result"]: int(n) for labels, n in await _counted(proxy)}
    ends = Counter(judged(reply, pairs) for reply in replies)
    return {
        "requests": len(replies),
        "asked to reload": n_told,
        "reloads": done,
        "answered by": {name: ends[name] for name in PAIRS},
        "mixed": ends["mixed"],
        "failed": len(replies) - ends["mixed"] - sum(ends[name] for name in PAIRS),
        "ends": dict(ends),
        "p50_ms": round(1000 * quantile([reply.lasted_s for reply in replies], 0.5), 1),
        "p99_ms": round(1000 * quantile([reply.lasted_s for reply in replies], 0.99), 1),
    }


def _pair_id(checkpoint: Path) -> str:
    from its_proxy.checkpoint import open_checkpoint, source_at

    return open_checkpoint(source_at(checkpoint)).pair_id


async def _counted(proxy: Proxy) -> list[tuple[dict[str, str], float]]:
    samples = await proxy.samples("its_proxy_manifest_reload")
    return [(labels, value) for labels, value in samples if value < 1e6]  # without the times of their making


def is_passed(figures: Mapping[str, Any]) -> bool:
    return figures["mixed"] == figures["failed"] == 0 and set(figures["reloads"]) == {"done"}


@click.command(help=__doc__)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--per-second", default=50.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(seconds: float, per_second: float, out: Path) -> None:
    with TemporaryDirectory() as folder:
        figures = asyncio.run(measure(seconds, per_second, Path(folder)))
    conditions = {"requests a second": per_second, "seconds": seconds, "candidates": N, "reloads every, s": EVERY_S}
    path = save("reloads", figures, is_passed(figures), conditions, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
