"""Long replies are read a few at a time: however many never end, together they cannot fill the memory.

async with Turn() as turn:
    while chunk := await read():
        body += chunk
        await turn.grown_to(len(body))     # waits here, and the other side waits with it
"""

import asyncio
from types import TracebackType
from weakref import WeakKeyDictionary

LONG_BYTES = 2**17
N_AT_ONCE = 2

_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class Turn:
    """One reply's; short ones never need theirs."""

    def __init__(self) -> None:
        self._place: asyncio.Semaphore | None = None

    async def __aenter__(self) -> "Turn":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        if self._place is not None:
            self._place.release()

    async def grown_to(self, n_bytes: int) -> None:
        """Returns at once, or, where the reply has become long, when few others are."""
        if n_bytes > LONG_BYTES and self._place is None:
            # Memory is the process's, and so are the places; tests have a loop each.
            place = _places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(N_AT_ONCE))
            await place.acquire()
            self._place = place
