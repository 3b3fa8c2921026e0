"""A bare connection to a server: bytes out as a test writes them, replies in as they come."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import orjson
from multidict import CIMultiDict

from tests.serving import Reply


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, timeout_s: float = 10.0) -> Reply:
        """The next reply, read whole by its Content-Length."""
        async with asyncio.timeout(timeout_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            headers = CIMultiDict(re.findall(r"(?m)^([^:\r\n]+): ([^\r]*)\r$", head))
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(head.split(" ")[1]), headers, body)

    async def rest(self, timeout_s: float = 10.0) -> bytes:
        """Whatever comes until the server ends the connection, politely or not."""
        seen = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(timeout_s):
                while chunk := await self.reader.read(65536):
                    seen += chunk
        return seen


@asynccontextmanager
async def connected(url: str, tls: ssl.SSLContext | None = None, limit: int = 65536) -> AsyncIterator[Wire]:
    """`url` as a server tells it."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=tls, limit=limit)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def post(body: object, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """A whole request, well made."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    fields = {"Host": "h", "Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
    return f"POST {path} HTTP/1.1\r\n{lines(fields)}\r\n".encode() + data


def lines(fields: dict[str, str]) -> str:
    return "".join(f"{name}: {text}\r\n" for name, text in fields.items())
