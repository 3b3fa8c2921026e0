"""Runs the server: listens, watches the handshakes, and ends in order on a signal or a fatal mismatch."""

import asyncio
import gc
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, closing, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.handshake import NO_MANIFEST, PENDING, Verdict
from its_proxy.server.app import App
from its_proxy.server.build import build_context
from its_proxy.server.context import Context
from its_proxy.server.descriptors import connections_for, raise_limit
from its_proxy.server.lag import watching_lag
from its_proxy.server.life import Ending, leave
from its_proxy.server.listener import Site
from its_proxy.server.logs import fill_standard_descriptors, on_loop_exception, writing_logs
from its_proxy.server.memory import give_back_freed
from its_proxy.server.port import cannot_listen
from its_proxy.server.reload import Reloader
from its_proxy.server.traces import open_traces
from its_proxy.settings import QUICK_UPSTREAM, Settings
from its_proxy.targets import FIRST_RETRY_S, Target
from its_proxy.upstreams.base import Started

if TYPE_CHECKING:
    from its_proxy.server.engine import VllmEngine
    from its_proxy.server.workers import Worker

log = structlog.get_logger("its_proxy")
GC_AFTER = 10_000


def run(
    settings: Settings,
    on_ready: Callable[[str, Context], None],
    read: Callable[[], Settings] | None = None,
    engine: "VllmEngine | None" = None,
    worker: "Worker | None" = None,
) -> None:
    """Serves until a signal ends it; a second one ends it at once. Raises ItsError for what makes serving impossible.

    `on_ready` gets the base URL once the port is open and the engine, vLLM or the embedded one, is loaded.
    `read` gives the settings anew when SIGHUP asks for it. `worker`: which of several on one port this is.
    """
    if settings.reuse_port and engine is not None:
        raise ConfigError("reuse_port: two servers cannot start vLLM side by side", hint="leave it out")
    fill_standard_descriptors()
    give_back_freed()
    with ExitStack() as stack:
        sink = stack.enter_context(writing_logs(settings.log_level, settings.log_format))
        context = build_context(settings)
        context.metrics.follow_log(lambda: sink.n_dropped)
        if worker is not None:
            from its_proxy.server.siblings import Siblings

            context.siblings = Siblings(worker, context.metrics.registry)
        if not context.workers.is_symbolic:
            log.info("answers are compared by normal form only", hint="pip install 'its-proxy[math]'")
        if settings.traces:
            context.traces = stack.enter_context(closing(open_traces()))
            context.metrics.follow_traces(context.traces)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            try:
                runner.run(_serve(context, on_ready, read, engine, worker))
            except asyncio.CancelledError:
                raise ItsError("ended at once by a further signal; what was in flight is lost") from None


async def _serve(
    context: Context,
    on_ready: Callable[[str, Context], None],
    read: Callable[[], Settings] | None,
    engine: "VllmEngine | None",
    worker: "Worker | None",
) -> None:
    ending = Ending()
    reloader = Reloader(context, read, ending.end)
    _on_signals(ending.on_signal, reloader.reload)
    if worker is not None:
        worker.on_orphaned(ending.end)
    asyncio.get_running_loop().set_exception_handler(on_loop_exception)
    # vLLM ends last: until then it may be needed for the answers in flight.
    async with engine or nullcontext(), watching_lag(context.metrics.lag.observe), AsyncExitStack() as stack:
        stack.push_async_callback(context.catalog.close)
        stack.push_async_callback(context.workers.close)
        site = _site(context, worker)
        stack.push_async_callback(site.close)
        stack.push_async_callback(reloader.stop)
        if waits := context.settings.reuse_port or (worker is not None and worker.is_again):
            await _start(context, reloader)
            await _until_known(context, ending)
        if ending.is_wanted:
            pass  # before anybody could connect
        elif engine is None:
            url = await _listen(site, context)
            if not waits:
                await _start(context, reloader)
            if context.siblings is not None:
                await context.siblings.start()
                stack.push_async_callback(context.siblings.stop)
            if worker is None or worker.is_first:
                on_ready(url, context)
        else:
            _hold(context, f"vLLM is {engine.stage}")
            url = await _listen(site, context)
            await _start_engines(context)
            engine.say(f"its-proxy listens at {url}, and is not ready before vLLM is")
            work = _watch_engine(engine, context, reloader, partial(on_ready, url, context), ending.end)
            watching = asyncio.create_task(work)
            stack.callback(watching.cancel)
        _forget_the_start()
        last = await ending.wanted()
        assert last is not None
        if site.listener is not None:
            await leave(last, site, context)
        if last.failure is not None:
            raise last.failure


def _forget_the_start() -> None:
    """What starting has made stays as long as the process does. A collector that looked at it again and again would
    hold the event loop for some 35 ms each time. What requests make is mostly gone before it looks, so it looks less
    often than after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_AFTER)


async def _start(context: Context, reloader: Reloader) -> None:
    await _start_engines(context)
    reloader.start()


async def _until_known(context: Context, ending: Ending) -> None:
    """Another server may have the port: it keeps all clients until this one knows what it can answer."""
    while not context.is_ready:
        if await ending.wanted(within_s=0.05) is not None:
            return


async def _watch_engine(
    engine: "VllmEngine",
    context: Context,
    reloader: Reloader,
    on_ready: Callable[[], None],
    end: Callable[[ItsError], None],
) -> None:
    """Starts vLLM, opens its models when it answers, and ends the server when it ends. The port is open all along."""
    others = [target for target in context.catalog.targets() if target.upstream.name != QUICK_UPSTREAM]
    try:
        await engine.start()
        if others:
            reloader.start()
        await engine.until_healthy(lambda stage: _hold(context, f"vLLM is {stage}"))
        for target in _engine_targets(context):
            target.verdict = NO_MANIFEST if target.checkpoint is None else PENDING
            target.retry_in_s = FIRST_RETRY_S
        reloader.start()
        on_ready()
        end(await engine.end())
    except ItsError as error:
        end(error)
    except Exception as error:
        log.exception("a defect of its-proxy: vLLM is not watched any more")
        end(ItsError(f"vLLM is not watched any more: {type(error).__name__}"))


def _hold(context: Context, reason: str) -> None:
    for target in _engine_targets(context):
        target.verdict = Verdict("pending", reason)
        target.retry_in_s = 5.0  # what clients are told to wait


def _engine_targets(context: Context) -> list[Target]:
    return [target for target in context.catalog.targets() if target.upstream.name == QUICK_UPSTREAM]


def _site(context: Context, worker: "Worker | None") -> Site:
    settings = context.settings
    n_upstream = sum(upstream.max_connections for upstream in settings.upstreams.values())
    n_connections = connections_for(raise_limit(), n_upstream, settings.max_connections)
    return Site(App(context), settings.host, settings.port if worker is None else worker.port, n_connections)


async def _listen(site: Site, context: Context) -> str:
    """The URL that its clients use."""
    try:
        host, port = await site.start()
    except OSError as error:
        raise cannot_listen(context.settings, error) from None
    scheme = "http" if context.tls is None else "https"
    return f"{scheme}://[{host}]:{port}/v1" if ":" in host else f"{scheme}://{host}:{port}/v1"


async def _start_engines(context: Context) -> None:
    for upstream in context.catalog.upstreams:
        if isinstance(upstream, Started):
            await upstream.start()


def _on_signals(end: Callable[[int], object], reload: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError, AttributeError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        loop.add_signal_handler(signal.SIGHUP, reload)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
