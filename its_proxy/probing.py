"""Takes new probes from a live server: tokens, the greedy reply, log-probabilities, and how well these repeat.

What the server does not show is left out, and said in one line.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from typing import Any, TypeGuard

from its_proxy.codesign.errors import BadPayload, ItsError, ManifestError, UpstreamError, UpstreamRejected
from its_proxy.codesign.manifest import Logprobs, Probe, ProbeReply
from its_proxy.codesign.strategies import Recipe, rewrite
from its_proxy.evidence import MAX_TOKENS
from its_proxy.probes import ask_logprobs
from its_proxy.upstreams.base import Completion, Upstream

QUERIES = (
    "What is 17 + 25?",
    "Name the capital of Japan.",
    "Write a short line about rain.",
    "How do bees make honey?",
    "Translate 'good morning' into French.",
    "What does HTTP stand for?",
    "Give one rule of chess.",
    "Why is the sky blue?",
)
"""Short and neutral, of varied domains: what a probe asks matters less than that it is always the same."""

COMPLETION_TOKENS = 32
N_ROUNDS = 3
MAX_SCORED_TOKENS = 512
"""Longer probes are kept without log-probabilities: those cost the server memory for each token."""

_BESIDE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Prober:
    """Asks one model at one server; `serve` rewrites the queries, `on_step` is told of every call that matters."""

    upstream: Upstream
    served_name: str
    serve: Recipe
    template_kwargs: dict[str, Any]
    on_step: Callable[[str], None]

    async def probes(self, queries: Sequence[str]) -> tuple[list[Probe], str]:
        """As much of each probe as the server shows, and a line on what it does not show."""
        probes = []
        for query in queries:
            probe = await self._probe(query)
            if isinstance(probe, str):
                return [], probe
            probes.append(probe)
        try:
            return await self._with_logprobs(probes), ""
        except (UpstreamRejected, BadPayload, ValueError) as error:
            said = error.message if isinstance(error, ItsError) else f"the upstream sent {error}"
            return probes, f"no log-probabilities ({said}): its weights will stay unverified"

    async def _probe(self, query: str) -> Probe | str:
        """One query's tokens and greedy reply; or a line that says why this server can have no probes."""
        self.on_step("tokens and replies")
        messages = [dict(message) for message in rewrite(self.serve, [{"role": "user", "content": query}]).messages]
        first = await self._complete(messages, max_tokens=1)
        tokens = first.get("prompt_token_ids")
        if not _are_token_ids(tokens):
            return "the server shows no token ids (is it vLLM?): no probes, so the model stays unverified, and votes"
        if _writes_date(first.get("prompt_text"), messages):
            return (
                "the chat template writes today's date into every prompt, so probes would not match tomorrow: none "
                "kept; fix the date with --chat-template-kwargs, if the template takes one"
            )
        probe = Probe(query=query, messages=messages, prompt_token_ids=list(tokens))
        n_free = min(COMPLETION_TOKENS, MAX_TOKENS - len(probe.prompt_token_ids))
        return await self._with_reply(probe, n_free) if n_free > 0 else probe

    async def _with_reply(self, probe: Probe, max_tokens: int) -> Probe:
        completion = await self._complete(probe.messages, max_tokens)
        if completion.get("prompt_token_ids") != probe.prompt_token_ids:
            raise ManifestError(
                "the server renders the same messages to other tokens a moment later",
                hint="do several servers with different models or templates stand behind this address?",
            )
        choice = completion["choices"][0]
        if not _are_token_ids(choice.get("token_ids")):
            return probe
        message = choice["message"]
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        reply = ProbeReply(content=_text(message.get("content")), reasoning=_text(reasoning))
        return probe.model_copy(update={"completion_token_ids": choice["token_ids"], "reply": reply})

    async def _complete(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> Completion:
        body: dict[str, Any] = {
            "model": self.served_name,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if self.template_kwargs:
            body["chat_template_kwargs"] = self.template_kwargs
        try:
            return await self.upstream.complete(
                {**body, "return_token_ids": True, "return_prompt_text": True}, "its-declare"
            )
        except UpstreamRejected as error:
            if error.status != 400:
                raise
            return await self.upstream.complete(body, "its-declare")  # a strict server refuses unknown fields

    async def _with_logprobs(self, probes: Sequence[Probe]) -> list[Probe]:
        """Three rounds: alone; beside generations that share the server's batches; alone again, in reverse order.

        How far they lie apart is the noise that a later handshake is judged by.
        """
        alone = [await self._logprobs(probe) for probe in probes]
        async with self._busy():
            beside = [await self._logprobs(probe) for probe in probes]
        again = [await self._logprobs(probe) for probe in reversed(probes)][::-1]
        return [
            probe.model_copy(update={"logprobs": Logprobs(this=rounds[0], noise=_noise(rounds))})
            if rounds[0]
            else probe
            for probe, *rounds in zip(probes, alone, beside, again, strict=True)
        ]

    async def _logprobs(self, probe: Probe) -> list[float]:
        self.on_step("log-probabilities")
        tokens = [*probe.prompt_token_ids, *probe.completion_token_ids]
        if not 1 < len(tokens) <= MAX_SCORED_TOKENS:
            return []
        return [round(value, 4) for value in await ask_logprobs(self.upstream, self.served_name, tokens)]

    @asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """Two generations at any time while the block runs; what they say, or that they fail, does not matter."""

        async def generate(number: int) -> None:
            messages = [{"role": "user", "content": QUERIES[number]}]
            body = {"model": self.served_name, "messages": messages, "max_tokens": _BESIDE_TOKENS, "temperature": 1}
            with suppress(UpstreamError):
                while True:
                    await self.upstream.complete(body, f"its-declare-beside-{number}")

        tasks = [asyncio.create_task(generate(number)) for number in range(2)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _are_token_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(type(token) is int and 0 <= token < 2**31 for token in value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _noise(rounds: Sequence[Sequence[float]]) -> float:
    """The largest mean absolute difference, in nats, between any two rounds."""
    means = (
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
        for one, other in combinations(rounds, 2)
        if one
    )
    return round(max(means, default=0.0), 6)


def _writes_date(prompt_text: Any, messages: Sequence[Mapping[str, Any]], today: date | None = None) -> bool:
    """Whether the rendered prompt holds today's date, in a common spelling, that no message holds."""
    if not isinstance(prompt_text, str):
        return False
    day = today or date.today()
    said = json.dumps(messages, ensure_ascii=False)
    spellings = ("%d %b %Y", "%d %B %Y", "%B %d, %Y", "%b %d, %Y", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y")
    return any(day.strftime(form) in prompt_text and day.strftime(form) not in said for form in spellings)
