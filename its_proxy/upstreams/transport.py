"""How bytes reach an HTTP server and come back, whichever client carries them.

A transport follows no redirect, keeps no cookie, inflates nothing, and heeds nothing of this process's environment. It
raises the three errors below and TimeoutError, and no others.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from its_proxy.upstreams.written import Pieces

# Well below the 5 s of uvicorn, vLLM's server: a call sent on a connection that is just being closed there is lost, and
# on a starved machine both clocks run late.
KEEPALIVE_S = 2.0
DNS_TTL_S = 30
# A request up to here is sent as one.
SENT_AS_ONE_BYTES = 2**16
# What is held of a reply that nobody reads: a server that talks faster than it is listened to is made to wait.
READ_AHEAD_BYTES = 2**15


class TransportError(Exception):
    """The connection broke, or what came is no HTTP."""


class Unreachable(TransportError):
    """No connection was made: the request certainly cost nothing."""


class Untrusted(Unreachable):
    """The server's TLS certificate is none that is trusted here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, `path` from the root; made once for many calls. `lines`: the fields as a head has them.

    Raises ValueError for a field that would be more than one line."""

    method: str
    path: str
    fields: Mapping[str, str]
    lines: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", lines_of(self.fields))


def lines_of(fields: Mapping[str, str]) -> str:
    """Raises ValueError."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    if lines.count("\n") != len(fields):
        raise ValueError("a header field holds a line end")
    return lines


class Response(Protocol):
    """A reply whose head has come. `close` it: one that was not read to its end costs its connection."""

    @property
    def status(self) -> int: ...

    def field(self, name: str) -> str | None:
        """Of the header, by lower-case name; of a repeated one the last."""
        ...

    def whole(self) -> bytes | None:
        """The body, where all of it is here already and nothing of it was read; None says nothing."""
        ...

    def chunk(self, within_s: float) -> Awaitable[bytes]:
        """Whatever of the body has come; nothing at its end. Raises TimeoutError where nothing comes in time."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    """One server's. Some header fields go along with every request."""

    async def open(self, asked: Asked, request_id: str | None, data: Pieces, within_s: float) -> Response:
        """Sends a whole request, with `x-request-id` where there is one, and waits for the reply's head; cancelling it
        closes its connection. `data` is not copied where it is large: others may be sending the same.
        """
        ...

    async def close(self) -> None: ...
