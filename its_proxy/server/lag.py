"""Watches how late the event loop comes to what is due, and says where it hangs when it does not come at all.

While the loop is blocked nothing is answered, /livez included, so a probe that waits a second fails by itself; here
the operator is told which line it was.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import structlog

TICK_S = 0.1
LATE_S = 0.25
BLOCKED_S = 10.0
MAX_FRAMES = 30
log = structlog.get_logger("its_proxy")


@asynccontextmanager
async def watching_lag(
    observe: Callable[[float], None], late_s: float = LATE_S, blocked_s: float = BLOCKED_S
) -> AsyncIterator[None]:
    """While the block runs, on the loop that runs it. `observe` gets every lag, in seconds."""
    watch = _Watch(late_s, blocked_s)
    ticking = asyncio.create_task(watch.tick(observe))
    thread = threading.Thread(target=watch.look, args=(threading.get_ident(),), name="lag", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ticking.cancel()
        watch.is_over.set()
        thread.join()


class _Watch:
    def __init__(self, late_s: float, blocked_s: float) -> None:
        self.is_over = threading.Event()
        self._late_s, self._blocked_s = late_s, blocked_s
        self._ticked_at = monotonic()

    async def tick(self, observe: Callable[[float], None]) -> None:
        while True:
            due = monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._ticked_at = monotonic()
            lag = max(0.0, self._ticked_at - due)
            observe(lag)
            if lag > self._late_s:
                log.warning("the event loop was late", lag_s=round(lag, 3))

    def look(self, loop_thread: int) -> None:
        """In a thread: once for every time that the loop hangs, where it does."""
        told_of = 0.0
        while not self.is_over.wait(self._blocked_s / 10):
            ticked_at = self._ticked_at
            if monotonic() - ticked_at > self._blocked_s and ticked_at != told_of:
                told_of = ticked_at
                frame = sys._current_frames().get(loop_thread)
                stack = traceback.format_list(traceback.extract_stack(frame)[-MAX_FRAMES:])  # no variables in it
                log.error("the event loop is blocked", for_s=self._blocked_s, stack="".join(stack))
