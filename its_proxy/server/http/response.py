"""What leaves: a whole reply or a stream, each with the lines that every reply has."""

import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from its_proxy.server.http.connection import Connection

SENT_AS_ONE_BYTES = 2**16
JSON = "application/json"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_WITHOUT_BODY = (204, 304)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Response:
    """A whole reply. `is_last`: what follows on its connection is not read."""

    __slots__ = ("body", "content_type", "headers", "is_last", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        *,
        is_last: bool = False,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers or {}
        self.is_last = is_last

    def pieces(self, request_id: str, connection: str, *, is_head: bool = False) -> list[bytes]:
        """Its bytes, as one where that costs little. `connection`: a header line or nothing; `is_head`: the head alone.

        Raises ValueError."""
        framing = f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n{connection}"
        if self.status in _WITHOUT_BODY:
            return [head(self.status, request_id, self.headers, connection)]
        begin = head(self.status, request_id, self.headers, framing)
        if is_head:
            return [begin]
        return [begin + self.body] if len(self.body) <= SENT_AS_ONE_BYTES else [begin, self.body]


class Stream:
    """A reply whose head has left. `is_last`: its connection ends with it."""

    __slots__ = ("_connection", "_is_chunked", "is_last", "status")

    def __init__(self, connection: "Connection", *, is_chunked: bool, is_last: bool) -> None:
        self.status = 200
        self.is_last = is_last
        self._connection = connection
        self._is_chunked = is_chunked

    @property
    def is_behind(self) -> bool:
        """Whether the client reads more slowly than it is written to; then `caught_up` is waited for."""
        return self._connection.is_paused

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError."""
        if data:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def caught_up(self) -> None:
        await self._connection.drained()

    def end(self) -> None:
        """Raises ConnectionResetError."""
        if self._is_chunked:
            self._connection.write(b"0\r\n\r\n")


def head(status: int, request_id: str, fields: Mapping[str, str], framing: str) -> bytes:
    """`framing`: whole lines. Raises ValueError where a field would be more than one."""
    first = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
    lines = _lines(tuple(fields.items()))
    return f"{first}{_clock.lines()}x-request-id: {request_id}\r\n{lines}{framing}\r\n".encode()


@lru_cache(maxsize=256)
def _lines(fields: tuple[tuple[str, str], ...]) -> str:
    """Kept, because most replies of a model have the same. Raises ValueError."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if lines.count("\n") != len(fields) or lines.count("\r") != len(fields):
        raise ValueError("a header field holds a line end")
    return lines


class _Clock:
    """The lines that are the same for a second."""

    def __init__(self) -> None:
        self._second = -1
        self._lines = ""

    def lines(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._lines = second, f"Server: its-proxy\r\nDate: {http_date(second)}\r\n"
        return self._lines


def http_date(second: int) -> str:
    """In English, whatever the locale."""
    at = time.gmtime(second)
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    return f"{day}, {at.tm_mday:02} {month} {at.tm_year} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"


_clock = _Clock()
