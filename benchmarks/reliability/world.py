"""its-proxy as a process of its own before an upstream as another.

    async with world(folder, {"max_n": 8}) as (proxy, upstream):
        ...

Its models: `voted` (8 candidates, manifest `random`), `counted` (the same, every candidate streamed), `passed`.
"""

import asyncio
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
    voted = {"upstream": "gpu", "served_name": "model", "checkpoint": str(checkpoint)}
    return {
        "voted": voted,
        "counted": {**voted, "vote": {"usage_policy": "exact"}},
        "passed": {"upstream": "gpu", "served_name": "other"},
    }


@asynccontextmanager
async def world(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> AsyncIterator[tuple[Proxy, Running]]:
    """Both ready, their handshake done. `settings` go over the common ones; under `gpu`: those of the upstream.

    `program`: as `start_proxy` takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    async with start_upstream() as upstream:
        given = dict(settings or {})
        gpu = {"url": upstream.url, **given.pop("gpu", {})}
        common = {"upstreams": {"gpu": gpu}, "models": models(folder), "log_level": "error", "lame_duck_s": 0}
        async with start_proxy({**common, **given}, folder, environ, program) as proxy:
            await asyncio.gather(*(proxy.until(name, "gpu", "verified", "unverified") for name in ("voted", "counted")))
            yield proxy, upstream
