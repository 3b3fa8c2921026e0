"""The moment by which one request must have ended, however slowly its upstreams talk."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from its_proxy.codesign.errors import UpstreamTimeout


class Deadline:
    """Counts from its making, inside the running loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + seconds

    @property
    def ends_at(self) -> float:
        """By the loop's clock."""
        return self._ends_at

    @property
    def left_s(self) -> float:
        return self._ends_at - self._loop.time()

    def held(self) -> "_Held":
        """Raises UpstreamTimeout where the block would last beyond it."""
        return _Held(self._ends_at, self._seconds, self._loop)

    async def bounded(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same chunks, each waited for until then and no longer. A client that reads slowly is not timed here."""
        waiting = _Held(self._ends_at, self._seconds, self._loop, keeps_timer=True)
        try:
            while True:
                with waiting:
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk
        finally:
            waiting.close()


class _Held:
    """What `asyncio.timeout_at` does, for a third of its cost: every request is held by one.

    `keeps_timer`: many blocks, one after the other and in whatever tasks, are held by one timer, until it is closed.
    """

    __slots__ = ("_ends_at", "_is_over", "_keeps_timer", "_loop", "_n_before", "_seconds", "_task", "_timer")

    def __init__(
        self, ends_at: float, seconds: float, loop: asyncio.AbstractEventLoop, *, keeps_timer: bool = False
    ) -> None:
        self._ends_at = ends_at
        self._seconds = seconds
        self._loop = loop
        self._keeps_timer = keeps_timer
        self._is_over = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = self._task = asyncio.current_task(self._loop)
        assert task is not None
        self._n_before = task.cancelling()
        if self._timer is None:
            self._timer = self._loop.call_at(self._ends_at, self._end)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task, self._task = self._task, None
        if not self._keeps_timer:
            self.close()
        # Somebody else's cancellation, come meanwhile, is none of ours to take back.
        if self._is_over and task and task.uncancel() <= self._n_before and kind is asyncio.CancelledError:
            raise UpstreamTimeout(f"no whole reply within the {self._seconds:g} s deadline") from None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._timer = None  # a block that is entered from now on ends at its first wait
        if self._task is not None:
            self._is_over = True
            self._task.cancel()
