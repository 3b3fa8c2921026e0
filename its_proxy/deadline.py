"""The moment by which one request must have ended, however slowly its upstreams talk.

All requests of a loop have one timer together, which looks twenty times a second: to set and take back one each was a
fortieth of a request.
"""

import asyncio
from typing import Any

from its_proxy.codesign.errors import UpstreamTimeout

LOOK_S = 0.05
"""By so much a request may last longer than its deadline."""


class Deadline:
    """Counts from its making, inside the running loop."""

    __slots__ = ("_ends_at", "_is_over", "_n_before", "_seconds", "_task", "_watch")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watch = _watch_of(asyncio.get_running_loop())
        self._ends_at = self._watch.loop.time() + seconds
        self._task: asyncio.Task[Any] | None = None
        self._is_over = False

    @property
    def ends_at(self) -> float:
        """By the loop's clock."""
        return self._ends_at

    @property
    def left_s(self) -> float:
        return self._ends_at - self._watch.loop.time()

    def held(self) -> "Deadline":
        """Raises UpstreamTimeout where the block would last beyond it: one block at a time, in whatever tasks."""
        return self

    # What `asyncio.timeout_at` does, for a fraction of its cost: every request is held by one.

    def __enter__(self) -> None:
        watch, task = self._watch, asyncio.current_task(self._watch.loop)
        assert task is not None
        self._task, self._n_before = task, task.cancelling()
        watch.held.add(self)
        if watch.timer is None:
            watch.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._watch.held.discard(self)
        task, self._task = self._task, None
        if not self._is_over:
            return
        self._is_over = False
        # Somebody else's cancellation, come meanwhile, is none of ours to take back.
        if task and task.uncancel() <= self._n_before and kind is asyncio.CancelledError:
            raise UpstreamTimeout(f"no whole reply within the {self._seconds:g} s deadline") from None

    def end(self) -> None:
        """The block is cancelled, once."""
        if self._task is not None and not self._is_over:
            self._is_over = True
            self._task.cancel()


class _Watch:
    """Looks after the blocks that deadlines hold in one loop, while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.held: set[Deadline] = set()
        self.timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.timer = self.loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for deadline in [deadline for deadline in self.held if deadline.ends_at <= now]:
            deadline.end()
        self.timer = None
        if self.held:
            self.begin()


_latest: _Watch | None = None


def _watch_of(loop: asyncio.AbstractEventLoop) -> _Watch:
    """The latest loop's is kept; where several take turns, each begins a watch of its own again, which does no harm."""
    global _latest
    watch = _latest
    if watch is None or watch.loop is not loop:
        watch = _latest = _Watch(loop)
    return watch
