"""Clients of all manners: bare connections that leave as one likes, and requests at a steady rate."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

How = Literal["fin", "rst", "half-close"]


class Bare:
    """A bare connection with one request on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def asking(
        cls, url: str, body: Mapping[str, Any], request_id: str = "", *, share: float = 1.0, **headers: str
    ) -> "Bare":
        """`share`: how much of the body is sent. `url` ends in /v1."""
        data = json.dumps(body).encode()
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        lines = {"Host": "h", "Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        lines |= {"x-request-id": request_id} if request_id else {}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + data[: int(len(data) * share)])
        await writer.drain()
        return cls(reader, writer)

    async def reads(self, wanted: bytes, timeout_s: float = 10.0) -> bytes:
        """Until `wanted` has come; raises EOFError where the connection ends before. What has come is returned."""
        seen = b""
        async with asyncio.timeout(timeout_s):
            while wanted not in seen:
                chunk = await self.reader.read(65536)
                if not chunk:
                    raise EOFError(seen[:300])
                seen += chunk
        return seen

    def leave(self, how: How) -> float:
        """Returns when that was; a half-closed connection wants `close` in the end."""
        left_at = monotonic()
        if how == "half-close":
            self.writer.write_eof()
            return left_at
        if how == "rst":
            own = self.writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()
        return left_at

    async def is_let_go(self, within_s: float) -> bool:
        """Whether the other side ends the connection, too, whatever it still says."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while await self.reader.read(65536):
                    pass
                return True
        return False

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True, slots=True)
class Reply:
    """One request's end, in seconds since the load began. `status` 0: no reply; `code` is an error's."""

    began_s: float
    ended_s: float
    status: int
    code: str | None = None
    headers: Mapping[str, str] | None = None
    its: Mapping[str, Any] | None = None

    @property
    def lasted_s(self) -> float:
        return self.ended_s - self.began_s


async def steady_load(
    url: str,
    per_second: float,
    seconds: float,
    body_of: Callable[[int], Mapping[str, Any]],
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> list[Reply]:
    """Requests at a rate that does not care for the replies (an open loop), in the order of their beginning."""
    began = monotonic()
    options = {"timeout": aiohttp.ClientTimeout(total=timeout_s), "connector": aiohttp.TCPConnector(limit=0)}
    async with aiohttp.ClientSession(headers=headers, **options) as http, asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - monotonic()))
            tasks.append(group.create_task(_ask(http, url, body_of(number), began)))
    return [task.result() for task in tasks]


async def _ask(http: aiohttp.ClientSession, url: str, body: Mapping[str, Any], began: float) -> Reply:
    began_s = monotonic() - began
    try:
        async with http.post(f"{url}/chat/completions", json=body) as reply:
            data = await reply.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Reply(began_s, monotonic() - began, 0, type(error).__name__)
    ended_s = monotonic() - began
    document = json.loads(data) if reply.content_type == "application/json" else {}
    error = document.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return Reply(began_s, ended_s, reply.status, code, dict(reply.headers), document.get("its"))


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; NaN of none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")
