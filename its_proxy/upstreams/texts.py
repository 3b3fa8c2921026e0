"""An upstream asked by `/v1/completions` for what a vote otherwise asks by chat completions."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from its_proxy.protocol.completions import as_chat
from its_proxy.upstreams.base import Body, Completion, RawReply, Upstream

# A prompt is no chat: what a plan says of one stays here.
_OF_CHAT = ("messages", "chat_template_kwargs")


@dataclass(frozen=True, slots=True)
class TextUpstream:
    """Sends the `prompt` that a plan's body holds, and reads the text that comes as a message."""

    inner: Upstream

    @property
    def name(self) -> str:
        return self.inner.name

    async def complete(self, body: Body, request_id: str) -> Completion:
        return as_chat(await self.inner.complete(_prompting(body), request_id))

    def stream(self, body: Body, request_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Its events are those of a text completion."""
        return self.inner.stream(_prompting(body), request_id)

    async def models(self) -> Sequence[Mapping[str, Any]]:
        return await self.inner.models()

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        return await self.inner.forward(method, path, body, content_type)

    async def close(self) -> None:
        """The inner one is its owner's to close."""


def _prompting(body: Body) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in _OF_CHAT}
