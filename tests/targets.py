"""Upstreams that answer as they are told, and targets at them."""

from contextlib import asynccontextmanager
from typing import Any

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import UpstreamError, UpstreamUnreachable
from its_proxy.handshake import Verdict
from its_proxy.targets import Target
from tests.serving import manifest, write_checkpoint

VERIFIED = Verdict("verified", "as recorded")
REFUSED = UpstreamUnreachable("gone")
BODY = {"messages": [{"role": "user", "content": "2 + 5?"}]}


class Scripted:
    """An upstream that answers or fails as it is told, and keeps what it was sent."""

    takes_cache_salt = False

    def __init__(self, name: str, *errors: UpstreamError | None) -> None:
        self.name = name
        self.errors = list(errors)
        self.bodies: list[dict[str, Any]] = []

    async def complete(self, body, request_id):
        self.bodies.append(dict(body))
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return {"choices": [{"message": {"content": self.name}}]}

    @asynccontextmanager
    async def stream(self, body, request_id):
        await self.complete(body, request_id)

        async def chunks():
            yield self.name.encode()

        yield chunks()

    async def models(self):
        return [{"id": "m"}]

    async def forward(self, method, path, body, content_type):
        raise self.errors.pop(0)


def checkpoint_in(folder, strategy="random"):
    return open_checkpoint(write_checkpoint(folder, manifest(strategy)))


def target_at(upstream, checkpoint=None, verdict=VERIFIED, **fields):
    return Target("m", upstream, "m@pair", checkpoint, verdict=verdict, **fields)


async def fail_with(target, *errors):
    for error in errors:
        target.upstream.errors = [error]
        with pytest.raises(type(error)):
            await target.complete(BODY, "r")
