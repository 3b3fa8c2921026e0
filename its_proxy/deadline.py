"""The moment by which one request that is not voted on must have ended, however slowly its upstream talks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

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

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Raises UpstreamTimeout where the block would last beyond it."""
        try:
            async with asyncio.timeout_at(self._ends_at):
                yield
        except TimeoutError:
            raise UpstreamTimeout(f"no whole reply within the {self._seconds:g} s deadline") from None

    async def bounded(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same chunks, each waited for until then and no longer. A client that reads slowly is not timed here."""
        while True:
            async with self.held():
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
