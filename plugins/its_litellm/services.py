"""Deployments -> services, one for each event loop that asks: connections belong to the loop that opened them."""

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary

from its_litellm.deployment import ItsInfo, Member, read_info
from its_litellm.router import RouterUpstream, proxy_router
from its_proxy.codesign.errors import ConfigError
from its_proxy.handshake import Verdict
from its_proxy.served import Model, Served, check_vote, rules_for
from its_proxy.service import Service
from its_proxy.targets import Target
from its_proxy.upstreams.base import Upstream
from its_proxy.upstreams.http import HttpUpstream

log = logging.getLogger("its_litellm")


class Services:
    """`router`: where deployments are looked for; the proxy's own unless one is given (SDK)."""

    def __init__(self) -> None:
        self.router: Any | None = None
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Service]] = WeakKeyDictionary()

    async def find(self, model: str, api_base: str | None, api_key: str | None, model_info: Any) -> Service:
        """The service of a deployment, opened on first use, and proved before it is returned.

        Raises ConfigError and the ManifestError family for what the configuration gets wrong, ModelUnavailable where
        the live server is not what the manifest says, or not there.
        """
        services = self._of_loop.setdefault(asyncio.get_running_loop(), {})
        key = repr((model, api_base, api_key, model_info))
        if key not in services:
            services[key] = self._open(model, api_base, api_key, read_info(model, model_info))
        await services[key].ready()
        return services[key]

    async def close(self) -> None:
        """Ends what this loop has opened."""
        for service in self._of_loop.pop(asyncio.get_running_loop(), {}).values():
            await service.close()

    def _open(self, model: str, api_base: str | None, api_key: str | None, info: ItsInfo) -> Service:
        models = tuple(self._model(model, member, api_base, api_key) for member in info.checkpoints)
        checkpoint = models[0].checkpoint
        assert checkpoint is not None  # Member.open raises otherwise
        check_vote(f"deployment {model}: model_info.its.vote", info.vote)
        rules = rules_for(checkpoint, info.vote, info.max_n)
        return Service(Served(model, models, rules), rights=frozenset(info.rights), on_change=_tell)

    def _model(self, model: str, member: Member, api_base: str | None, api_key: str | None) -> Model:
        checkpoint = member.open()
        # An ensemble's members are told apart by their folders in replies.
        name = model if not member.targets else "+".join(member.targets)
        targets = tuple(
            Target(name, upstream, served_name, checkpoint)
            for upstream, served_name in self._upstreams(model, member, api_base, api_key)
        )
        return Model(name, checkpoint, targets, member.weight, is_spread=len(targets) > 1)

    def _upstreams(
        self, model: str, member: Member, api_base: str | None, api_key: str | None
    ) -> list[tuple[Upstream, str]]:
        if member.targets:
            router = self.router or proxy_router()
            if router is None:
                raise ConfigError(
                    f"{model}: targets need a router", hint="its_litellm.handler.services.router = router"
                )
            return [(RouterUpstream(router, target), target) for target in member.targets]
        if not api_base:
            raise ConfigError(
                f"deployment {model}: neither api_base nor targets say where {member.manifest} is served",
                hint="litellm_params.api_base: http://gpu:8000/v1",
            )
        return [(HttpUpstream(api_base.removeprefix("http://"), api_base, key=api_key), model)]


def _tell(target: Target, verdict: Verdict) -> None:
    report = log.warning if verdict.state in ("mismatch", "pending") else log.info
    report("handshake of %s at %s: %s: %s", target.model, target.upstream.name, verdict.state, verdict.reason)
