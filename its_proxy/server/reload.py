"""Watches the catalog in force, and swaps it for a new one when the settings are read again."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.handshake import Verdict
from its_proxy.server.build import rebuild
from its_proxy.server.catalog import Catalog
from its_proxy.server.context import Context
from its_proxy.server.logs import set_level
from its_proxy.server.watch import watch
from its_proxy.settings import Settings
from its_proxy.targets import Target

RETIRE_S = 3600.0
_FIXED = (
    "host", "port", "reuse_port", "workers", "max_body_bytes", "max_connections", "equivalence_workers", "traces",
    "log_format",
)  # fmt: skip
log = structlog.get_logger("its_proxy")


class Reloader:
    """`read` gives the settings anew; `fail` is told what makes going on impossible."""

    def __init__(self, context: Context, read: Callable[[], Settings] | None, fail: Callable[[ItsError], None]) -> None:
        self._context = context
        self._read = read
        self._fail = fail
        self._watch: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to watch the catalog that is in force now, and no other."""
        if self._watch is not None:
            self._watch.cancel()
        self._context.metrics.follow(self._context.catalog.targets)
        self._watch = asyncio.create_task(self._watched(self._context.catalog))

    async def stop(self) -> None:
        """Ends all tasks; upstreams that were retiring are closed."""
        tasks = [task for task in (self._watch, *self._retiring) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def reload(self) -> None:
        """Reads the settings again and puts them into force for new queries; wrong ones change nothing."""
        if self._read is None:
            log.warning("reload refused", reason="this server was not started from settings that can be read again")
            return
        try:
            settings = self._read()
            _refuse_what_needs_a_restart(self._context.settings, settings)
            before = rebuild(self._context, settings)
        except ItsError as error:
            self._context.metrics.reloads.add(1, "refused")
            log.error("reload refused, the old settings stay", reason=str(error))
            return
        self.start()
        set_level(settings.log_level)
        self._context.metrics.reloads.add(1, "done")
        self._keep(_retire(before, self._context.catalog))
        log.info("reloaded", models=len(self._context.catalog.served), aliases=len(self._context.catalog.aliases))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _watched(self, catalog: Catalog) -> None:
        try:
            await watch(catalog, self._on_change)
        except Exception as error:
            log.exception("a defect of its-proxy: the handshakes ended")
            self._fail(ItsError(f"the handshakes ended: {type(error).__name__}"))

    def _on_change(self, target: Target, verdict: Verdict) -> None:
        report = log.warning if verdict.state in ("mismatch", "pending") else log.info
        report("handshake", model=target.model, target=target.upstream.name, state=verdict.state, reason=verdict.reason)
        if verdict.state == "mismatch" and self._context.settings.strict:
            self._fail(ConfigError(f"{target.model}: {verdict.reason}"))


def _refuse_what_needs_a_restart(old: Settings, new: Settings) -> None:
    for field in _FIXED:
        if getattr(old, field) != getattr(new, field):
            raise ConfigError(f"{field} cannot change while the server runs", hint="restart it")
    if (old.tls_cert is None) != (new.tls_cert is None):
        raise ConfigError("TLS cannot be turned on or off while the server runs", hint="restart it")


async def _retire(before: Catalog, now: Catalog) -> None:
    """Closes the upstreams that nobody is sent to any more, once the queries that they still answer have ended."""
    kept = {id(upstream) for upstream in now.upstreams}
    retired = [upstream for upstream in before.upstreams if id(upstream) not in kept]
    names = {id(upstream) for upstream in retired}
    targets = [target for target in before.targets() if id(target.upstream) in names]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_S):
                while any(target.n_in_flight for target in targets):
                    await asyncio.sleep(0.5)
    finally:
        for upstream in retired:
            await upstream.close()
