"""How often a call that failed may be made once more, so that an outage is not made worse by those who wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SHARE = 0.2
MOST_SAVED = 10.0


class RetryBudget:
    """Every first try pays a fifth of a second one, and ten at most are saved up: over any time the tries are no more
    than 1.2 times the calls, and ten."""

    def __init__(self) -> None:
        self._saved = MOST_SAVED

    def earn(self) -> None:
        self._saved = min(MOST_SAVED, self._saved + SHARE)

    def spend(self) -> bool:
        """Whether one more second try can be paid."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


_ONCE: ContextVar[bool] = ContextVar("once", default=False)


@contextmanager
def tried_once(is_so: bool = True) -> Iterator[None]:
    """Calls that begin in this block are not made again by the upstream itself: whoever makes them knows a better
    place for a second try, or this is one."""
    token = _ONCE.set(is_so)
    try:
        yield
    finally:
        _ONCE.reset(token)


def is_tried_once() -> bool:
    return _ONCE.get()
