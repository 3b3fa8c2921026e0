"""The moment by which one request that is not voted on must have ended, however slowly its upstream talks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from its_proxy.codesign.errors import UpstreamTimeout


class Deadline:
    """Counts from its making, inside the running loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_at = asyncio.get_running_loop().time() + seconds

    @property
    def ends_at(self) -> float:
        """By the loop's clock."""
        return self._ends_at

    @property
    def left_s(self) -> float:
        return self._ends_at - asyncio.get_running_loop().time()

    def held(self) -> "_Held":
        """Raises UpstreamTimeout where the block would last beyond it."""
        return _Held(self._ends_at, self._seconds)

    async def bounded(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same chunks, each waited for until then and no longer. A client that reads slowly is not timed here."""
        while True:
            async with self.held():
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk


class _Held:
    """What `asyncio.timeout_at` does, for a third of its cost: every request is held by one."""

    __slots__ = ("_ends_at", "_is_over", "_n_before", "_seconds", "_task", "_timer")

    def __init__(self, ends_at: float, seconds: float) -> None:
        self._ends_at = ends_at
        self._seconds = seconds
        self._is_over = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._n_before = task, task.cancelling()
        self._timer = task.get_loop().call_at(self._ends_at, self._end)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        # Somebody else's cancellation, come meanwhile, is none of ours to take back.
        if self._is_over and self._task.uncancel() <= self._n_before and kind is asyncio.CancelledError:
            raise UpstreamTimeout(f"no whole reply within the {self._seconds:g} s deadline") from None

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()
