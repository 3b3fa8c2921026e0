"""A served model for those who bring a door of their own: plug-ins, a wrapped client, a notebook.

    upstream = HttpUpstream("gpu", "http://gpu:8000/v1")
    service = Service(served_at(upstream, "qwen", open_checkpoint(Path("Qwen-random/"))))
    await service.ready()                                   # the handshake; raises where it does not hold
    reply = await service.exchange({"model": "qwen", "messages": [...]}, "req-1").reply()

A service lives on the event loop that first asked it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.equivalence import Comparer, EquivalenceWorkers
from its_proxy.exchange import NO_FRONT, Exchange, Front
from its_proxy.handshake import PENDING, Verdict
from its_proxy.plan import make_plan
from its_proxy.protocol.chat import read_chat
from its_proxy.served import Model, Served, rules_for
from its_proxy.targets import Target
from its_proxy.upstreams.base import Upstream
from its_proxy.watch import watch_targets

FIRST_VERDICT_S = 60.0
MAX_N = 16


def served_at(
    upstream: Upstream,
    served_name: str,
    checkpoint: Checkpoint,
    *,
    name: str | None = None,
    vote: Mapping[str, Any] = {},
    max_n: int = MAX_N,
) -> Served:
    """One checkpoint at one upstream. `vote`: what overrides the manifest's advice, by the names of VoteRules."""
    name = name or served_name
    target = Target(name, upstream, served_name, checkpoint)
    return Served(name, (Model(name, checkpoint, (target,)),), rules_for(checkpoint, vote, max_n))


def _ignore(target: Target, verdict: Verdict) -> None:
    """For those who log nothing."""


class Service:
    """`rights`: what its callers may override. `on_change` is told of each target's new verdict. `comparer` compares
    answers that are written differently: whoever gives one closes it, by default it is the service's own."""

    def __init__(
        self,
        served: Served,
        *,
        rights: frozenset[str] = frozenset(),
        on_change: Callable[[Target, Verdict], None] = _ignore,
        comparer: Comparer | None = None,
    ) -> None:
        self.served = served
        self.rights = rights
        self._on_change = on_change
        self._workers = EquivalenceWorkers() if comparer is None else None
        self._comparer = comparer or self._workers
        self._watching: asyncio.Task[None] | None = None
        self._has_news = asyncio.Event()

    async def ready(self, within_s: float = FIRST_VERDICT_S) -> None:
        """Waits for the first verdict on every target, and begins to keep them up to date.

        Raises ModelUnavailable where nothing serves, at once on a mismatch, and while it is still pending.
        """
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(within_s):
                while any(target.verdict is PENDING for target in self.served.targets) and not self._watching.done():
                    self._has_news.clear()
                    await self._has_news.wait()
        except TimeoutError:
            pass
        if self._watching.done():
            self._watching.result()  # nothing can change any more, or a defect ended it
        self.served.require_serving()

    def exchange(
        self, body: dict[str, Any], request_id: str, *, salt: str | None = None, front: Front = NO_FRONT
    ) -> Exchange:
        """One chat request, ready to be answered. `salt` keeps its tenant apart in an upstream's prefix cache.

        Raises RequestError for a body that is no chat request.
        """
        return Exchange(
            chat=read_chat(body),
            served=self.served,
            members=self.served.members(salt),
            request_id=request_id,
            rights=self.rights,
            front=front,
            comparer=self._comparer,
        )

    def rewritten(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """For doors that only rewrite: the body as one candidate would be asked, everything else as the client has it.

        Raises as make_plan does, and ConfigError for an ensemble, which has no one way of asking.
        """
        if self.served.is_ensemble:
            raise ConfigError(f"{self.served.name} is an ensemble: its members are asked in different ways")
        chat = read_chat({**body, "its": {**(body.get("its") or {}), "vote": "off"}})
        plan = make_plan(chat, self.served.members(), self.served.rules, self.rights, chat.model)
        return {**chat.body, **plan.members[0].body}

    async def close(self) -> None:
        """Ends the handshakes, the connections and its own workers; the service is not used afterwards."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if self._workers is not None:
            await self._workers.close()
        for upstream in {id(target.upstream): target.upstream for target in self.served.targets}.values():
            await upstream.close()

    async def _watch(self) -> None:
        try:
            await watch_targets(self.served.targets, self._tell)
        finally:
            self._has_news.set()  # whoever waits sees that no verdict will come

    def _tell(self, target: Target, verdict: Verdict) -> None:
        self._has_news.set()
        self._on_change(target, verdict)
