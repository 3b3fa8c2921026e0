"""One client's connection: what it may take, in time and in memory, before it is ended.

aiohttp reads the requests and runs their handlers. What it leaves open is closed here: headers and bodies that never
end, replies that are never read, a half-closed connection, and refusals in another shape than every other error.
"""

import asyncio
import logging
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson
from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from its_proxy.protocol.envelope import envelope
from its_proxy.protocol.request_id import new_request_id
from its_proxy.server.metrics import Metrics

MAX_HEAD_BYTES = 32 * 1024
"""Of the request line and all headers together."""
MAX_FIELD_BYTES = 8190
BODY_WINDOW_S = 5.0
"""After `body_s`, a body is looked at this often."""
MIN_BODY_BYTES_PER_S = 1024
# aiohttp quotes what it cannot parse, which may be a prompt or a key; our own defects the application logs itself.
_SILENT = logging.getLogger("its_proxy.http")
_SILENT.disabled = True
_REFUSALS = {
    400: ("invalid_http", "this is not a request that can be read in one way only"),
    408: ("request_timeout", "the request did not arrive in time"),
}


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for the headers, for a body before its rate counts, for who reads nothing, and between requests."""

    header_s: float = 10.0
    body_s: float = 30.0
    write_idle_s: float = 60.0
    keepalive_s: float = 120.0

    @property
    def look_s(self) -> float:
        """How often a connection is looked at: close enough to each limit, and seldom enough to cost nothing."""
        return min(1.0, self.header_s / 10, self.body_s / 10, self.write_idle_s / 10)


class Connection(RequestHandler):
    """`is_spare`: beyond the limit of connections, for the open routes alone. `on_end` is told once, at its end.

    One timer looks at everything, so that a busy connection costs no timer a request.
    """

    def __init__(
        self,
        server: web.Server,
        patience: Patience,
        metrics: Metrics,
        on_end: Callable[["Connection"], None],
        *,
        is_spare: bool = False,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=patience.keepalive_s,
            # A refused body is not read for long: only so that the client sees the refusal and no reset.
            lingering_time=1.0,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            access_log=None,  # type: ignore[arg-type]  # None is what turns it off
            logger=_SILENT,
            # Compressed bodies are refused by their header; nothing may inflate them on the way to that refusal.
            auto_decompress=False,
        )
        self.is_spare = is_spare
        self._patience = patience
        self._metrics = metrics
        self._on_end = on_end
        self._wire: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head_since: float | None = None
        self._n_head_bytes = 0
        self._body: StreamReader | None = None
        self._n_body_bytes = 0
        self._window_s = self._window_ends = 0.0
        self._is_refused = False
        self._n_unsent = 0
        self._moved_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)
        self._head_since = self._moved_at = self._loop.time()
        self._timer = self._loop.call_later(self._patience.look_s, self._look)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wire = None
        super().connection_lost(exc)
        self._on_end(self)

    def abort(self) -> None:
        """Ends it at once, whatever is still to be sent."""
        if self._wire is not None:
            self._wire.abort()

    @property
    def is_new(self) -> bool:
        """Nothing has come on it yet."""
        return self._request_count == 0 and self._n_head_bytes == 0

    @property
    def is_idle(self) -> bool:
        """Nothing is being received or answered."""
        is_receiving = self._n_head_bytes > 0 if self._head_since is not None else self._body is not None
        # Only then does aiohttp wait for a request: one that has come may have left its queue and not begun yet.
        return self._waiter is not None and not self._waiter.done() and not is_receiving

    def retire(self) -> None:
        """Ends it at once where it is idle, else after the reply that it is at."""
        if self._wire is None:
            return  # still shaking hands
        if self.is_idle:
            if not self._is_spoken_to():
                self.force_close()
        elif self._head_since is None and self._body is None:
            self.close()  # nothing is missing of what it is at; other replies say by themselves that they are the last

    def _is_spoken_to(self) -> bool:
        """Whether something has come that a busy loop has not read yet: closing over it would lose it."""
        own = self._wire.get_extra_info("socket") if self._wire is not None else None
        if own is None or own.fileno() < 0 or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(own.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def eof_received(self) -> None:
        # Who will send nothing more has left, though it might still read. A plain close would first wait for the
        # rest to be read, and so keep the request's work going.
        self.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if data and self._head_since is None and self._body is None:
            self._head_since, self._n_head_bytes = self._loop.time(), 0
        n_before = self._request_count
        super().data_received(data)
        if self._request_count > n_before:
            self._begin_body(*self._messages[-1])
        elif self._body is None and self._head_since is not None:
            self._n_head_bytes += len(data)
            if self._n_head_bytes > MAX_HEAD_BYTES:
                self._refuse(400)
        if self._body is not None and (self._body.is_eof() or self._body.exception() is not None):
            self._body = None

    def _begin_body(self, message: object, body: StreamReader) -> None:
        # What follows something malformed could only be guessed at.
        self._is_refused = isinstance(message, _ErrInfo)
        if isinstance(message, _ErrInfo):
            message.exc.__traceback__ = None  # its frame holds the message
            if self._body is not None:
                self._fail_body(self._body, RequestPayloadError())
        self._head_since, self._body = None, body
        self._begin_window(body, self._patience.body_s)

    def resume_writing(self) -> None:
        self._moved_at = self._loop.time()
        super().resume_writing()

    def _look(self) -> None:
        assert self._wire is not None
        self._timer = self._loop.call_later(self._patience.look_s, self._look)
        now = self._loop.time()
        if self._head_since is not None and now - self._head_since > self._patience.header_s:
            self._end_head(now)
        elif self._body is not None and now > self._window_ends:
            self._end_body(now, self._body)
        self._look_at_reader(now, self._wire)

    def _end_head(self, now: float) -> None:
        if self._request_in_progress:
            # The next request, sent too early: not worth the answer to this one.
            self._head_since = now
            return
        self._metrics.receive_timeouts.labels("header").inc()
        if self._n_head_bytes:
            self._refuse(408)
        else:
            # To a client that has asked nothing, a reply would look like the one to its next request.
            self.force_close()

    def _end_body(self, now: float, body: StreamReader) -> None:
        """At the end of every window: one that brought enough is followed by another."""
        # By what the body holds: chunks have extensions and trailers, of which there is no end.
        if self._reading_paused or body.total_bytes >= self._n_body_bytes + MIN_BODY_BYTES_PER_S * self._window_s:
            self._begin_window(body, min(BODY_WINDOW_S, self._patience.body_s))
            return
        if not self._request_in_progress:
            self.force_close()  # it is answered already, and what is left of it is only read for politeness
            return
        self._metrics.receive_timeouts.labels("body").inc()
        self._body, self._is_refused = None, True
        self._fail_body(body, web.HTTPRequestTimeout())

    def _fail_body(self, body: StreamReader, error: Exception) -> None:
        """For whoever reads it; nobody waits for the rest."""
        body.set_exception(error)
        body.feed_eof()

    def _begin_window(self, body: StreamReader, seconds: float) -> None:
        self._n_body_bytes, self._window_s = body.total_bytes, seconds
        self._window_ends = self._loop.time() + seconds

    def _refuse(self, status: int) -> None:
        """Answers a request that never became one, and ends the connection."""
        self._head_since, self._is_refused = None, True
        self._messages.append((_ErrInfo(status, ValueError(), ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The reply where no handler was reached. What cannot be parsed is quoted nowhere: it may be a key."""
        if request.writer.output_size > 0:
            raise ConnectionResetError  # half a reply has left, and another would only be read as its rest
        self._metrics.malformed.inc(status == 400)
        code, text = _REFUSALS.get(status, ("internal_error", "its-proxy failed on this request"))
        kind = "invalid_request_error" if status < 500 else "server_error"
        response = web.Response(
            body=orjson.dumps(envelope(text, kind=kind, code=code)),
            status=status,
            content_type="application/json",
            headers={"x-request-id": new_request_id(None), "Server": "its-proxy", "Connection": "close"},
        )
        response.force_close()
        return response

    def _look_at_reader(self, now: float, wire: asyncio.Transport) -> None:
        n_unsent = wire.get_write_buffer_size()
        if n_unsent == 0 or n_unsent < self._n_unsent:
            self._moved_at = now
        self._n_unsent = n_unsent
        if now - self._moved_at > self._patience.write_idle_s:
            self._metrics.slow_readers.inc()
            wire.abort()
