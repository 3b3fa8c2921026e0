"""The few things that ASGI leaves to whoever stands between a server and an application."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias

import orjson

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]


class ClientLeft(Exception):
    """The client closed its connection before it had sent everything."""


@dataclass(frozen=True, slots=True)
class AppReply:
    """One reply of an application, read whole."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(body: Any, headers: MutableMapping[str, str], status: int = 200) -> AppReply:
    data = orjson.dumps(body)
    told = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    return AppReply(status, tuple(raw(told)), data)


def raw(headers: MutableMapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def header(scope: Scope, name: bytes) -> str | None:
    """The last of that name, as most servers read it."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[-1].decode("latin-1") if found else None


def path_of(scope: Scope) -> str:
    """Below the application's root."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path") or "")


async def read_body(receive: Receive, max_bytes: float = inf) -> tuple[bytes, bool]:
    """The whole body, or what had come when it grew beyond `max_bytes`, and whether it is whole. Raises ClientLeft."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body), True
        if len(body) > max_bytes:
            return bytes(body), False


def replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, and then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
