"""The moment by which one request that is not voted on must have ended, however slowly its upstream talks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType

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
    def __init__(self, ends_at: float, seconds: float) -> None:
        self._timeout = asyncio.timeout_at(ends_at)
        self._seconds = seconds

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise UpstreamTimeout(f"no whole reply within the {self._seconds:g} s deadline") from None
