"""What may stand between its-proxy and vLLM: a small HTTP server that changes what passes through it.

async with gateway(vllm.root, Change(request=without("return_token_ids"))) as url:
    ...  # its-proxy asks `url`, and vLLM never sees that field
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import orjson
from aiohttp import web

from benchmarks.torture_vllm.case import MISMATCH, NEVER_VERIFIED, Ask, Case, Found, Make, World, examined
from benchmarks.torture_vllm.workshop import ARM, DEMO
from its_proxy.codesign.personas import taxonomy_pool

Body: TypeAlias = dict[str, Any]


def unchanged(body: Body) -> Body:
    return body


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a request's body and of a reply's. Model lists pass as they are."""

    request: Callable[[Body], Body] = unchanged
    reply: Callable[[Body], Body] = unchanged


@asynccontextmanager
async def gateway(root: str, change: Change) -> AsyncIterator[str]:
    """Yields the URL that its-proxy is to be given; `root` is where vLLM's own routes begin."""
    async with aiohttp.ClientSession() as http:

        async def pass_on(request: web.Request) -> web.Response:
            data = await request.read()
            sent = orjson.dumps(change.request(orjson.loads(data))) if data else None
            headers = {"Content-Type": "application/json"}
            async with http.request(request.method, f"{root}{request.path}", data=sent, headers=headers) as reply:
                body = await reply.read()
                if data and reply.status == 200:
                    body = orjson.dumps(change.reply(orjson.loads(body)))
                return web.Response(status=reply.status, body=body, content_type=reply.content_type)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def without(*fields: str) -> Callable[[Body], Body]:
    """Drops what its own schema does not know, as many gateways do."""
    return lambda body: {key: value for key, value in body.items() if key not in fields}


def with_system_prompt(body: Body) -> Body:
    if "messages" not in body:
        return body
    return {**body, "messages": [{"role": "system", "content": "You are a helpful assistant."}, *body["messages"]]}


def with_content(edit: Callable[[str], str]) -> Callable[[Body], Body]:
    """Edits the text of every message."""

    def change(body: Body) -> Body:
        if "messages" not in body:
            return body
        return {**body, "messages": [{**m, "content": edit(m["content"])} for m in body["messages"]]}

    return change


def with_reply(edit: Callable[[Body], Body]) -> Callable[[Body], Body]:
    """Edits the message of a chat completion."""

    def change(reply: Body) -> Body:
        choices = reply.get("choices") or []
        if not choices or "message" not in choices[0]:
            return reply
        return {**reply, "choices": [{**choices[0], "message": edit(choices[0]["message"])}]}

    return change


def balanced_over(*names: str) -> Callable[[Body], Body]:
    """Every request to the next of these models: a load balancer whose servers do not hold the same weights."""
    turns = itertools.cycle(names)
    return lambda body: {**body, "model": next(turns)}


def capped(n_tokens: int) -> Callable[[Body], Body]:
    return lambda body: {**body, "max_tokens": min(n_tokens, body.get("max_tokens", n_tokens))}


def cases(other_weights: str) -> tuple[Case, ...]:
    """On a server that holds the demo's arm, and `other_weights` under that name of a LoRA."""
    found = {
        "adds a system prompt": (MISMATCH, Change(with_system_prompt)),
        "writes one blank line less": (MISMATCH, Change(with_content(lambda text: text.replace("\n\n", "\n")))),
        "applies a persona of its own": (
            MISMATCH,
            Change(with_content(lambda text: f"{taxonomy_pool().personas[0].text}\n\n{text}")),
        ),
        "sends everything to other weights": (MISMATCH, Change(balanced_over(other_weights))),
        "balances over two different weights": (NEVER_VERIFIED, Change(_balanced_with(other_weights))),
        "drops return_token_ids": (NEVER_VERIFIED, Change(without("return_token_ids"))),
        "drops prompt_logprobs": (NEVER_VERIFIED, Change(without("prompt_logprobs"))),
        "drops both": (NEVER_VERIFIED, Change(without("return_token_ids", "prompt_logprobs"))),
        "rewrites replies": (
            MISMATCH,
            Change(reply=with_reply(lambda m: {**m, "content": (m["content"] or "").replace("\\boxed", "boxed")})),
        ),
        "moves replies into reasoning_content": (
            MISMATCH,
            Change(reply=with_reply(lambda m: {**m, "content": None, "reasoning_content": m["content"]})),
        ),
        "cuts replies after 8 tokens": (MISMATCH, Change(capped(8))),
    }
    return tuple(
        Case(f"gateway: {name}", "mismatch", "gateway", right, behind(change))
        for name, (right, change) in found.items()
    )


def _balanced_with(other_weights: str) -> Callable[[Body], Body]:
    turns = itertools.cycle((False, True))
    return lambda body: {**body, "model": other_weights} if next(turns) else body


def behind(change: Change, make: Make = lambda shop: DEMO / ARM) -> Ask:
    """The handshake of a checkpoint's manifest with the running server, through a gateway."""

    async def ask(world: World) -> Found:
        checkpoint = await asyncio.to_thread(make, world.shop)
        async with gateway(world.server.root, change) as url:
            return await examined(checkpoint, world.server.name, url)

    return ask
