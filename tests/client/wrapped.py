"""The real openai package, wrapped, before a scripted upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
from pydantic import BaseModel

from its_proxy.client import wrap
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

MESSAGES: list[Any] = [{"role": "user", "content": "What is 2 + 5?"}]
ASK: dict[str, Any] = {"model": "model", "messages": MESSAGES}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
ERROR = b'{"error": {"message": "the quota of team 7 is spent", "type": "t", "param": null, "code": "spent"}}'


class Answer(BaseModel):
    answer: int


def script(body, number):
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    failure, _, seconds = body.get("user", "").partition(" ")
    if failure == "fail":
        return Say(status=int(seconds))
    if failure == "wait":
        return Say("\\boxed{7}", delay_s=float(seconds))
    if body.get("tools"):
        return Say(None, finish_reason="tool_calls", message={"tool_calls": [CALL]})
    return Say('{"answer": 7}' if body.get("response_format") else "so it is \\boxed{7}")


@asynccontextmanager
async def engine(says: Any = script, models: Any = None) -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream(says, models) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        yield upstream


def checkpoint(folder: Path, strategy: str = "random") -> Path:
    return write_checkpoint(folder / strategy, manifest(strategy))


def client_at(upstream: ScriptedUpstream, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=upstream.url, api_key="key-1", **options)


@asynccontextmanager
async def wrapped(folder: Path, strategy: str = "random", **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A wrapped client, its handshake done, and the upstream, as if nothing had been asked yet."""
    async with (
        engine() as upstream,
        wrap(client_at(upstream, **options), checkpoint=checkpoint(folder, strategy)) as client,
    ):
        await client.its.ready()
        upstream.forget()
        yield client, upstream
