"""Deployments -> services, one for each event loop that asks: connections belong to the loop that opened them."""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from its_litellm.deployment import ItsInfo, Member, read_info
from its_litellm.router import deployments_named, proxy_router
from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.codesign.errors import ConfigError, ModelUnavailable
from its_proxy.discovery import discover
from its_proxy.equivalence import EquivalenceWorkers
from its_proxy.handshake import Verdict
from its_proxy.served import Model, Served, check_vote, ensemble_of, rules_for
from its_proxy.service import Service
from its_proxy.targets import Policy, Target
from its_proxy.upstreams.base import Upstream
from its_proxy.upstreams.http import HttpUpstream

FIRST_VERDICT_S = 20.0
Places: TypeAlias = list[tuple[Upstream, str]]
"""Where a checkpoint runs, and its name there."""
log = logging.getLogger("its_litellm")


@dataclass(frozen=True, slots=True)
class Address:
    """What LiteLLM tells of a deployment: its model without the provider, and the server, if it names one."""

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class _OfLoop:
    """`keeper` closes them when its loop ends, as asyncio.run ends one: by cancelling what still runs."""

    services: dict[tuple[Address, str], "asyncio.Task[Service]"] = field(default_factory=dict)
    workers: EquivalenceWorkers = field(default_factory=EquivalenceWorkers)
    keeper: "asyncio.Task[None] | None" = None


class Services:
    """`router`: where deployments are looked for; the proxy's own unless one is given, as in the SDK."""

    def __init__(self) -> None:
        self.router: Any | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()

    async def find(self, address: Address, model_info: Any) -> Service:
        """The service of a deployment, opened on first use, and proved before it is returned.

        Raises ConfigError and the ManifestError family for what the configuration gets wrong, ModelUnavailable where
        the live server is not what the manifest says, or not there.
        """
        info = read_info(address.model, model_info)
        own = self._own()
        key = (address, info.model_dump_json())
        opening = own.services.get(key)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = own.services[key] = asyncio.create_task(self._open(address, info, own.workers))
        service = await asyncio.shield(opening)
        service.served.require_serving()
        return service

    async def close(self) -> None:
        """Ends what the running loop has opened."""
        own = self._loops.pop(asyncio.get_running_loop(), _OfLoop())
        if own.keeper is not None and own.keeper is not asyncio.current_task():
            own.keeper.cancel()
        for opening in own.services.values():
            opening.cancel()
        for done in await asyncio.gather(*own.services.values(), return_exceptions=True):
            if isinstance(done, Service):
                await done.close()
        await own.workers.close()

    def _own(self) -> _OfLoop:
        own = self._loops.setdefault(asyncio.get_running_loop(), _OfLoop())
        if own.keeper is None:
            own.keeper = asyncio.create_task(self._keep())
        return own

    async def _keep(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.close()
            raise

    async def _open(self, address: Address, info: ItsInfo, workers: EquivalenceWorkers) -> Service:
        check_vote(f"deployment {address.model}: model_info.its.vote", info.vote)
        async with AsyncExitStack() as opened:
            members = [await self._serve(address, member, info, opened) for member in info.members]
            served = members[0]
            if len(members) > 1:
                weights = [member.weight for member in info.members]
                served = ensemble_of(address.model, members, weights, n=info.vote.get("n"), max_n=info.max_n)
            opened.pop_all()  # from here on they are the service's to close
        service = Service(served, rights=frozenset(info.rights), on_change=_tell, comparer=workers)
        with suppress(ModelUnavailable):  # it is watched from now on, and told of when it is asked
            await service.ready(FIRST_VERDICT_S)
        return service

    async def _serve(self, address: Address, member: Member, info: ItsInfo, opened: AsyncExitStack) -> Served:
        places = self._places(address, member)
        for upstream, _ in places:
            opened.push_async_callback(upstream.close)
        checkpoint = await _checkpoint(member, *places[0])
        # In replies, an ensemble's members are told apart by where they run.
        name = address.model if len(info.members) == 1 else "+".join(member.targets) or places[0][1]
        policy = Policy(needs_verified=info.handshake == "require", weights=info.weights)
        targets = tuple(Target(name, upstream, called, checkpoint, policy=policy) for upstream, called in places)
        model = Model(name, checkpoint, targets, is_spread=len(targets) > 1)
        return Served(name, (model,), rules_for(checkpoint, info.vote, info.max_n))

    def _places(self, address: Address, member: Member) -> Places:
        if member.targets:
            router = self.router or proxy_router()
            if router is None:
                raise ConfigError(f"deployment {address.model}: no router has the targets that model_info.its names",
                                  hint="its_litellm.handler.router = router")  # fmt: skip
            return [(one, one.deployment) for target in member.targets for one in deployments_named(router, target)]
        if not address.api_base:
            raise ConfigError(f"deployment {address.model}: neither api_base nor targets say where the model runs",
                              hint="litellm_params.api_base: http://gpu:8000/v1")  # fmt: skip
        served_name = member.model or address.model
        return [(HttpUpstream(served_name, address.api_base, key=address.api_key), served_name)]


async def _checkpoint(member: Member, upstream: Upstream, served_name: str) -> Checkpoint:
    """Raises the ManifestError family; ConfigError where the server's word leads to no manifest."""
    if member.manifest is not None:
        return await asyncio.to_thread(open_checkpoint, member.manifest, allow_one_sided=member.force_pair)
    found = (await discover(await upstream.models(), roots=member.roots, hub=None)).get(served_name)
    if found is not None and found.error is not None:
        raise found.error
    if found is None or found.checkpoint is None:
        reason = found.reason if found is not None else f"the server does not list {served_name}"
        raise ConfigError(f"no manifest for {served_name}: {reason}", hint="model_info: {its: {manifest: FOLDER}}")
    return found.checkpoint


def _tell(target: Target, verdict: Verdict) -> None:
    report = log.warning if verdict.state in ("mismatch", "pending") else log.info
    report(
        "its_litellm: handshake of %s at %s: %s: %s", target.model, target.upstream.name, verdict.state, verdict.reason
    )
