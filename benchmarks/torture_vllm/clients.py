"""What a request can do to the prompt: asked through its-proxy, and looked up in what vLLM has read.

A field is refused, or the reply is marked, or the model reads the same tokens as without the field. Everything
else would be a prompt that nobody recorded, under a reply that looks as always.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.torture_vllm.case import Ask, Case, Found, Make, World
from benchmarks.torture_vllm.gateways import Body, Change, gateway
from benchmarks.torture_vllm.workshop import manifest_of
from tests.serving import Reply, Server, serving

QUERY = "A farmer has 25 eggs. The farmer sells 7 of them. How many eggs are there now?"
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
}
# What a client can send to a template that knows tools, documents, an effort and a variable of its own.
FIELDS: dict[str, Mapping[str, Any]] = {
    "chat_template": {"chat_template": "{{ messages[0].content }}"},
    "chat_template_kwargs": {"chat_template_kwargs": {"voice": "formal"}},
    "chat_template_kwargs that switch the generation prompt off": {
        "chat_template_kwargs": {"add_generation_prompt": False}
    },
    "add_generation_prompt: false": {"add_generation_prompt": False},
    "continue_final_message": {"continue_final_message": True, "add_generation_prompt": False},
    "add_special_tokens": {"add_special_tokens": True},
    "documents": {"documents": [{"title": "Eggs", "text": "Eggs are laid by hens."}]},
    "reasoning_effort": {"reasoning_effort": "high"},
    "tools": {"tools": [TOOL], "tool_choice": "none"},
    "truncate_prompt_tokens": {"truncate_prompt_tokens": 20},
    "echo": {"echo": True},
    "mm_processor_kwargs": {"mm_processor_kwargs": {"num_crops": 4}},
    "prompt_embeds": {"prompt_embeds": "AAAA"},
    "return_token_ids and prompt_logprobs": {"return_token_ids": True, "prompt_logprobs": 0},
}
ENDS = (*FIELDS, "a message without text", "text completions")
HARMLESS = frozenset({"refused", "marked", "unchanged"})


@dataclass(slots=True)
class Read:
    """The prompts that vLLM has read, as tokens, and the bodies that it was sent."""

    prompts: list[list[int]] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def asked(self, body: Body) -> Body:
        self.bodies.append(body)
        return {**body, "return_token_ids": True}

    def answered(self, reply: Body) -> Body:
        if isinstance(tokens := reply.get("prompt_token_ids"), list):
            self.prompts.append(tokens)
        return reply


@asynccontextmanager
async def proxy(world: World, make: Make) -> AsyncIterator[tuple[Server, Read]]:
    """its-proxy with the checkpoint as `model`, before the running server; what the server reads is kept."""
    checkpoint = await asyncio.to_thread(make, world.shop)
    read = Read()
    async with gateway(world.server.root, Change(read.asked, read.answered)) as url:
        model = {"upstream": "gpu", "served_name": world.server.name, "checkpoint": checkpoint}
        async with serving({"upstreams": {"gpu": {"url": url}}, "models": {"model": model}}) as server:
            assert manifest_of(checkpoint).probes
            yield server, read


def cases(make: Make) -> tuple[Case, ...]:
    """On a server of that checkpoint, whose template uses whatever a client may send."""
    return tuple(Case(f"client: {name}", "mismatch", "client", HARMLESS, sending(name, make)) for name in ENDS)


def sending(name: str, make: Make) -> Ask:
    async def ask(world: World) -> Found:
        async with proxy(world, make) as (server, read):
            plain = (await server.ask(QUERY, n=1)).json
            if "error" in plain:
                return Found("not served", plain["error"]["message"])
            expected = set(map(tuple, read.prompts[-1:]))
            read.prompts.clear()
            return _judged(await _send(server, name), set(map(tuple, read.prompts)), expected)

    return ask


async def _send(server: Server, name: str) -> Reply:
    if name == "a message without text":
        return await server.ask([{"role": "user", "content": []}])
    if name == "text completions":
        return await server.send("POST", "/v1/completions", {"model": "model", "prompt": QUERY, "max_tokens": 8})
    return await server.ask(QUERY, **FIELDS[name])


def _judged(reply: Reply, prompts: set[tuple[int, ...]], expected: set[tuple[int, ...]]) -> Found:
    if reply.status != 200:
        return Found(
            "refused" if reply.status == 400 else "failed", f"{reply.status}: {reply.json['error']['message']}"
        )
    its = reply.json.get("its") or {}
    marks = [name for name in ("forced", "degraded") if its.get(name)]
    if marks:
        return Found("marked", "the reply says " + ", ".join(f"{name}: {its[name]}" for name in marks))
    if prompts == expected:
        return Found("unchanged", "vLLM read the prompt that the pair renders to")
    return Found("changed", f"vLLM read another prompt, and the reply says nothing of it: {_shown(its)}")


def _shown(its: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {its[name]}" for name in ("strategy", "handshake", "n", "stopped") if name in its)
