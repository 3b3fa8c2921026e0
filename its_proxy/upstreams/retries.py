"""How often a call that failed may be made once more, so that an outage is not made worse by those who wait for it."""

from contextlib import AbstractContextManager
from contextvars import ContextVar

from its_proxy.scoped import setting

SHARE = 0.1
SAVED_AT_ONE = 10.0
SAVED_BETWEEN = 64.0
"""Between the targets of one model: eight votes of eight candidates may find their target busy in the same moment."""

MOST_OF_ONE_QUERY = 3
"""At servers that refused: that is mostly about their load, and more of the query's candidates would only add to it."""


class RetryBudget:
    """Every first try pays a tenth of a second one, and `most_saved` at most are saved up: over any time the tries are
    no more than 1.1 times the calls, and what was saved."""

    def __init__(self, most_saved: float = SAVED_AT_ONE) -> None:
        self._most_saved = self._saved = most_saved

    def earn(self) -> None:
        if self._saved < self._most_saved:  # mostly it is all there
            self._saved = min(self._most_saved, self._saved + SHARE)

    def spend(self) -> bool:
        """Whether one more second try can be paid."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


_ONCE: ContextVar[bool] = ContextVar("once", default=False)


def tried_once(is_so: bool = True) -> AbstractContextManager[None]:
    """Calls that begin in this block are not made again by the upstream itself: whoever makes them knows a better
    place for a second try, or this is one."""
    return setting(_ONCE, is_so)


def is_tried_once() -> bool:
    return _ONCE.get()


_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


def one_query() -> AbstractContextManager[None]:
    """Calls that begin in this block, in whatever tasks, are candidates of one query."""
    return setting(_left, [MOST_OF_ONE_QUERY])


def may_try_again() -> bool:
    """Whether the query has a second try left at a server that refused it; takes it."""
    left = _left.get()
    if left is None:
        return True
    left[0] -= 1
    return left[0] >= 0
