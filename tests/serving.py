"""Runs a real its-proxy server inside a test, on a free loopback port."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_proxy.server.app import create_app
from its_proxy.server.build import build_context
from its_proxy.server.context import Context
from its_proxy.settings import load_settings
from its_proxy.upstreams.embedded import EmbeddedUpstream

PROBE_QUERY = "How many eggs are 3 eggs and 4 eggs?"


def side(strategy: str, **fields: Any) -> dict[str, Any]:
    """A pair's side with the built-in template personas."""
    personas = {"source": "taxonomy", "sha256": taxonomy_pool().sha256, "domains": "taxonomy/1"}
    return {"strategy": strategy, "version": 1, "personas": None if strategy == "none" else personas, "seed": 7, **fields}


def tokens_of(messages: list[dict[str, Any]]) -> list[int]:
    """A stand-in tokenizer for scripted upstreams: one token a character of what it was sent."""
    return [ord(character) for message in messages for character in str(message["content"])]


def manifest(strategy: str = "none", served: str | None = None, **fields: Any) -> dict[str, Any]:
    """An `its.json` document with one probe that scripted upstreams render as recorded."""
    serve_with = side(served or strategy)
    pool = None if serve_with["personas"] is None else taxonomy_pool()
    recipe = Recipe(strategy_named(serve_with["strategy"]), pool=pool, seed=7)
    messages = rewrite(recipe, [{"role": "user", "content": PROBE_QUERY}]).messages
    probe = {"query": PROBE_QUERY, "messages": messages, "prompt_token_ids": tokens_of(messages)}
    document = {
        "schema_version": 1,
        "origin": "recorded",
        "pair": {"trained_with": side(strategy), "serve_with": serve_with},
        "vote": {"n": 8, "temperature": 0.8, "top_p": 0.95, "max_tokens": 256, "answer": "boxed", "stop": "exact"},
        "probes": [probe],
        "evaluation": [],
        "provenance": {},
    }
    return {**document, **fields}


def write_checkpoint(folder: Path, document: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "its.json").write_text(json.dumps(document))
    return folder


@dataclass
class Server:
    url: str
    context: Context
    http: aiohttp.ClientSession

    async def chat(self, query: Any = "What is 2 + 5?", model: str = "model", **fields: Any) -> tuple[int, Any]:
        """Status and JSON of one plain chat completion; `query` may be a whole message list."""
        messages = query if isinstance(query, list) else [{"role": "user", "content": query}]
        async with self.http.post(f"{self.url}/chat/completions", json={"model": model, "messages": messages, **fields}) as reply:
            return reply.status, await reply.json()

    async def ready(self, timeout_s: float = 20.0) -> None:
        """Until no handshake is pending any more."""
        async with asyncio.timeout(timeout_s):
            while any(h.state == "pending" for s in self.context.catalog.served.values() for h in s.handshakes):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    settings: dict[str, Any], environ: dict[str, str] | None = None, *, wait: bool = True
) -> AsyncIterator[Server]:
    """A server with these settings (as flags); by default waits until every handshake has a verdict."""
    environ = environ or {}
    context = build_context(load_settings(None, environ, settings), environ)
    runner = web.AppRunner(create_app(context), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for upstream in context.catalog.upstreams:
        if isinstance(upstream, EmbeddedUpstream):
            await upstream.start()
    watch = asyncio.create_task(context.catalog.watch(lambda model, verdict: None))
    async with aiohttp.ClientSession() as http:
        server = Server(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", context, http)
        try:
            if wait:
                await server.ready()
            yield server
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            await runner.cleanup()
            await context.catalog.close()


def model_settings(url: str, checkpoint: Path | None, **fields: Any) -> dict[str, Any]:
    """One model named `model` at the upstream `gpu`."""
    model = {"upstream": "gpu", **({"checkpoint": checkpoint} if checkpoint else {}), **fields}
    return {"upstreams": {"gpu": {"url": url}}, "models": {"model": model}}


def digest_of(data: bytes) -> str:
    return sha256(data).hexdigest()
