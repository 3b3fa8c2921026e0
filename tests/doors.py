"""The doors by which a query comes in, and what each must send on: the messages that training wrote, byte for byte.

A door is opened over a checkpoint's folder, before an engine of its own, and then asks a conversation's next turn.
`make test-litellm` opens two more doors, in LiteLLM's environment (tests/real_litellm/doors.py).
"""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import openai

from its_proxy.client import wrap
from its_proxy.codesign.manifest import recipe_of
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import rewrite
from its_training.demo.arms import side_of, training_row
from its_training.demo.problems import Problem, draw
from its_vllm import Middleware
from its_vllm.options import Options
from tests.plugins.its_vllm.asgi_client import Client, living
from tests.plugins.its_vllm.scripted_app import ScriptedApp
from tests.scripted import Say, ScriptedUpstream, scripted_upstream
from tests.serving import manifest, model_settings, serving, write_checkpoint

Messages: TypeAlias = list[dict[str, Any]]
Ask: TypeAlias = Callable[[Messages], Awaitable[list[Messages]]]
"""A conversation -> what the engine was asked for each candidate."""
Door: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Ask]]

STRATEGIES = ("none", "similar", "dissimilar", "random", "mixed", "filler", "fixed", "shuffled")
SEED = 11
TWICE = {"vote": "always", "n": 2, "stop": "none"}
ODD_QUERIES = [
    " A cook has 3 eggs.\n\tHow many  are left? \n",
    "Wie viele Brötchen kosten 9 €? 日本語 🍳 e\u0301 \u202edrawkcab",
    'He said "{query}" and {persona}: how many words? <|im_start|>user\\n{{ 7 }}',
    "\r\nHow many lines\r\nare these?\u2028\u00a0",
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CONVERSATIONS: list[Messages] = [
    [{"role": "system", "content": "Answer in a box. {query}"}, {"role": "user", "content": ODD_QUERIES[0]}],
    [{"role": "user", "content": [{"type": "text", "text": ODD_QUERIES[1]}, IMAGE, {"type": "text", "text": "And?"}]}],
    [{"role": "user", "content": [IMAGE, {"type": "text", "text": "How many eggs are on the picture?"}]}],
    [
        {"role": "system", "content": ""},
        {"role": "user", "content": "How many eggs are 3 eggs and 4 eggs?"},
        {"role": "assistant", "content": "\\boxed{7}"},
        {"role": "user", "content": [{"type": "text", "text": ODD_QUERIES[2]}]},
        {"role": "assistant", "content": "\u202e\\boxed{8}"},
        {"role": "user", "content": ODD_QUERIES[3]},
    ],
]


def document_of(strategy: str) -> dict[str, Any]:
    """The manifest that training seals for this arm, without probes."""
    side = side_of(strategy, SEED).model_dump(mode="json")
    return manifest(pair={"trained_with": side, "serve_with": side}, probes=[])


def rows_of(strategy: str, n: int = 12) -> list[dict[str, Any]]:
    """Training rows with a persona; in a mixed arm, those whose id gave them one."""
    odd = [Problem(f"odd:{k}", "cooking", query, "\\boxed{7}", "7", "sft") for k, query in enumerate(ODD_QUERIES)]
    problems = [*draw(n, "sft", SEED), *odd]
    rows = [training_row(problem, side_of(strategy, SEED)) for problem in problems]
    return [row for row in rows if row["persona"]["text"] is not None or strategy == "none"]


def trained(strategy: str) -> list[tuple[Messages, Messages]]:
    """What a client sends, and what training made of it: of single queries by its rows, of conversations by the
    recipe that it seals into the checkpoint."""
    rows = [([{"role": "user", "content": row["query"]}], row["messages"][:-1]) for row in rows_of(strategy, 4)]
    recipe = recipe_of(side_of(strategy, SEED), taxonomy_pool())
    return rows + [(messages, rewrite(recipe, copy.deepcopy(messages)).messages) for messages in CONVERSATIONS]


async def assert_asked_as_trained(door: Door, strategy: str, folder: Path) -> None:
    """For every conversation, that each candidate the engine was asked for had the messages of the training row."""
    pairs = trained(strategy)
    assert len(pairs) >= 6
    async with door(write_checkpoint(folder, document_of(strategy))) as ask:
        for messages, expected in pairs:
            sent = await ask(messages)
            assert sent
            assert [_as_bytes(one) for one in sent] == [_as_bytes(expected)] * len(sent)
            assert (expected == messages) is (strategy == "none")


def _as_bytes(messages: Messages) -> bytes:
    return json.dumps(messages, sort_keys=True).encode()


@asynccontextmanager
async def engine(name: str = "model") -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream(lambda body, number: Say("\\boxed{7}"), [name]) as upstream:
        yield upstream


def asked_of(upstream: ScriptedUpstream) -> list[Messages]:
    """What it was asked since the last time."""
    sent = [body["messages"] for body in upstream.bodies]
    upstream.forget()
    return sent


@asynccontextmanager
async def proxy(checkpoint: Path) -> AsyncIterator[Ask]:
    async with engine() as upstream, serving(model_settings(upstream.url, checkpoint)) as server:

        async def ask(messages: Messages) -> list[Messages]:
            status, reply = await server.chat(messages, its=TWICE)
            assert status == 200, reply
            return asked_of(upstream)

        yield ask


@asynccontextmanager
async def client(checkpoint: Path) -> AsyncIterator[Ask]:
    async with (
        engine() as upstream,
        wrap(openai.AsyncOpenAI(base_url=upstream.url, api_key="k"), checkpoint=checkpoint) as wrapped,
    ):

        async def ask(messages: Any) -> list[Messages]:
            await wrapped.chat.completions.create(model="model", messages=messages, extra_body={"its": TWICE})
            return asked_of(upstream)

        yield ask


@asynccontextmanager
async def blocking_client(checkpoint: Path) -> AsyncIterator[Ask]:
    async with engine() as upstream:
        wrapped = wrap(openai.OpenAI(base_url=upstream.url, api_key="k"), checkpoint=checkpoint)

        async def ask(messages: Any) -> list[Messages]:
            asked = {"model": "model", "messages": messages, "extra_body": {"its": TWICE}}
            await asyncio.to_thread(wrapped.chat.completions.create, **asked)
            return asked_of(upstream)

        try:
            yield ask
        finally:
            await asyncio.to_thread(wrapped.close)


@asynccontextmanager
async def middleware(checkpoint: Path) -> AsyncIterator[Ask]:
    app = ScriptedApp(lambda body: "\\boxed{7}", {"model": str(checkpoint)})
    inside = Middleware(app, Options())
    async with living(inside, app):

        async def ask(messages: Messages) -> list[Messages]:
            body = {"model": "model", "messages": messages, "its": TWICE}
            heard = await Client(inside, app).send("POST", "/v1/chat/completions", json.dumps(body).encode())
            assert heard.status == 200, heard.raw
            sent = [body["messages"] for body in app.bodies]
            app.asked.clear()
            return sent

        yield ask


DOORS: dict[str, Door] = {
    "proxy": proxy,
    "client": client,
    "blocking client": blocking_client,
    "vllm middleware": middleware,
}
