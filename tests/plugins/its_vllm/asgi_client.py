"""A client that speaks ASGI to an application, as a server would for it; it may leave at any time."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Heard:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.raw.decode().split("\n") if line.startswith("data: {")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]


class Client:
    """`state_of`: the application whose `state` vLLM's scopes carry."""

    def __init__(self, app, state_of, key: str | None = None) -> None:
        self._app, self._state_of, self._key = app, state_of, key

    async def chat(self, query="What is 2 + 5?", model="model", headers=(), **fields) -> Heard:
        body = {"model": model, "messages": [{"role": "user", "content": query}], **fields}
        return await self.send("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)

    async def send(self, method, path, body: bytes = b"", headers=(), *, leave: asyncio.Event | None = None) -> Heard:
        heard = Heard()
        half = len(body) // 2  # servers cut bodies where they like
        waiting = [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        ]
        is_over = leave or asyncio.Event()

        async def receive():
            if waiting:
                return waiting.pop(0)
            await is_over.wait()
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            if message["type"] == "http.response.start":
                assert not heard.status
                heard.status = message["status"]
                heard.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                heard.raw += message.get("body", b"")

        await self._app(self._scope(method, path, len(body), headers), receive, send)
        return heard

    def _scope(self, method, path, n_bytes, headers) -> dict[str, Any]:
        named = [(name.encode(), value.encode()) for name, value in headers]
        if self._key:
            named.append((b"authorization", f"Bearer {self._key}".encode()))
        named.append((b"content-length", str(n_bytes).encode()))
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": named, "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000), "app": self._state_of, "state": {},
        }  # fmt: skip


@asynccontextmanager
async def living(app, state_of):
    """The application between its start and its end, as uvicorn tells of both."""
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "app": state_of, "state": {}}
    life = asyncio.create_task(app(scope, incoming.get, told.put))
    await incoming.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await incoming.put({"type": "lifespan.shutdown"})
        await life
