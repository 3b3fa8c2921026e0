"""How a server ends: announced first, then without new clients, and once everybody has been answered."""

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass

import structlog

from its_proxy.codesign.errors import ItsError
from its_proxy.server.context import Context
from its_proxy.server.listener import Site

FAILED_DRAIN_S = 5.0
"""Where something is wrong: whoever restarts this server waits for its end."""
log = structlog.get_logger("its_proxy")


@dataclass(frozen=True, slots=True)
class End:
    """Why the server ends. `is_announced`: balancers are told before, and given time to send nothing more."""

    failure: ItsError | None = None
    is_announced: bool = False


class Ending:
    """The wish to end this server, made inside its task: the first one counts, a signal after it ends it at once."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._first: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    def is_wanted(self) -> bool:
        return self._first.done()

    def end(self, failure: ItsError | None = None, *, is_announced: bool = False) -> None:
        if not self._first.done():
            self._first.set_result(End(failure, is_announced))

    def on_signal(self, number: int) -> None:
        if self._first.done():
            self._task.cancel()
        # A person at a terminal wants it gone: there is no balancer to tell.
        self.end(is_announced=number == signal.SIGTERM)

    async def wanted(self, within_s: float | None = None) -> End | None:
        """Waits for it; None where it has not come in time."""
        await asyncio.wait({self._first}, timeout=within_s)
        return self._first.result() if self._first.done() else None


async def leave(end: End, site: Site, context: Context) -> None:
    """Returns when nothing is in flight any more, or when no more time is given; what is left then is cancelled."""
    settings = context.settings
    lame_duck_s = settings.lame_duck_s if end.is_announced else 0.0
    drain_s = FAILED_DRAIN_S if end.failure is not None else drain_s_of(context)
    context.is_draining = True  # readiness says so, and every reply asks its client for another connection
    log.info("ending", lame_duck_s=lame_duck_s, drain_s=drain_s, connections=len(site.connections))
    await asyncio.sleep(lame_duck_s)
    await site.stop(handshake_s=settings.header_s)
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await site.drained()
    if left := len(site.connections):
        log.warning("not drained in time", connections=left)


def drain_s_of(context: Context) -> float:
    """As set, else as long as the longest request may take that has just begun to come in."""
    settings = context.settings
    if settings.drain_s is not None:
        return settings.drain_s
    deadlines = [served.rules.deadline_s for served in context.catalog.served.values()]
    return settings.header_s + settings.body_s + max(settings.vote.deadline_s, *deadlines, 0.0)
