"""its-proxy as a process of its own before an upstream as another.

    async with world(folder, {"max_n": 8}) as (proxy, upstream):
        ...

Its models: `voted` (8 candidates, manifest `random`), `counted` (the same, every candidate streamed), `passed`. The
same three stand behind a second upstream, `voted-2` and so on: the same server again, with a health of its own.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.proxy import Proxy, start_proxy
from benchmarks.reliability.upstream import Running, start_upstream
from tests.serving import manifest, write_checkpoint

N = 8
PROGRAM = ("its_proxy", "serve")


def models(folder: Path) -> dict[str, Any]:
    """The section `models` of a configuration, its checkpoint written below `folder`."""
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random"))
    voted = {"served_name": "model", "checkpoint": str(checkpoint)}
    three = {
        "voted": voted,
        "counted": {**voted, "vote": {"usage_policy": "exact"}},
        "passed": {"served_name": "other"},
    }
    return {
        name + suffix: {**model, "upstream": upstream}
        for suffix, upstream in (("", "gpu"), ("-2", "gpu2"))
        for name, model in three.items()
    }


@asynccontextmanager
async def world(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> AsyncIterator[tuple[Proxy, Running]]:
    """Both ready, their handshake done. `settings` go over the common ones; under `gpu`: those of both upstreams.

    `program`: as `start_proxy` takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    async with start_upstream() as upstream:
        given = dict(settings or {})
        gpu = {"url": upstream.url, **given.pop("gpu", {})}
        common = {
            "upstreams": {"gpu": gpu, "gpu2": gpu},
            "models": models(folder),
            "log_level": "error",
            "lame_duck_s": 0,
        }
        async with start_proxy({**common, **given}, folder, environ, program) as proxy:
            for name, target in (("voted", "gpu"), ("counted", "gpu"), ("voted-2", "gpu2"), ("counted-2", "gpu2")):
                await proxy.until(name, target, "verified", "unverified")
            yield proxy, upstream
