"""Runs a real its-proxy server inside a test, on a free loopback port."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_proxy.server.app import App
from its_proxy.server.build import build_context
from its_proxy.server.context import Context
from its_proxy.server.http.connection import Connection
from its_proxy.server.listener import Site
from its_proxy.server.reload import Reloader
from its_proxy.settings import Settings, load_settings
from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.scripted import Say, Script, ScriptedUpstream, scripted_upstream

PROBE_QUERY = "How many eggs are 3 eggs and 4 eggs?"


def side(strategy: str, **fields: Any) -> dict[str, Any]:
    """A pair's side with the built-in template personas."""
    personas = {"source": "taxonomy", "sha256": taxonomy_pool().sha256, "domains": "taxonomy/1"}
    drawn_from = None if strategy == "none" else personas
    return {"strategy": strategy, "version": 1, "personas": drawn_from, "seed": 7, **fields}


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


@dataclass(frozen=True)
class Reply:
    """One HTTP reply, read whole."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.raw)

    @property
    def error(self) -> dict[str, Any]:
        """The error inside OpenAI's envelope, of which nothing may be missing."""
        document = self.json
        assert list(document) == ["error"]
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert self.headers["x-request-id"]
        return document["error"]

    @property
    def chunks(self) -> list[Any]:
        """The stream's JSON events; asserts that it holds only data and comments, and ends with [DONE]."""
        lines = [line for line in re.split(r"[\r\n]+", self.raw.decode()) if line and not line.startswith(":")]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [orjson.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@dataclass
class Server:
    url: str
    context: Context
    http: aiohttp.ClientSession
    reload: Callable[[], None]
    site: Site

    @property
    def connections(self) -> list[Connection]:
        """The clients' connections, as the server holds them."""
        return self.site.connections

    def total(self, name: str) -> float:
        """One of the server's counters, over all its labels; without `its_proxy_`."""
        families = self.context.metrics.registry.collect()
        return sum(s.value for family in families for s in family.samples if s.name == f"its_proxy_{name}")

    async def chat(self, query: Any = "What is 2 + 5?", model: str = "model", **fields: Any) -> tuple[int, Any]:
        """Status and JSON of one plain chat completion; `query` may be a whole message list."""
        reply = await self.ask(query, model, **fields)
        return reply.status, reply.json

    async def ask(
        self, query: Any = "What is 2 + 5?", model: str = "model", *, key: str | None = None, **fields: Any
    ) -> Reply:
        """One chat completion, plain or streamed; `query` may be a whole message list."""
        messages = query if isinstance(query, list) else [{"role": "user", "content": query}]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": model, "messages": messages, **fields}
        return await self.send("POST", "/v1/chat/completions", body, headers)

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.send("GET", path, None, headers)

    async def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Any request; `body` is JSON, or bytes as they are. `path` begins at the root."""
        data = body if isinstance(body, bytes | None) else orjson.dumps(body)
        data = io.BytesIO(data) if data else data  # aiohttp warns of large bytes
        url = self.url.removesuffix("/v1") + path
        async with self.http.request(method, url, data=data, headers=headers or {}) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def ready(self, timeout_s: float = 20.0) -> None:
        """Until no handshake is pending any more."""
        async with asyncio.timeout(timeout_s):
            while any(target.state == "pending" for target in self.context.catalog.targets()):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    settings: dict[str, Any],
    environ: dict[str, str] | None = None,
    *,
    wait: bool = True,
    read: Callable[[], Settings] | None = None,
) -> AsyncIterator[Server]:
    """A server with these settings (as flags); by default waits until every handshake has a verdict.

    `read` gives the settings anew when `reload` asks for them.
    """
    environ = environ or {}
    context = build_context(load_settings(None, environ, {"drain_s": 0.1, **settings}), environ)
    site = Site(App(context), "127.0.0.1", 0, context.settings.max_connections or 4096)
    host, port = await site.start()
    for upstream in context.catalog.upstreams:
        if isinstance(upstream, EmbeddedUpstream):
            await upstream.start()
    reloader = Reloader(context, read, lambda failure: None)
    reloader.start()
    async with aiohttp.ClientSession() as http:
        server = Server(f"http://{host}:{port}/v1", context, http, reloader.reload, site)
        try:
            if wait:
                await server.ready()
            yield server
        finally:
            await reloader.stop()
            await site.close()
            await context.workers.close()
            await context.catalog.close()


def model_settings(url: str, checkpoint: Path | None, **fields: Any) -> dict[str, Any]:
    """One model named `model` at the upstream `gpu`."""
    model = {"upstream": "gpu", **({"checkpoint": checkpoint} if checkpoint else {}), **fields}
    return {"upstreams": {"gpu": {"url": url}}, "models": {"model": model}}


@asynccontextmanager
async def serving_script(
    script: Script | Say, checkpoint: Path | None, *, environ: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Server, ScriptedUpstream]]:
    """A server with one `model` at a scripted upstream, its handshake done; the script sees clients' calls alone."""

    def answer(body: dict[str, Any], number: int) -> Say:
        if body.get("return_token_ids"):
            return Say("x", finish_reason="length")
        return script(body, number) if callable(script) else script

    async with scripted_upstream(answer) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        async with serving(model_settings(upstream.url, checkpoint) | settings, environ) as server:
            upstream.forget()
            yield server, upstream


def digest_of(data: bytes) -> str:
    return sha256(data).hexdigest()
