"""Starts a real LiteLLM proxy as a process of its own, from the environment that `make test-litellm` prepares."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.command import ROOT
from tests.real_vllm.server import free_port

START_S = 240
# Without a database LiteLLM asks us whose a key is: ours name their users.
AUTH = """
from fastapi import HTTPException
from litellm.proxy._types import UserAPIKeyAuth

async def by_name(request, api_key):
    if not api_key.startswith("sk-user-"):
        raise HTTPException(401, "no such key")
    return UserAPIKeyAuth(api_key=api_key, user_id=api_key.removeprefix("sk-user-"))
"""
# What LiteLLM charges for, a line a call: what its own spend logs are made of.
LEDGER = """
import json, os
from litellm.integrations.custom_logger import CustomLogger

class Ledger(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        spent = kwargs["standard_logging_object"]
        fields = ("model_group", "call_type", "prompt_tokens", "completion_tokens", "response_cost")
        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write(json.dumps({field: spent.get(field) for field in fields}) + "\\n")

ledger = Ledger()
"""


@dataclass
class LiteLlm:
    """A proxy that answers. `root` ends where the routes begin; `charged` is what it has logged as spent."""

    root: str
    folder: Path
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def charged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    async def charges(self, n: int) -> list[dict[str, Any]]:
        """What the calls since `forget_charges` cost, once LiteLLM, which logs after it has answered, told of `n`."""
        async with asyncio.timeout(20):
            while len(self.charged()) < n:
                await asyncio.sleep(0.05)
        await self._quiet()  # one too many would come as late
        return self.charged()

    async def forget_charges(self) -> None:
        await self._quiet()
        self.ledger.unlink(missing_ok=True)

    async def _quiet(self, seconds: float = 1.0) -> None:
        n_lines = -1
        while n_lines != (n_lines := len(self.charged())):
            await asyncio.sleep(seconds)


@asynccontextmanager
async def start_litellm(
    config: dict[str, Any], folder: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[LiteLlm]:
    """A proxy with this config, our keys and our ledger added; its files in `folder`. Ended at the end of the block."""
    config["general_settings"]["custom_auth"] = "its_test_auth.by_name"
    callbacks = config["litellm_settings"].setdefault("callbacks", [])
    callbacks.append("its_test_ledger.ledger")
    (folder / "its_test_auth.py").write_text(AUTH)
    (folder / "its_test_ledger.py").write_text(LEDGER)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("litellm")),
            *("--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)),
            cwd=folder,
            env=_variables() | {"LEDGER": str(folder / "ledger.jsonl")} | dict(environ or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as http:
            litellm = LiteLlm(f"http://127.0.0.1:{port}", folder, http)
            await _until_ready(litellm, process)
            yield litellm
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
        await process.wait()


async def _until_ready(litellm: LiteLlm, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(START_S):
        while True:
            assert process.returncode is None, f"LiteLLM ended before it answered:\n{litellm.log[-4000:]}"
            try:
                async with litellm.http.get(f"{litellm.root}/health/liveliness") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


def _variables() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ITS_", "LITELLM_"))}
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    return kept | {
        "PYTHONPATH": path,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "127.0.0.1",
    }
