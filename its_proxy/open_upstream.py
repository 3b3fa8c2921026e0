"""Models that nobody configured: whatever one upstream lists, each by the manifest found for it, or passed through."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from its_proxy.codesign.errors import UpstreamError
from its_proxy.discovery import Found, discover
from its_proxy.handshake import PENDING, Verdict
from its_proxy.hub import Hub
from its_proxy.plan import DEADLINE_S, VoteRules
from its_proxy.served import Model, Served, passed_through
from its_proxy.targets import Policy, Target
from its_proxy.upstreams.base import Upstream
from its_proxy.watch import OnChange

LIST_TTL_S = 10.0
log = structlog.get_logger("its_proxy")


class OpenUpstream:
    """`rules` votes for a checkpoint that was found. `roots` and `hub`: where manifests may be looked for."""

    def __init__(
        self,
        upstream: Upstream,
        rules: Callable[[Any], VoteRules],
        *,
        roots: Sequence[Path] = (),
        hub: Hub | None = None,
        policy: Policy,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.upstream = upstream
        self.served: dict[str, Served] = {}
        self._rules = rules
        self._roots = roots
        self._hub = hub
        self._policy = policy
        self._deadline_s = deadline_s
        self._cards: dict[str, Mapping[str, Any]] = {}
        self._found: dict[str, Found] = {}
        self._listed_until = 0.0
        self._problem = ""
        self._listing = asyncio.Lock()
        self._changed = asyncio.Event()

    async def find(self, name: str) -> Served | None:
        """The model of that name; raises UpstreamError where the upstream cannot be asked for its list."""
        await self.refresh()
        return self.served.get(name)

    async def cards(self) -> Mapping[str, Mapping[str, Any]]:
        """The upstream's own cards by name; as last seen while it cannot be asked."""
        try:
            await self.refresh()
        except UpstreamError:
            return {}
        return self._cards

    async def refresh(self, *, at_once: bool = False) -> None:
        """Asks for the list anew every few seconds, by one request for all that wait."""
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if now < self._listed_until and not at_once:
                return
            cards = [card for card in await self.upstream.models() if isinstance(card.get("id"), str)]
            await self._take(cards)
            self._listed_until = now + LIST_TTL_S

    async def renew(self) -> None:
        """Asks at once, and looks at every adapter again: another may have come under the name of a known one."""
        async with self._listing:
            self._found = {name: found for name, found in self._found.items() if not self._cards[name].get("parent")}
        await self.refresh(at_once=True)

    async def run(self, on_change: OnChange) -> None:
        """Looks at the list now and then, and keeps the verdicts on what was found up to date."""
        watching: dict[str, tuple[Served, asyncio.Task[None]]] = {}
        try:
            await self._refreshed()
            while True:
                for name, (served, task) in list(watching.items()):
                    if self.served.get(name) is not served:
                        task.cancel()
                        del watching[name]
                for name, served in self.served.items():
                    if name not in watching and served.checkpoint is not None:
                        [target] = served.targets
                        task = asyncio.create_task(target.watch(lambda v, target=target: on_change(target, v)))  # type: ignore[misc]
                        watching[name] = (served, task)
                await self._pause()
        finally:
            for _, task in watching.values():
                task.cancel()

    async def _pause(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(LIST_TTL_S):
                await self._changed.wait()
        except TimeoutError:
            await self._refreshed()

    async def _refreshed(self) -> None:
        """Who asks for a model is told of an error, too; the log has each once."""
        problem = ""
        try:
            await self.refresh()
        except UpstreamError as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("no list of models", upstream=self.upstream.name, reason=problem)
        self._problem = problem

    async def _take(self, cards: Sequence[Mapping[str, Any]]) -> None:
        """Keeps what has not changed: the same name with the same root is the same model."""
        listed = {card["id"]: card for card in cards}
        known = {
            name: found
            for name, found in self._found.items()
            if name in listed and _root(listed[name]) == _root(self._cards[name]) and not _is_open(found)
        }
        found = await discover(cards, roots=self._roots, hub=self._hub, known=known)
        self.served = {
            name: self.served[name] if found[name] is self._found.get(name) else self._serve(name, found[name])
            for name in listed
        }
        self._cards, self._found = listed, found
        self._changed.set()

    def _serve(self, name: str, found: Found) -> Served:
        checkpoint = found.checkpoint
        if checkpoint is not None:
            log.info("manifest found", model=name, where=found.reason, commit=found.commit)
            target = Target(name, self.upstream, name, checkpoint, policy=self._policy)
            return Served(name, (Model(name, checkpoint, (target,)),), self._rules(checkpoint))
        verdict = PENDING
        if found.error is not None:
            verdict = Verdict("pending" if found.error.is_retryable else "mismatch", found.reason)
        log.info("no manifest", model=name, reason=found.reason)
        target = Target(name, self.upstream, name, None, verdict=verdict)
        return passed_through(name, [target], self._deadline_s)


def _is_open(found: Found) -> bool:
    return found.error is not None and found.error.is_retryable


def _root(card: Mapping[str, Any]) -> tuple[str, str]:
    return (str(card.get("root")), str(card.get("parent")))
