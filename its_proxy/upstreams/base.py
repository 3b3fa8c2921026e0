"""What a model server looks like to the rest: one small protocol, whatever stands behind it.

An upstream speaks OpenAI's chat-completions JSON, both ways, so a candidate's reply can reach the
client whole and untouched. `upstreams/http.py` talks to vLLM or any OpenAI server,
`upstreams/embedded.py` runs `transformers` in this process.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from its_proxy.scoped import setting

Body: TypeAlias = Mapping[str, Any]
"""A chat-completions request, ready to send: `model`, `messages` and whatever else the client asked for; or, with a
`prompt` in place of messages, a request for a text completion, which a server may have no route for."""

Completion: TypeAlias = dict[str, Any]
"""A `chat.completion` or `text_completion` object exactly as the upstream sent it, with at least one choice."""


APPLIED_HEADER = "x-its-applied"
APPLIED: ContextVar[str | None] = ContextVar("applied", default=None)
"""The pair that has been applied to what is being sent: upstreams that have layers of their own behind them say so
there (`x-its-applied`), so that a query is rewritten once and voted on once."""


def applied(pair_id: str | None) -> AbstractContextManager[None]:
    """Calls that begin in this block carry the pair's mark."""
    return setting(APPLIED, pair_id)


TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The span that a call belongs to: upstreams that trace, too, are told (W3C trace context)."""


def traced(traceparent: str | None) -> AbstractContextManager[None]:
    """Calls that begin in this block belong to this span."""
    return setting(TRACEPARENT, traceparent)


def is_text(body: Body) -> bool:
    """Whether it asks for a text completion."""
    return "messages" not in body


@dataclass(frozen=True, slots=True)
class RawReply:
    """An answer of a route that is passed through byte for byte."""

    status: int
    content_type: str
    body: bytes


class Upstream(Protocol):
    """Cancelling any of these awaits ends the work behind it: nothing keeps generating for nobody.

    All of them raise the `UpstreamError` family, and nothing else, for what goes wrong behind them.
    """

    @property
    def name(self) -> str:
        """For logs, metrics and replies."""
        ...

    async def complete(self, body: Body, request_id: str) -> Completion:
        """One candidate, asked for plainly (not streamed)."""
        ...

    def stream(self, body: Body, request_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The upstream's server-sent events as bytes, as they come.

        Entering waits for the upstream's status: a refusal is raised there, before the first byte.
        """
        ...

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """The model cards of `GET /v1/models`."""
        ...

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        """Any other route of the allow-list, untouched; `path` is relative to `/v1/`."""
        ...

    async def close(self) -> None:
        """Releases connections and threads; the upstream is not used afterwards."""
        ...


@runtime_checkable
class Started(Upstream, Protocol):
    """One that works in this process, and has to be started."""

    async def start(self) -> None:
        """Raises ConfigError where it cannot."""
        ...
