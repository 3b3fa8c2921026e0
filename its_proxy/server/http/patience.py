"""How long a connection may take for what it is about, which one timer looks at: a request costs none of its own."""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from its_proxy.server.metrics import Metrics

if TYPE_CHECKING:
    from its_proxy.server.http.connection import Connection

BODY_WINDOW_S = 5.0
"""After `body_s`, a body is looked at this often."""
MIN_BODY_BYTES_PER_S = 1024
LINGER_S = 1.0
"""What a refused client still sends is read for so long, that it sees the refusal and no reset."""


class Doing(Enum):
    """HEAD: receiving one, or waiting for the first; NOTHING: between two requests; LEAVING: all is said."""

    HEAD, BODY, ANSWER, NOTHING, LEAVING = range(5)


NEW, FIRST_HEAD = (Doing.HEAD, 0), (Doing.HEAD, 1)


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


class Watch:
    """Looks at what `watched` is about, and since when, as seen by these looks."""

    def __init__(self, watched: "Connection", patience: Patience, metrics: Metrics) -> None:
        self._watched = watched
        self._patience = patience
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._seen = NEW
        self._since = self._moved_at = self._window_s = 0.0
        self._n_body_bytes = self._n_unsent = 0

    def begin(self) -> None:
        self._since = self._moved_at = self._loop.time()
        self._timer = self._loop.call_later(self._patience.look_s, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def has_moved(self) -> None:
        """Some of what waited for the client has left."""
        self._moved_at = self._loop.time()

    def look_anew(self) -> None:
        """What it is about begins now."""
        self._seen = self._watched.doing
        self._begin_window(self._patience.body_s)

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._patience.look_s, self._look)
        doing = self._watched.doing
        if doing != self._seen and doing != FIRST_HEAD:  # whose time begins with the connection
            self.look_anew()
        spent_s = self._loop.time() - self._since
        match doing[0]:
            case Doing.HEAD if spent_s > self._patience.header_s:
                self._end_head()
            case Doing.BODY if spent_s > self._window_s:
                self._end_window()
            case Doing.NOTHING if spent_s > self._patience.keepalive_s:
                self._watched.retire()
            case Doing.LEAVING if spent_s >= LINGER_S and self._n_unsent == 0:
                self._watched.close()
        self._look_at_reader()

    def _end_head(self) -> None:
        self._metrics.receive_timeouts.add(1, "header")
        if self._watched.doing == NEW:
            # To a client that has asked nothing, a reply would look like the one to its next request.
            self._watched.close()
        else:
            self._watched.refuse(408)

    def _begin_window(self, seconds: float) -> None:
        body = self._watched.receiving
        self._since, self._window_s = self._loop.time(), seconds
        self._n_body_bytes = 0 if body is None else body.n_bytes

    def _end_window(self) -> None:
        """One that brought enough is followed by another."""
        body = self._watched.receiving
        assert body is not None
        # By what the body holds: chunks have extensions and trailers, of which there is no end.
        is_enough = body.n_bytes >= self._n_body_bytes + MIN_BODY_BYTES_PER_S * self._window_s
        if is_enough or self._watched.is_reading_paused:
            self._begin_window(min(BODY_WINDOW_S, self._patience.body_s))
        else:
            self._metrics.receive_timeouts.add(1, "body")
            self._watched.refuse(408)

    def _look_at_reader(self) -> None:
        if (transport := self._watched.transport) is None:
            return
        n_unsent, now = transport.get_write_buffer_size(), self._loop.time()
        if n_unsent == 0 or n_unsent < self._n_unsent:
            self._moved_at = now
        self._n_unsent = n_unsent
        if now - self._moved_at > self._patience.write_idle_s:
            self._metrics.slow_readers.add(1)
            self._watched.abort()
