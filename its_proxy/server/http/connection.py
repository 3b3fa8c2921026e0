"""One client's connection: its requests one after another, each answered by a task of its own.

The task ends when its client leaves; one that half-closes has left, for a plain close would look the same until the
rest was read. What no handler has seen is refused in the shape of every error. `patience.py` looks at the time.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import orjson
import structlog

from its_proxy.protocol.envelope import envelope
from its_proxy.protocol.request_id import new_request_id
from its_proxy.server.http.patience import NEW, Doing, Patience, Watch
from its_proxy.server.http.reader import Reader
from its_proxy.server.http.request import Request
from its_proxy.server.http.response import Response, Stream
from its_proxy.server.metrics import Metrics

MAX_AHEAD = 32
"""Requests sent before the one ahead of them is answered; who sends more is told to connect again."""
MAX_AHEAD_BYTES = 2**16
_REFUSALS = {
    400: ("invalid_http", "this is not a request that can be read in one way only"),
    408: ("request_timeout", "the request did not arrive in time"),
    500: ("internal_error", "its-proxy failed on this request"),
}
log = structlog.get_logger("its_proxy")


class App(Protocol):
    """Answers requests. `is_ending`: every client is to look for another server."""

    @property
    def is_ending(self) -> bool: ...

    @property
    def max_body_bytes(self) -> int: ...

    async def answer(self, request: Request) -> Response | Stream: ...


class Connection(asyncio.Protocol):
    """`is_spare`: beyond the limit of connections, for the open routes alone. `on_end` is told once, at its end."""

    def __init__(
        self,
        app: App,
        patience: Patience,
        metrics: Metrics,
        on_end: Callable[["Connection"], None],
        *,
        is_spare: bool = False,
    ) -> None:
        self.app = app
        self.is_spare = is_spare
        self.is_paused = False
        self.transport: asyncio.Transport | None = None
        self._metrics = metrics
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(self)
        self._watch = Watch(self, patience, metrics)
        self._is_deaf = False
        self._is_leaving = False
        self._task: asyncio.Task[None] | None = None
        self._ahead: deque[Request | int] = deque()
        self._n_ahead_bytes = 0
        self.is_reading_paused = False
        self._resumed: asyncio.Future[None] | None = None

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods alone
        self._watch.begin()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if not self._reader.feed(data):
            self.refuse(400)
        elif self._reader.is_over and self._reader.receiving is None:
            self._is_deaf = True
        if self._ahead:
            self._hold_back(len(data))

    def eof_received(self) -> None:
        if not self._is_leaving:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._watch.end()
        if self._task is not None:
            self._task.cancel()
        self.transport = None
        self._is_deaf = True
        self._ahead.clear()
        self._reader.close()
        del self._reader, self._watch
        self._on_end(self)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._watch.has_moved()
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    # -- for a request and its reply -----------------------------------------------------------------------------------

    def take(self, request: Request) -> bool:
        """Its head has come. Whether there is room for it."""
        if self._task is None and not self._ahead:
            self._begin(request)
        elif len(self._ahead) < MAX_AHEAD:
            self._ahead.append(request)
        else:
            return False
        return True

    def tell_to_go_on(self) -> None:
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def is_last(self, request: Request) -> bool:
        """Whether its reply ends the connection, as far as is known when the reply begins."""
        has_ended = self._is_deaf and not self._ahead
        return has_ended or not (request.is_kept and request.is_whole) or self.app.is_ending

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError where the client has left."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has left")
        self.transport.write(data)

    async def drained(self) -> None:
        """Returns when the client has read enough."""
        while self.is_paused:
            self._resumed = self._loop.create_future()
            await self._resumed

    def _begin(self, request: Request) -> None:
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self.app.answer(request)
            is_last = self._send(request, reply) if isinstance(reply, Response) else reply.is_last
            if self.is_paused:
                await self.drained()
            self._task = None
            self._go_on(is_last=is_last)
        except ConnectionResetError:
            self._task = None  # it is being closed, or it is lost already
        except BaseException:
            # Cancelled, where the client has left or the server ends; or a defect, which the loop tells.
            self._task = None
            self.abort()
            raise

    def _send(self, request: Request, reply: Response) -> bool:
        """Whether that is the last one here."""
        is_last = reply.is_last or self.is_last(request)
        line = "Connection: close\r\n" if is_last else "Connection: keep-alive\r\n" if request.version == "1.0" else ""
        try:
            pieces = reply.pieces(request.id, line, is_head=request.method == "HEAD")
        except ValueError:
            log.exception("a defect of its-proxy: a reply's header", id=request.id)
            is_last, pieces = True, _refusal(500).pieces(request.id, "Connection: close\r\n")
        for piece in pieces:
            self.write(piece)
        return is_last

    def _go_on(self, *, is_last: bool) -> None:
        """After a reply: to the next request, if it is here already."""
        if is_last:
            self._leave()
        elif self._ahead:
            following = self._ahead.popleft()
            if not self._ahead:
                self._n_ahead_bytes = 0
                self._read_on()
            if isinstance(following, Request):
                self._begin(following)
            else:
                self._tell_refusal(following)
        elif self._is_deaf:
            self._leave()

    def _hold_back(self, n_bytes: int) -> None:
        """Who asks on and on, and does not wait for the answers, is not read meanwhile."""
        self._n_ahead_bytes += n_bytes
        if self._n_ahead_bytes > MAX_AHEAD_BYTES and not self.is_reading_paused and self.transport is not None:
            self.is_reading_paused = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self.is_reading_paused and self.transport is not None:
            self.is_reading_paused = False
            self.transport.resume_reading()

    # -- its end -------------------------------------------------------------------------------------------------------

    def abort(self) -> asyncio.Task[None] | None:
        """Ends it at once, whatever is still to be sent. What was still answering a request, and is cancelled."""
        if self.transport is not None:
            self.transport.abort()
        return self._task

    @property
    def doing(self) -> tuple[Doing, int]:
        """What it is about, and with which of its requests."""
        reader = self._reader
        if self._is_leaving:
            return Doing.LEAVING, 0
        if reader.receiving is not None:
            return Doing.BODY, reader.n_requests
        if self._task is not None or self._ahead:
            return Doing.ANSWER, reader.n_requests
        if reader.is_in_head or reader.n_requests == 0:
            return Doing.HEAD, reader.n_requests + reader.is_in_head
        return Doing.NOTHING, reader.n_requests

    @property
    def receiving(self) -> Request | None:
        """The request whose body is coming."""
        return self._reader.receiving

    @property
    def is_new(self) -> bool:
        """Nothing has come on it yet."""
        return self.transport is None or self.doing == NEW

    def retire(self) -> None:
        """Ends it where it is idle. Where it is not, the reply that it is at says that it is the last."""
        is_idle = self.transport is not None and (self.doing[0] is Doing.NOTHING or self.doing == NEW)
        if is_idle and not self._is_spoken_to():
            self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _is_spoken_to(self) -> bool:
        """Whether something has come that a busy loop has not read yet: closing over it would lose it."""
        own = self.transport.get_extra_info("socket") if self.transport is not None else None
        if own is None or own.fileno() < 0 or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(own.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def refuse(self, status: int) -> None:
        """Answers what never became a request, after those before it, and ends the connection."""
        self._is_deaf = True
        self._metrics.malformed.add(status == 400)
        if self._reader.receiving is not None:
            self._reader.receiving.fail(status)  # its handler tells it
        elif self._task is not None or self._ahead:
            self._ahead.append(status)
        else:
            self._tell_refusal(status)

    def _tell_refusal(self, status: int) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.writelines(_refusal(status).pieces(new_request_id(None), "Connection: close\r\n"))
            self._leave()

    def _leave(self) -> None:
        """Closes it; where something may still be on its way here, only when that has come and the client has seen the
        end, for what is unread at a close destroys what is unread there."""
        if self.transport is None or self.transport.is_closing():
            return
        is_clean = not self._ahead and self._reader.is_over and self._reader.receiving is None
        self._is_deaf = self._is_leaving = True
        self._watch.look_anew()
        self._read_on()
        if is_clean or not self.transport.can_write_eof():  # TLS takes leave of its own accord
            self.transport.close()
        else:
            self.transport.write_eof()


def _refusal(status: int) -> Response:
    """Of what no handler has seen. What cannot be read is quoted nowhere: it may be a key."""
    code, text = _REFUSALS[status]
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Response(orjson.dumps(envelope(text, kind=kind, code=code)), status)
