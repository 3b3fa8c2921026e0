"""Starts what is measured: one vLLM and one its-proxy before it, each in processes of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import yaml

from tests.command import serve_command
from tests.real_vllm.server import VllmServer, start_vllm

DEMO = Path("its_proxy/demo").resolve()
LONG_TOKENS = 400
DEADLINE_S = 1.0
SETTLED = ("verified", "unverified")
READY_TIMEOUT_S = 120.0
# Nobody reads what it says while it serves, and a full pipe would stop it.
QUIETLY = ("--log-level", "error")
# No routine examination of a target may fall into a measurement: its probes would be counted with it.
RECHECK_S = 1_000_000
# vLLM's CPU build dies of a prompt that is read in two steps under a seed ("CPU Generator does not use offset").
FLAGS = ("--no-enable-chunked-prefill",)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of its-proxy; `sent_at` and `received_at` are times of the event loop's clock, in seconds."""

    status: int
    json: dict[str, Any]
    sent_at: float
    received_at: float


@dataclass(frozen=True, slots=True)
class Counters:
    """vLLM's own, since its start; requests that it was asked to abort are not among the finished ones."""

    n_generated: int
    n_finished: int


@dataclass(frozen=True, slots=True)
class Servers:
    """its-proxy at `url`, the vLLM behind it, and a client of both."""

    url: str
    vllm: VllmServer
    http: aiohttp.ClientSession

    async def ask(self, query: str, model: str, **fields: Any) -> Reply:
        """One chat completion; of a streamed one the events are read and dropped."""
        clock = asyncio.get_running_loop().time
        body = {"model": model, "messages": [{"role": "user", "content": query}], **fields}
        sent_at = clock()
        async with self.http.post(f"{self.url}/chat/completions", json=body) as reply:
            data = await reply.read()
            received_at = clock()
        is_json = reply.content_type == "application/json"
        return Reply(reply.status, json.loads(data) if is_json else {}, sent_at, received_at)

    async def counters(self) -> Counters:
        """Once vLLM is idle."""
        await self.vllm.until_idle(timeout_s=30)
        values = await self.vllm.metrics()
        return Counters(int(values["vllm:generation_tokens_total"]), int(values["vllm:request_success_total"]))


Configure: TypeAlias = Callable[[str, VllmServer, Path], dict[str, Any]]
"""(demo checkpoint, the vLLM that serves it, a folder for more files) -> the settings of its-proxy."""


@asynccontextmanager
async def start_servers(model: str, keep: Path, configure: Configure | None = None) -> AsyncIterator[Servers]:
    """vLLM with one demo checkpoint, and its-proxy before it with the models of `settings`, or as `configure` says."""
    checkpoint = DEMO / model
    async with start_vllm(checkpoint, pair_name(checkpoint), *FLAGS, log=keep / f"{model}-vllm.log") as vllm:
        config = keep / f"{model}-its.yaml"
        config.write_text(yaml.safe_dump((configure or settings)(model, vllm, keep)))
        async with serve_command("--config", config, *QUIETLY, timeout_s=READY_TIMEOUT_S) as proxy, _client() as http:
            await _until_settled(http, proxy.url)
            yield Servers(proxy.url, vllm, http)


@asynccontextmanager
async def start_embedded(*arguments: object) -> AsyncIterator[str]:
    """its-proxy with its embedded engine, as `its-proxy serve` alone starts it, or with these arguments."""
    async with serve_command(*arguments, *QUIETLY, timeout_s=READY_TIMEOUT_S) as proxy, _client() as http:
        await _until_settled(http, proxy.url)
        yield proxy.url


def settings(model: str, vllm: VllmServer, keep: Path) -> dict[str, Any]:
    """One vLLM under several names.

    `first`: with a first wave; `counted`: generated tokens counted and not estimated; `long`: replies may
    have 400 tokens; `hurried`: and 1 s is all there is for them.
    """
    behind = {"upstream": "vllm", "served_name": vllm.name}
    checkpoint, long = str(DEMO / model), str(_long_manifest(DEMO / model, keep / f"{model}-long"))
    return {
        "upstreams": {"vllm": {"url": vllm.url}},
        "models": {
            model: {**behind, "checkpoint": checkpoint},
            "first": {**behind, "checkpoint": checkpoint, "vote": {"first": "auto"}},
            "counted": {**behind, "checkpoint": checkpoint, "vote": {"usage_policy": "exact"}},
            "long": {**behind, "checkpoint": long},
            "hurried": {**behind, "checkpoint": long, "vote": {"deadline_s": DEADLINE_S}},
        },
        "recheck_s": RECHECK_S,
    }


def pair_name(checkpoint: Path) -> str:
    """NAME@<first 8 of pair id>, as a server of this checkpoint is to be called."""
    pointer = json.loads((checkpoint / "config.json").read_text())["its"]
    return f"{checkpoint.name}@{pointer['pair_id'][:8]}"


def _long_manifest(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint's manifest alone, advising longer replies; the pair is the same."""
    manifest = json.loads((checkpoint / "its.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    longer = {**manifest, "vote": {**manifest["vote"], "max_tokens": LONG_TOKENS}}
    (folder / "its.json").write_text(json.dumps(longer))
    return folder


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))


async def _until_settled(http: aiohttp.ClientSession, url: str) -> None:
    """Until every handshake has been passed; its probes are then behind us. Raises RuntimeError."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            async with http.get(f"{url}/models") as reply:
                cards = (await reply.json())["data"]
            states = {card["id"]: card["its"].get("handshake") for card in cards}
            if "mismatch" in states.values():
                raise RuntimeError(f"a handshake failed: {states}")
            if all(state in SETTLED or isinstance(state, list) for state in states.values()):
                return
            await asyncio.sleep(0.2)
