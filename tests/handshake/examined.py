"""Checkpoints, servers that match them or not, and the examination of one by the other."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.handshake import Check, Report, Verdict, examine
from its_proxy.upstreams.base import Upstream
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream
from tests.scripted_model import Model, recorded
from tests.serving import manifest, tokens_of, write_checkpoint

WEIGHTS = b"weights"


def opened(folder: Path, strategy: str = "random", **fields: Any) -> Checkpoint:
    """A checkpoint with one weight file and its digest in the manifest."""
    fields = {"provenance": {"weights_sha256": {"model.safetensors": sha256(WEIGHTS).hexdigest()}}, **fields}
    write_checkpoint(folder, manifest(strategy, **fields))
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return open_checkpoint(folder)


def yes(body: dict[str, Any], number: int) -> Say:
    return Say("x", finish_reason="length")


@asynccontextmanager
async def at(script: Script = yes, *, shows_tokens: bool = True, models: list[str] | None = None,
             tokens: Callable[[dict[str, Any]], list[int]] = lambda body: tokens_of(body["messages"]),
             ) -> AsyncIterator[tuple[HttpUpstream, ScriptedUpstream]]:  # fmt: skip
    async with scripted_upstream(script, models) as scripted:
        scripted.tokens = tokens if shows_tokens else None
        upstream = HttpUpstream("gpu", scripted.url)
        try:
            yield upstream, scripted
        finally:
            await upstream.close()


async def verdict_on(checkpoint: Checkpoint, upstream: Upstream, name: str, *, is_local: bool) -> Verdict:
    return (await examine(checkpoint, upstream, name, is_local=is_local)).verdict


async def report_on(folder: Path, model: Model, document: dict[str, Any] | None = None, **options: Any) -> Report:
    """What `examine` says of a scripted model that claims to be the checkpoint of `document`."""
    checkpoint = open_checkpoint(write_checkpoint(folder, document or recorded()))
    async with at(model.script) as (upstream, _):
        return await examine(checkpoint, upstream, "model", is_local=False, **options)


def states(report: Report) -> dict[str, str]:
    return {check.name: check.state for check in report.checks}


def check_named(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)
