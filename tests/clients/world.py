"""A real its-proxy process with one model for each way of answering, before a scripted engine.

plain       no manifest: what a client sends goes on as it came
rewritten   a `random` pair, its vote off: one candidate behind a persona
voted       a `random` pair, four candidates: three say 7, one says 9
calling     the same, voting over tool calls
untouched   a declared `none` pair, four candidates: what /v1/completions may vote on
"""

import asyncio
import json
import re
import struct
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.command import serve_command
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

N = 4
KEY = "of-a-client"
QUERY = "What is 2 + 5?"
TEXT = "Two and five more is what one counts on the fingers of two hands, three of them left over: \\boxed{7}"
"""Longer than a piece of a voted stream."""
MODELS = ("plain", "rewritten", "voted", "calling", "untouched")
EMBEDDING = [0.5, -0.25]
_CALL = {"id": "call_1", "type": "function"}
_STARTS_S = 60


@dataclass
class World:
    """`url` ends where OpenAI's routes begin, `root` where ours do."""

    root: str
    engine: ScriptedUpstream

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What the engine was asked for clients; a handshake's probes left out."""
        return [body for body in self.engine.bodies if not body.get("return_token_ids")]


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with scripted_upstream(say, list(MODELS)) as engine:
        engine.tokens = lambda body: tokens_of(body["messages"])
        config = folder / "its.yaml"
        config.write_text(yaml.safe_dump(settings(folder, engine.url), sort_keys=False))
        async with serve_command("--config", config, TEAM_KEY=KEY) as server:
            await _until_all_serve(server.url)
            yield World(server.url.removesuffix("/v1"), engine)


def settings(folder: Path, url: str) -> dict[str, Any]:
    persona = checkpoint(folder / "persona", "random")
    return {
        "upstreams": {"gpu": {"url": url}},
        "models": {
            "plain": {"upstream": "gpu"},
            "rewritten": {"upstream": "gpu", "checkpoint": persona, "vote": {"mode": "off"}},
            "voted": {"upstream": "gpu", "checkpoint": persona},
            "calling": {"upstream": "gpu", "checkpoint": persona, "vote": {"answer": "tool_calls"}},
            "untouched": {"upstream": "gpu", "checkpoint": checkpoint(folder / "none", "none")},
        },
        "keys": [{"name": "team", "env": "TEAM_KEY"}],
        "log_level": "warning",
    }


def checkpoint(folder: Path, strategy: str) -> str:
    """All of its candidates are waited for, so that tests can count them."""
    document = manifest(strategy)
    advice = {**document["vote"], "n": N, "stop": "none"}
    return str(write_checkpoint(folder, {**document, "vote": advice}))


async def _until_all_serve(url: str) -> None:
    """Every handshake has its verdict."""
    ready = f"{url.removesuffix('/v1')}/readyz"
    async with aiohttp.ClientSession() as http, asyncio.timeout(_STARTS_S):
        while True:
            async with http.get(ready) as reply:
                told = await reply.json()
            if told.get("serving") == len(MODELS):
                return
            await asyncio.sleep(0.02)


# -- what the engine says ----------------------------------------------------------------------------------------------


def say(body: dict[str, Any], number: int) -> Say:
    """The sum as a text, as a call or as JSON, by what is asked; one candidate of four gets it wrong."""
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    if "input" in body:
        return Say(raw=json.dumps(_embeddings(body)).encode())
    is_dissent = body["model"] in ("voted", "calling", "untouched") and body.get("seed", 1) % N == 0
    total = 9 if is_dissent and not _is_told(body) else 7
    if "prompt" in body:
        return Say(TEXT.replace("7", str(total)))
    if (name := _function(body)) is not None and not _is_told(body):
        call = {**_CALL, "function": {"name": name, "arguments": json.dumps(_arguments(body, name, total))}}
        return Say(None, finish_reason="tool_calls", message={"tool_calls": [call]})
    if (body.get("response_format") or {}).get("type") in ("json_schema", "json_object"):
        return Say(json.dumps({"answer": total}))
    if (file := re.search(r"Write it to (\S+\.txt)", str(body["messages"][-1]["content"]))) is not None:
        return Say(f"{file[1]}\n```\n{total}\n```\n\\boxed{{{total}}}")
    return Say(TEXT.replace("7", str(total)))


def _is_told(body: dict[str, Any]) -> bool:
    """Whether what was called has come back."""
    return "messages" in body and body["messages"][-1]["role"] == "tool"


def _function(body: dict[str, Any]) -> str | None:
    """The first of the tools that are there to be called."""
    tools = body.get("tools") if body.get("tool_choice") != "none" else None
    name: str | None = tools[0]["function"]["name"] if tools else None
    return name


def _arguments(body: dict[str, Any], name: str, total: int) -> dict[str, int]:
    """As that tool takes them: two numbers to add, or the answer."""
    properties = body["tools"][0]["function"]["parameters"]["properties"]
    return {"answer": total} if "answer" in properties else {"a": 2, "b": total - 2}


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """As numbers or, where base64 is asked for (which OpenAI's own packages do), as the bytes of their floats."""
    told: Any = EMBEDDING
    if body.get("encoding_format") == "base64":
        told = b64encode(struct.pack(f"<{len(EMBEDDING)}f", *EMBEDDING)).decode()
    data = [{"object": "embedding", "index": 0, "embedding": told}]
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
