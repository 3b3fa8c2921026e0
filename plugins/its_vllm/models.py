"""The models that this vLLM serves, each with the manifest found beside its weights and the verdict on it."""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

import orjson

from its_proxy.checkpoint import Checkpoint
from its_proxy.codesign.errors import ConfigError, UpstreamError
from its_proxy.equivalence import EquivalenceWorkers
from its_proxy.handshake import PENDING, Verdict
from its_proxy.hub import Hub
from its_proxy.open_upstream import OpenUpstream
from its_proxy.plan import VoteRules
from its_proxy.served import Served, rules_for
from its_proxy.service import FIRST_VERDICT_S
from its_proxy.targets import Policy, Target
from its_vllm.asgi import App, Message, Receive, Scope, Send
from its_vllm.inner import InnerApp
from its_vllm.options import Options

# Every folder: the roots are named by the vLLM of this very process, which has opened them itself.
ROOTS = (Path(os.sep),)
NO_MANIFEST = "no manifest, so its requests pass untouched (its-train writes one, its-proxy manifest init declares one)"
# Below vLLM's own logger, so that its handlers show it.
log = logging.getLogger("vllm.its_vllm")


class Models:
    """`keys`: those that vLLM asks for, none where it serves whoever reaches it. Known from the first scope on."""

    def __init__(self, app: App, options: Options) -> None:
        self._app = app
        self._options = options
        self._open: OpenUpstream | None = None
        self._running: asyncio.Task[None] | None = None
        self._has_news = asyncio.Event()
        self.keys: tuple[str, ...] = ()
        self.inner = InnerApp(app, {})
        self.workers = EquivalenceWorkers()

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application's life, and the handshakes for as long as it lasts."""

        async def started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._begin(scope)
            await send(message)

        try:
            await self._app(scope, receive, started)
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the handshakes and the workers."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await self.workers.close()

    async def find(self, name: str | None, scope: Scope) -> Served | None:
        """The model of that name if it has a manifest, good or bad; without a name the one that vLLM would take.

        Raises UpstreamError where vLLM cannot be asked for its list.
        """
        models = self._begin(scope)
        await models.refresh()
        served = models.served.get(name) if name else _first(models)
        if name and served is None:
            served = await self._unlisted(name, models, scope)
        if served is None or all(target.state == "none" for target in served.targets):
            return None
        with suppress(TimeoutError):  # still pending: whoever asks the model is told so
            async with asyncio.timeout(FIRST_VERDICT_S):
                while any(target.verdict is PENDING for target in served.targets):
                    self._has_news.clear()
                    await self._has_news.wait()
        return served

    async def _unlisted(self, name: str, models: OpenUpstream, caller: Scope) -> Served | None:
        """What vLLM takes a name for that it does not list: an adapter that it loads when it is first asked for, or,
        where it checks no names, its first model. Asked of a route that costs little."""
        if await self.inner.refusal_of(caller) is not None:
            return None
        try:
            await self.inner.forward("POST", "tokenize", orjson.dumps({"model": name, "prompt": "x"}), "")
            await models.refresh(at_once=True)
        except UpstreamError:
            return None
        return models.served.get(name) or _first(models)

    async def renew(self, scope: Scope) -> None:
        """After an adapter has come or gone: nothing may be asked by what was known before."""
        models = self._begin(scope)
        with suppress(UpstreamError):  # who asks for a model is told
            await models.renew()

    def _begin(self, scope: Scope) -> OpenUpstream:
        """At the start of the application, or with the first request where its server tells of no start."""
        if self._open is None:
            args = _args_of(scope)
            self.keys = _keys_of(args)
            self.inner = InnerApp(self._app, _own_scope(scope, self.keys), getattr(args, "revision", None))
            self._open = OpenUpstream(self.inner, self._rules, roots=ROOTS, hub=_hub(), policy=Policy())
            self._running = asyncio.create_task(self._run(self._open))
        return self._open

    async def _run(self, models: OpenUpstream) -> None:
        with suppress(UpstreamError):  # it is asked again, and who asks for a model is told
            await models.refresh()
        for name, served in models.served.items():
            for target in served.targets:
                if target.state == "mismatch" or (target.state == "pending" and target.checkpoint is None):
                    log.error("%s is refused: %s", name, target.verdict.reason)
                elif target.state == "none":
                    log.warning("%s: %s", name, NO_MANIFEST)
        await models.run(self._tell)

    def _rules(self, checkpoint: Checkpoint) -> VoteRules:
        return rules_for(checkpoint, self._options.vote, self._options.max_n)

    def _tell(self, target: Target, verdict: Verdict) -> None:
        self._has_news.set()
        level = {"mismatch": logging.ERROR, "pending": logging.WARNING}.get(verdict.state, logging.INFO)
        log.log(level, "handshake of %s: %s: %s", target.model, verdict.state, verdict.reason)


def _first(models: OpenUpstream) -> Served | None:
    return next(iter(models.served.values()), None)


def _args_of(scope: Scope) -> object:
    """vLLM's own arguments, which it keeps in the application's state."""
    return getattr(getattr(scope.get("app"), "state", None), "args", None)


def _keys_of(args: object) -> tuple[str, ...]:
    """--api-key comes before the variable, as in vLLM."""
    named = getattr(args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
    return tuple(key for key in ([named] if isinstance(named, str) else named) if key)


def _own_scope(scope: Scope, keys: tuple[str, ...]) -> Scope:
    """For calls of our own, with a key of vLLM's own."""
    authorization = [(b"authorization", f"Bearer {keys[0]}".encode())] if keys else []
    kept = {name: scope[name] for name in ("app", "asgi", "root_path", "state") if name in scope}
    own = {"type": "http", "http_version": "1.1", "scheme": "http", "client": None, "server": None}
    return {**kept, **own, "headers": [(b"host", b"localhost"), *authorization]}


def _hub() -> Hub | None:
    """Where a model was named by its repository; vLLM has fetched it, so its cache holds the small files, too."""
    with suppress(ConfigError):
        return Hub()
    return None
