"""What stands behind each of the two doors: LiteLLM in front of its-proxy, and its-proxy's method inside LiteLLM."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.real_litellm.clients import Asked, Client, PythonClient
from tests.real_litellm.page import configurations
from tests.real_litellm.proxy import LiteLlm, start_litellm
from tests.real_litellm.script import messages, say
from tests.scripted import ScriptedUpstream, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint

KEYS = {"FRONT_KEY": "of-litellm", "LITELLM_MASTER_KEY": "sk-" + "5f3a9c71d2e84b06" * 4}


@dataclass(frozen=True)
class World:
    """A LiteLLM proxy that answers for `model`, and the engine at the far end."""

    litellm: LiteLlm
    engine: ScriptedUpstream
    model: str
    others: Mapping[str, ScriptedUpstream] = field(default_factory=dict)

    python: PythonClient = field(default_factory=PythonClient)

    def key(self, user: str) -> str:
        return f"sk-user-{user}"

    def body(self, **fields: Any) -> dict[str, Any]:
        """A chat request; or, with `input`, one of /v1/responses."""
        asked = {} if "input" in fields else {"messages": messages()}
        return {"model": self.model, **asked, **fields}

    def n_asked(self) -> dict[str, int]:
        """How many candidates each engine was asked for."""
        return {name: len(_candidates(engine)) for name, engine in self.others.items()}

    async def ask(
        self,
        client: Client,
        path: str = "chat/completions",
        *,
        user: str = "anna",
        headers: Mapping[str, str] = {},
        **fields: Any,
    ) -> Asked:
        """Once, by that client with that user's key."""
        return await client.ask(self.litellm.url, self.key(user), path, self.body(**fields), headers)

    async def raw(self, **fields: Any) -> bytes:
        """A chat request's reply, byte for byte."""
        headers = {"Authorization": f"Bearer {self.key('anna')}"}
        url = f"{self.litellm.url}/chat/completions"
        async with self.litellm.http.post(url, json=self.body(**fields), headers=headers) as reply:
            return await reply.read()

    async def until_serving(self, timeout_s: float = 10.0) -> None:
        """An engine that answered 404 to its model's name is examined again before it is asked again."""
        async with asyncio.timeout(timeout_s):
            while (await self.ask(self.python)).status != 200:
                await asyncio.sleep(0.05)

    def forget(self) -> None:
        for engine in (self.engine, *self.others.values()):
            engine.forget()

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What the engine was asked for clients; a handshake's probes left out."""
        return _candidates(self.engine)


def _candidates(engine: ScriptedUpstream) -> list[dict[str, Any]]:
    return [body for body in engine.bodies if not body.get("return_token_ids")]


@asynccontextmanager
async def engine(*models: str) -> AsyncIterator[ScriptedUpstream]:
    """It says that it is vLLM, so that it is sent a tenant's salt."""
    async with scripted_upstream(say, list(models)) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        upstream.owned_by = "vllm"
        yield upstream


def checkpoint(folder: Path, strategy: str) -> Path:
    """All of its candidates are waited for, so that tests can count them."""
    document = manifest(strategy)
    return write_checkpoint(folder / f"qwen-{strategy}", {**document, "vote": {**document["vote"], "stop": "none"}})


@asynccontextmanager
async def in_front(folder: Path) -> AsyncIterator[World]:
    """docs/litellm.md: its two configurations, with other addresses."""
    litellm_config, settings = configurations("litellm.md")
    async with engine("qwen") as upstream:
        settings["upstreams"]["gpu"]["url"] = upstream.url
        settings["models"]["qwen"]["checkpoint"] = checkpoint(folder, "random")
        async with serving(settings, KEYS) as server:
            litellm_config["litellm_settings"]["sse_keepalive_ping_interval_seconds"] = 1
            litellm_config["model_list"][0]["litellm_params"]["api_base"] = server.url
            async with start_litellm(litellm_config, folder, KEYS) as litellm:
                yield World(litellm, upstream, "qwen")


@asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[World]:
    """docs/litellm-plugin.md: all of its configurations as one, with other addresses and folders."""
    config = merged(configurations("litellm-plugin.md"))
    for name in ("random", "similar", "none"):
        checkpoint(folder, name)
    async with AsyncExitStack() as stack:
        names = ("qwen", "qwen-similar", "qwen-none")
        engines = {host: await stack.enter_async_context(engine(*names)) for host in ("gpu", "a", "b", "c")}
        text = yaml.safe_dump(config).replace("/checkpoints", str(folder))
        for host, one in engines.items():
            text = text.replace(f"http://{host}:8000/v1", one.url)
        litellm = await stack.enter_async_context(start_litellm(yaml.safe_load(text), folder, KEYS))
        yield World(litellm, engines["gpu"], "qwen", engines)


def merged(configurations: list[Any]) -> dict[str, Any]:
    """Lists go on, objects grow."""
    whole: dict[str, Any] = {}
    for configuration in configurations:
        for key, value in configuration.items():
            whole[key] = (
                whole.get(key, type(value)()) + value if isinstance(value, list) else whole.get(key, {}) | value
            )
    return whole
