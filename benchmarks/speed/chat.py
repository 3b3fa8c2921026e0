"""Chat before a voted model: how many more tokens are generated than for the same model without a vote.

Nobody says which question has an answer to vote on. Two hundred requests without one, eight at a time; the upstream
generates a token every two milliseconds, 60 to 120 a reply, and counts those of calls that are closed early, too.
Twenty more sound as if they had an answer and have none: the dear case, told apart.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.speed.bench import Bench, Running
from benchmarks.speed.upstream import CHAT, Behaviour, Counters

_BEHAVIOUR = Behaviour(0, 60, 2, CHAT)
_AT_A_TIME = 8
_WISHES = (
    "Write a friendly note to a neighbour about {}.",
    "Tell me something about {} that most people do not know.",
    "I feel a little low today. Can we talk about {}?",
    "Draft a short e-mail to my team about {}.",
    "Explain {} to a child.",
    "What do you like about {}?",
    "Give me a few ideas for a poem about {}.",
    "Say in 2 or 3 sentences why people care about {}.",
    "Help me begin a story that has to do with {}.",
    "Translate into French: we spoke about {} all evening.",
)
_TOPICS = ("gardens", "the sea", "old trains", "baking bread", "winter", "street music", "chess clubs", "honey bees",
           "libraries", "moving to a new town", "a lost umbrella", "mountain huts", "jazz", "rainy Sundays", "markets",
           "our school reunion", "learning to swim", "lighthouses", "a broken bicycle", "office plants")  # fmt: skip
REQUESTS = tuple(wish.format(topic) for topic in _TOPICS for wish in _WISHES)
SOUNDS_LIKE_ONE = tuple(f"How many reasons are there to like {topic}? Write about 3 of them." for topic in _TOPICS)


@dataclass(frozen=True, slots=True)
class Chatted:
    """What the upstream counted, and how the replies say that their votes ended."""

    counters: Counters
    stopped: dict[str, int]


async def chat(bench: Bench, its_proxy: Running, share: float = 1.0) -> dict[str, Chatted]:
    """The same requests to the model without a manifest, and to the voted one, with nothing said about votes."""
    groups = {"": REQUESTS[: round(share * len(REQUESTS))], ", sounds like a problem": SOUNDS_LIKE_ONE}
    return {
        f"{name}{group}": await _ask_all(bench, its_proxy, model, requests)
        for group, requests in groups.items()
        for name, model in (("plain", "passed"), ("voted", "model"))
    }


async def _ask_all(bench: Bench, its_proxy: Running, model: str, requests: tuple[str, ...]) -> Chatted:
    await bench.upstream.behave(_BEHAVIOUR)
    waiting, stopped = iter(requests), Counter[str]()
    url = f"http://127.0.0.1:{its_proxy.process.port}/v1/chat/completions"

    async def one_client(http: aiohttp.ClientSession) -> None:
        for text in waiting:
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            async with http.post(url, json=body) as reply:
                document: dict[str, Any] = await reply.json()
                if reply.status != 200:
                    raise RuntimeError(f"chat was answered {reply.status}")
                stopped[str((document.get("its") or {}).get("stopped"))] += 1

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for _ in range(_AT_A_TIME):
            group.create_task(one_client(http))
    return Chatted(await bench.upstream.until_quiet(0.2, 20), dict(stopped))
