"""A stand-in for vLLM's application: pure ASGI, tells what it was asked, answers by a script, notices who leaves."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests.serving import tokens_of

KEY = "engine-key"


@dataclass
class ScriptedApp:
    """`answer(body)` -> text or (status, document); `roots`: model name -> folder, `unlisted` until it is asked for;
    `key`: asked for as vLLM does."""

    answer: Callable[[dict[str, Any]], Any]
    roots: dict[str, str]
    key: str | None = None
    unlisted: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    asked: list[tuple[dict[bytes, bytes], dict[str, Any]]] = field(default_factory=list)
    others: list[tuple[str, str, bytes]] = field(default_factory=list)
    adapters: set[str] = field(default_factory=set)
    n_running: int = 0

    def __post_init__(self) -> None:
        self.state = SimpleNamespace(args=SimpleNamespace(api_key=[self.key] if self.key else None))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Of chat completions, without probes."""
        return [body for _, body in self.asked if not body.get("return_token_ids")]

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self.key and (b"authorization", f"Bearer {self.key}".encode()) not in scope["headers"]:
            await reply(send, 401, {"error": "Unauthorized"})
        elif scope["path"] == "/v1/models":
            await reply(send, 200, {"object": "list", "data": [self._card(name) for name in self.roots]})
        elif scope["path"] == "/tokenize":
            is_known = self._knows(json.loads(await whole(receive))["model"])
            await reply(send, 200 if is_known else 404, {})
        elif scope["path"] == "/v1/load_lora_adapter":
            named = json.loads(await whole(receive))
            self.adapters.add(named["lora_name"])
            self.roots[named["lora_name"]] = named["lora_path"]
            await reply(send, 200, {})
        elif (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions"):
            await self._chat(scope, receive, send)
        else:
            self.others.append((scope["method"], scope["path"], await whole(receive)))
            await reply(send, 404, {"detail": "Not Found"})

    def _knows(self, name: str) -> bool:
        if name in self.unlisted:
            self.roots[name] = self.unlisted.pop(name)
        return name in self.roots

    def _card(self, name: str) -> dict[str, Any]:
        parent = next(iter(self.roots)) if name in self.adapters else None
        return {"id": name, "object": "model", "root": self.roots[name], "parent": parent}

    async def _live(self, receive, send) -> None:
        for name in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{name}"
            await send({"type": f"lifespan.{name}.complete"})

    async def _chat(self, scope, receive, send) -> None:
        data = await whole(receive)
        try:
            body = json.loads(data)
        except ValueError:
            return await reply(send, 400, {"error": {"message": "vLLM cannot read this"}})
        headers = dict(scope["headers"])
        assert int(headers[b"content-length"]) == len(data)
        self.asked.append((headers, body))
        if not self._knows(body["model"]):
            return await reply(send, 404, {"error": {"message": f"no {body['model']}", "code": 404}})
        said = "x" if body.get("return_token_ids") else self.answer(body)
        if self.delay_s and not body.get("return_token_ids"):
            await self._generated(receive)
        await (reply(send, *said) if isinstance(said, tuple) else self._complete(send, body, said))

    async def _generated(self, receive) -> None:
        """As vLLM does it: whoever cancels this, and does not say that the client has left, stops nothing."""
        generating, leaving = asyncio.create_task(self._generate()), asyncio.create_task(receive())
        _, pending = await asyncio.wait({generating, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def _generate(self) -> None:
        self.n_running += 1
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.n_running -= 1

    async def _complete(self, send, body, text) -> None:
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        head = {"id": "cmpl", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            document = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return await reply(send, 200, {**document, "prompt_token_ids": tokens_of(body["messages"])})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for delta, reason in (({"role": "assistant", "content": ""}, None), ({"content": text}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            data = b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def whole(receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def reply(send, status: int, document: Any) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
