"""Keeps the verdicts on targets true while they serve: which servers have come, gone or changed."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from its_proxy.codesign.errors import UpstreamError, UpstreamUnreachable
from its_proxy.handshake import Verdict
from its_proxy.targets import Target
from its_proxy.upstreams.base import Upstream

OnChange: TypeAlias = Callable[[Target, Verdict], None]


async def watch_targets(targets: Iterable[Target], on_change: OnChange) -> None:
    """Runs until it is cancelled, or until nothing can change any more."""
    by_upstream: dict[int, list[Target]] = {}
    async with asyncio.TaskGroup() as group:
        for target in targets:
            if target.checkpoint is not None:
                by_upstream.setdefault(id(target.upstream), []).append(target)
                group.create_task(target.watch(lambda verdict, target=target: on_change(target, verdict)))  # type: ignore[misc]
        for members in by_upstream.values():
            upstream = members[0].upstream
            # None where no other server can come to stand without this process knowing of it.
            if (poll_s := getattr(upstream, "poll_s", None)) is not None:
                group.create_task(_poll(upstream, members, poll_s, on_change))


async def _poll(upstream: Upstream, targets: Sequence[Target], poll_s: float, on_change: OnChange) -> None:
    """A changed list, or a server that is there again, may hold other weights under the old name."""
    before: frozenset[Any] | None = None
    while True:
        await asyncio.sleep(poll_s * random.uniform(0.9, 1.1))
        try:
            listed = frozenset(map(_identity, await upstream.models()))
        except UpstreamUnreachable as error:
            before = frozenset()  # so that whatever it lists when it is there again is news
            for target in targets:
                _suspect(target, str(error), on_change)
            continue
        except UpstreamError:
            continue  # busy, or odd: no sign that another server stands there
        if listed != before and before is not None:
            for target in targets:
                target.recheck()
        names = {name for name, *_ in listed}
        for target in targets:
            if target.served_name not in names:
                _suspect(target, f"upstream {upstream.name} does not list {target.served_name} any more", on_change)
        before = listed


def _suspect(target: Target, reason: str, on_change: OnChange) -> None:
    if target.suspect(reason):
        on_change(target, target.verdict)


def _identity(card: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells two entries of a model list apart; `created` is the time of asking in vLLM."""
    return (str(card.get("id")), str(card.get("root")), str(card.get("parent")))
