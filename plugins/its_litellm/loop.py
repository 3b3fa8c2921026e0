"""An event loop in a thread of its own, for callers that have none: begun by the first call, ended with the process."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, suppress
from queue import SimpleQueue
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _End:
    """After the last item, with what went wrong, if anything did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class BackgroundLoop:
    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result; an interrupt here cancels the work there."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[_Result, None]) -> Iterator[_Result]:
        """The items one by one, made by one task; leaving the iteration ends it."""
        arrived: SimpleQueue[Any] = SimpleQueue()

        async def make() -> None:
            error: BaseException | None = None
            try:
                async with aclosing(items):
                    async for item in items:
                        arrived.put(item)
            except BaseException as caught:
                error = caught
                raise
            finally:
                arrived.put(_End(error))

        making = asyncio.run_coroutine_threadsafe(make(), self._started())
        try:
            while not isinstance(item := arrived.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            making.cancel()
            with suppress(BaseException):  # told above, or left by choice
                making.exception()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="its_litellm", daemon=True).start()
        return self._loop
