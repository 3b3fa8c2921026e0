"""Long replies are read a few at a time: however many never end, together they cannot fill the memory.

turns = Turns()
async with turns.one() as turn:
    while chunk := await read():
        body += chunk
        await turn.grown_to(len(body))     # waits here, and the other side waits with it
"""

import asyncio
from types import TracebackType
from weakref import WeakKeyDictionary

LONG_BYTES = 2**17
N_AT_ONCE = 2


class Turns:
    """Of those that wait for one another: a server's replies for no other server's."""

    def __init__(self) -> None:
        # Made for the loop that asks: a process may have several, and tests have one each.
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def one(self) -> "Turn":
        return Turn(self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(N_AT_ONCE)))


class Turn:
    """One reply's; short ones never need theirs."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._has_place = False

    async def __aenter__(self) -> "Turn":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        if self._has_place:
            self._places.release()

    async def grown_to(self, n_bytes: int) -> None:
        """Returns at once, or, where the reply has become long, when few others are."""
        if n_bytes > LONG_BYTES and not self._has_place:
            await self._places.acquire()
            self._has_place = True
