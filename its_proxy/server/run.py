"""Runs the server: listens, watches the handshakes, and ends in order on a signal or a fatal mismatch."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog
from aiohttp import web

from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.handshake import Verdict
from its_proxy.server.app import create_runner
from its_proxy.server.build import build_context
from its_proxy.server.context import Context
from its_proxy.settings import Settings
from its_proxy.upstreams.embedded import EmbeddedUpstream

log = structlog.get_logger("its_proxy")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def run(settings: Settings, on_ready: Callable[[str, Context], None]) -> None:
    """Serves until a signal ends it. Raises ItsError for what makes serving impossible.

    `on_ready` gets the base URL once the port is open and, for embedded models, the engine is loaded.
    """
    _configure_logs(settings.log_level)
    context = build_context(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(context, on_ready))


async def _serve(context: Context, on_ready: Callable[[str, Context], None]) -> None:
    ending: asyncio.Future[ItsError | None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not ending.done():
            ending.set_result(None)

    _on_signals(end)
    settings = context.settings
    runner = create_runner(context)
    await runner.setup()
    watch: asyncio.Task[None] | None = None
    try:
        url = await _listen(runner, settings)
        await _start_engines(context)
        watch = asyncio.create_task(_watch(context, ending))
        on_ready(url, context)
        failure = await ending
        context.is_draining = True
        if failure is not None:
            raise failure
    finally:
        if watch is not None:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        await runner.cleanup()
        await context.catalog.close()


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    site = web.TCPSite(runner, settings.host, settings.port, reuse_address=True)
    try:
        await site.start()
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or error
        hint = "another program has the port; choose one with --port" if is_taken else "choose another --host or --port"
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {reason}", hint=hint) from None
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


async def _start_engines(context: Context) -> None:
    for upstream in context.catalog.upstreams:
        if isinstance(upstream, EmbeddedUpstream):
            await upstream.start()


async def _watch(context: Context, ending: "asyncio.Future[ItsError | None]") -> None:
    """Runs the handshakes; under `strict` a mismatch ends the server."""

    def on_change(model: str, verdict: Verdict) -> None:
        context.metrics.set_handshake(model, verdict.state)
        report = log.warning if verdict.state in ("mismatch", "pending") else log.info
        report("handshake", model=model, state=verdict.state, reason=verdict.reason)
        if verdict.state == "mismatch" and context.settings.strict and not ending.done():
            hint = "the manifest and the live server disagree"
            ending.set_result(ConfigError(f"{model}: {verdict.reason}", hint=hint))

    for name, served in context.catalog.served.items():
        if not served.is_ensemble:
            context.metrics.set_handshake(name, served.handshakes[0].state)
    try:
        await context.catalog.watch(on_change)
    except Exception as error:
        log.exception("a defect of its-proxy: the handshakes ended")
        if not ending.done():
            ending.set_result(ItsError(f"the handshakes ended: {error}"))


def _on_signals(end: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
            loop.add_signal_handler(number, end)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _configure_logs(level: str) -> None:
    """One line an event on stderr: for a person at a terminal in words, else JSON. Never prompts, answers or keys."""
    is_terminal = sys.stderr.isatty()
    last: Iterable[structlog.typing.Processor] = (
        # Plain tracebacks: the rich ones show local variables, prompts and keys among them.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
