"""How a route tells what an exchange answers: as chat completions, as Responses, or as texts."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from its_proxy.protocol import completions
from its_proxy.protocol.responses.events import Telling, retold
from its_proxy.protocol.responses.reply import response_of
from its_proxy.protocol.sse import DONE, event


class Dialect(Protocol):
    @property
    def operation(self) -> str:
        """What traces call it."""
        ...

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A plain reply's body."""
        ...

    def events(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """A stream's bytes."""
        ...

    def broken(self, error: dict[str, Any]) -> bytes:
        """What ends a stream that broke, of the error's envelope."""
        ...


class ChatDialect:
    """What an exchange answers is in it already."""

    operation = "chat"

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        return completion

    def events(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        return chunks

    def broken(self, error: dict[str, Any]) -> bytes:
        return b"\n" + event(error) + DONE


class ResponsesDialect:
    """`request`: the body as the client sent it, which a Response repeats in part."""

    operation = "chat"

    def __init__(self, request: Mapping[str, Any], request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._telling = Telling(request, request_id)

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        is_plan = "choices" not in completion  # `explain` asks for no completion
        return completion if is_plan else response_of(self._request, completion, self._request_id)

    async def events(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(retold(chunks, self._telling)) as events:
            async for told in events:
                yield told

    def broken(self, error: dict[str, Any]) -> bytes:
        return self._telling.fail(error["error"])


class TextDialect(ChatDialect):
    """Of a vote over texts. What an upstream sends as a stream of its own is told as it comes."""

    operation = "text_completion"

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        is_plan = "choices" not in completion
        return completion if is_plan else completions.as_text(completion)

    async def events(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield completions.retold(chunk)
