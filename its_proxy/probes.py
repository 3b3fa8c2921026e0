"""Asks a live server about one stored probe: the tokens it renders to, their log-probabilities, the greedy reply."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from its_proxy.codesign.errors import UpstreamRejected
from its_proxy.codesign.manifest import Probe
from its_proxy.evidence import read_prompt_logprobs
from its_proxy.upstreams.base import Body, Upstream

# Log-probabilities of a prompt cost a server memory for each token and word of its vocabulary, so that many
# models at one server must not ask at the same time.
_turns: WeakKeyDictionary[Upstream, asyncio.Lock] = WeakKeyDictionary()


async def ask_tokens(upstream: Upstream, body: Body, number: int) -> tuple[list[Any] | None, bool]:
    """What the server makes of the body's messages, and whether the serving route itself says so.

    `/tokenize` stands in where it does not; None where neither does. Raises UpstreamError.
    """
    tokens = await _tokens_served(upstream, body, number)
    if tokens is not None:
        return tokens, True
    return await _tokens_rendered(upstream, body), False


async def _tokens_served(upstream: Upstream, body: Body, number: int) -> list[Any] | None:
    body = {**body, "max_tokens": 1, "temperature": 0}
    request_id = f"its-handshake-{number}"
    try:
        completion = await upstream.complete({**body, "return_token_ids": True}, request_id)
    except UpstreamRejected as error:
        if error.status != 400:
            raise
        # A strict server refuses a field that it does not know, and so has said nothing about the messages yet.
        completion = await upstream.complete(body, request_id)
    tokens = completion.get("prompt_token_ids")
    return tokens if isinstance(tokens, list) else None


async def _tokens_rendered(upstream: Upstream, body: Body) -> list[Any] | None:
    try:
        reply = await upstream.forward("POST", "tokenize", json.dumps(body).encode(), "application/json")
        document = json.loads(reply.body)
    except (UpstreamRejected, ValueError, RecursionError):
        return None
    tokens = document.get("tokens") if isinstance(document, dict) else None
    return tokens if isinstance(tokens, list) else None


async def ask_logprobs(upstream: Upstream, served_name: str, tokens: Sequence[int]) -> list[float]:
    """What the server's model gives each of the tokens after the first, in nats; one call an upstream at a time.

    Raises UpstreamError, and ValueError with one line for a reply that does not say it.
    """
    body = {"model": served_name, "prompt": list(tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    async with _turns.setdefault(upstream, asyncio.Lock()):
        reply = await upstream.forward("POST", "completions", json.dumps(body).encode(), "application/json")
    return read_prompt_logprobs(reply.body, tokens)


async def ask_reply(upstream: Upstream, body: Body, probe: Probe, number: int) -> dict[str, Any] | None:
    """The greedy reply's message, as long as the stored completion; None where other tokens were generated.

    Greedy decoding in another dtype takes another turn now and then; that says nothing about parsers. A reply that
    ends early on the recorded way was cut by the server or by something before it, and is returned.
    """
    n_tokens = len(probe.completion_token_ids)
    greedy = {**body, "max_tokens": n_tokens, "temperature": 0, "return_token_ids": True}
    completion = await upstream.complete(greedy, f"its-handshake-reply-{number}")
    choice = completion["choices"][0]
    message: dict[str, Any] = choice["message"]
    tokens = choice.get("token_ids")
    is_on_the_way = isinstance(tokens, list) and tokens and tokens == probe.completion_token_ids[: len(tokens)]
    return message if is_on_the_way else None
