"""Listens, and decides of every new connection whether there is room for it."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import structlog

from its_proxy.server.app import App
from its_proxy.server.context import Context
from its_proxy.server.deaf import deafen
from its_proxy.server.http.connection import Connection
from its_proxy.server.http.patience import Patience
from its_proxy.server.port import BACKLOG, bind
from its_proxy.settings import Settings

ACCEPTED_AT_ONCE = 4
"""So many before anything else gets its turn; no more can be over the limit for a moment."""
SPARE = 16
"""Connections beyond the limit that may still ask the open routes, such as /livez; the newest are kept."""
SPARE_PATIENCE = Patience(header_s=1.0, body_s=1.0, write_idle_s=5.0, keepalive_s=1.0)
SETTLE_S = 0.2
"""For clients who have come and said nothing yet, when the server ends."""
LOOK_S = 0.1
"""How often it is looked then who has been answered."""
GOODBYE_S = 5.0
"""How long a TLS connection that is closed waits for the client to close it, too."""
CANCELLED_S = 1.0
"""For what is cancelled in the end to end in order; what may still finish has been waited for before."""
PAUSE_S = 0.5
"""Before accepting is tried again where the system itself has no descriptors left."""
log = structlog.get_logger("its_proxy")


class Site:
    """Where an application listens, with a limit of connections and with their patience."""

    def __init__(self, app: App, host: str, port: int, n_connections: int) -> None:
        self.app = app
        self._context = app.context
        self._host, self._port, self._n_connections = host, port, n_connections
        self.listener: Listener | None = None

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        return self.listener.connections if self.listener is not None else []

    async def start(self) -> tuple[str, int]:
        """The first address that it has. Raises OSError."""
        sockets = await bind(self._host, self._port, is_shared=self._context.shares_port)
        self.listener = Listener(sockets, self._context, self._connection, self._n_connections)
        host, port, *_ = sockets[0].getsockname()
        return host, port

    async def stop(self, handshake_s: float = SETTLE_S) -> None:
        """Whoever has come already is let in, so that closing refuses nobody. `handshake_s`: for those with TLS."""
        if self.listener is not None:
            await self.listener.settle(handshake_s)
            self.listener.close()

    async def close(self) -> None:
        """At once: what is still in flight is cancelled."""
        if self.listener is None:
            return
        self.listener.close()
        if cancelled := [
            task for connection in self.connections if (task := self.listener.end(connection)) is not None
        ]:
            await asyncio.wait(cancelled, timeout=CANCELLED_S)

    async def drained(self) -> None:
        """After `stop`: ends each connection once it has been answered; returns when none is open any more."""
        began = asyncio.get_running_loop().time()
        while connections := self.connections:
            is_early = asyncio.get_running_loop().time() - began < SETTLE_S
            for connection in connections:
                if not (is_early and connection.is_new):
                    connection.retire()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.emptied()

    async def emptied(self) -> None:
        if self.listener is not None:
            await self.listener.emptied()

    def _connection(self, on_end: Callable[[Connection], None], is_spare: bool) -> Connection:
        patience = SPARE_PATIENCE if is_spare else patience_of(self._context.settings)
        return Connection(self.app, patience, self._context.metrics, on_end, is_spare=is_spare)


def patience_of(settings: Settings) -> Patience:
    return Patience(settings.header_s, settings.body_s, settings.write_idle_s, settings.keepalive_s)


class Listener:
    """Accepts what there is room for. Beyond the limit the newest few are kept for the open routes."""

    def __init__(
        self,
        sockets: list[socket.socket],
        context: Context,
        make: Callable[[Callable[[Connection], None], bool], Connection],
        n_connections: int,
    ) -> None:
        self.sockets = sockets
        self._context = context
        self._make = make
        self._n_connections = n_connections
        self._loop = asyncio.get_running_loop()
        # Each with the task that opens it, which may be a TLS handshake long.
        self._open: dict[Connection, asyncio.Task[None]] = {}
        self._spare: dict[Connection, None] = {}
        self._has_ended = asyncio.Event()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        for listening in sockets:
            self._loop.add_reader(listening, self._accept, listening)

    @property
    def connections(self) -> list[Connection]:
        return list(self._open)

    async def settle(self, handshake_s: float) -> None:
        """Takes in whoever has come already, and ends what still shakes hands after so long."""
        for listening in self.sockets:
            if self._context.shares_port:
                deafen(listening)
            for _ in range(1 + BACKLOG // ACCEPTED_AT_ONCE):  # a crowd that keeps coming does not keep it open
                if not self._accept(listening):
                    break
        if opening := [task for task in self._open.values() if not task.done()]:
            # Without TLS that is a few turns of the loop, however long a busy one takes for them.
            await asyncio.wait(opening, timeout=None if self._context.tls is None else handshake_s)
        for task in opening:
            task.cancel()

    async def emptied(self) -> None:
        """Returns when no connection is open."""
        while self._open:
            self._has_ended.clear()
            await self._has_ended.wait()

    def close(self) -> None:
        for pause in self._pauses.values():
            pause.cancel()
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self.sockets = []

    def _accept(self, listening: socket.socket) -> bool:
        """Whether there may be more."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                self._pause(listening, error)
                return False
            self._admit(accepted)
        return True

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """The waiting client would be reported again and again, and nothing could be done for it."""
        log.error("no connection can be accepted", reason=error.strerror)
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(PAUSE_S, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        self._loop.add_reader(listening, self._accept, listening)

    def _admit(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        is_spare = len(self._open) - len(self._spare) >= self._n_connections
        connection = self._make(self._forget, is_spare)
        if is_spare:
            self._context.metrics.refused_connections.add(1)
            if len(self._spare) >= SPARE:
                self.end(next(iter(self._spare)))
            self._spare[connection] = None
        self._context.metrics.n_connections += 1
        self._open[connection] = self._loop.create_task(self._connect(connection, accepted))

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        tls = self._context.tls
        limits: dict[str, float] = {}
        if tls is not None:
            limits = {"ssl_handshake_timeout": self._context.settings.header_s, "ssl_shutdown_timeout": GOODBYE_S}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=tls, **limits)
        except BaseException as error:
            # It left, is no TLS, or took too long; the loop has closed its socket, or never took it.
            accepted.close()
            self._forget(connection)
            if not isinstance(error, OSError | asyncio.CancelledError):
                raise

    def end(self, connection: Connection) -> asyncio.Task[None] | None:
        """At once. What it was still at, and is cancelled now."""
        self._forget(connection)
        return connection.abort()

    def _forget(self, connection: Connection) -> None:
        self._spare.pop(connection, None)
        task = self._open.pop(connection, None)
        if task is not None:
            self._context.metrics.n_connections -= 1
            self._has_ended.set()
            task.cancel()
