"""OpenAI's own clients for Python and for JavaScript, both unmodified, asked alike."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import openai
import pytest

from tests.command import ROOT

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Asked:
    """What a client made of a reply: `body`, or `chunks` of a stream, or the name of the `error` it raised."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    message: str = ""

    @property
    def text(self) -> str:
        """What a chat completion says, whole or in pieces."""
        return "".join(delta.get("content") or "" for delta in self.deltas)

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """The first choice's message, or its pieces."""
        if self.body:
            return [self.body["choices"][0]["message"]]
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == 0]

    @property
    def reasoning(self) -> str:
        return "".join(delta.get("reasoning_content") or "" for delta in self.deltas)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The functions that tool calls name, with their arguments."""
        calls = [call for delta in self.deltas for call in delta.get("tool_calls") or []]
        return [{"id": call["id"], "type": call["type"], "function": call["function"]} for call in calls]

    @property
    def finish_reasons(self) -> list[str]:
        choices = self.body.get("choices") or [choice for chunk in self.chunks for choice in chunk["choices"]]
        return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]

    @property
    def usage(self) -> tuple[int, int]:
        """Prompt and completion tokens; of a stream, told in one chunk and no more."""
        [usage] = [part["usage"] for part in (self.body, *self.chunks) if part.get("usage")]
        return usage["prompt_tokens"], usage["completion_tokens"]

    @property
    def its(self) -> dict[str, Any]:
        [its] = [part["its"] for part in (self.body, *self.chunks) if part.get("its")]
        return its


class Client(Protocol):
    """Asks once, without retries. `path` is relative to /v1/; the body's own `stream` tells how."""

    async def ask(
        self, url: str, key: str, path: str, body: dict[str, Any], headers: Mapping[str, str] = {}
    ) -> Asked: ...


class PythonClient:
    async def ask(self, url: str, key: str, path: str, body: dict[str, Any], headers: Mapping[str, str] = {}) -> Asked:
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            try:
                return await self._ask(client, path, body, headers)
            except openai.APIStatusError as error:
                return Asked(error.status_code, error=type(error).__name__, message=error.message)

    async def _ask(
        self, client: openai.AsyncOpenAI, path: str, body: dict[str, Any], headers: Mapping[str, str]
    ) -> Asked:
        if path == "messages":
            return Asked(200, body=await client.post("/messages", body=body, cast_to=object))  # type: ignore[arg-type]
        resource = client.responses if path == "responses" else client.chat.completions
        known = {key: value for key, value in body.items() if key != "its"}
        own = {"its": body["its"]} if "its" in body else None
        reply = await resource.with_raw_response.create(**known, extra_body=own, extra_headers=headers)
        if not body.get("stream"):
            return Asked(reply.status_code, reply.headers, json.loads(reply.text))
        chunks = [chunk.model_dump(mode="json", exclude_none=True, warnings=False) async for chunk in reply.parse()]
        return Asked(reply.status_code, reply.headers, chunks=chunks)


class NpmClient:
    """A Node process for each call."""

    def __init__(self, packages: Path) -> None:
        self._packages = packages

    async def ask(self, url: str, key: str, path: str, body: dict[str, Any], headers: Mapping[str, str] = {}) -> Asked:
        return Asked(**await self._run(url=url, key=key, path=path, body=body, headers=dict(headers)))

    async def ask_and_leave(self, url: str, key: str, path: str, body: dict[str, Any], after_ms: int) -> Asked:
        """Aborts the call, as an AbortController does."""
        return Asked(**await self._run(url=url, key=key, path=path, body=body, headers={}, abortMs=after_ms))

    async def _run(self, **asked: Any) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(FOLDER / "ask.mjs"),
            env=os.environ | {"NPM": str(self._packages)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(json.dumps(asked).encode())
        assert process.returncode == 0, err.decode()
        told: dict[str, Any] = json.loads(out)
        return told


def npm_client() -> NpmClient:
    """Skips where this machine has no Node, unless ITS_REQUIRE_LITELLM=1 says that nothing may be skipped."""
    script = [sys.executable, str(ROOT / "deploy/npm_packages.py"), str(FOLDER)]
    done = subprocess.run(script, capture_output=True, text=True)
    if done.returncode == os.EX_UNAVAILABLE and os.environ.get("ITS_REQUIRE_LITELLM") != "1":
        pytest.skip(f"OpenAI's package for JavaScript: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return NpmClient(Path(done.stdout.strip()))
