"""The log: one line an event on stderr, JSON for machines and words for a person. Never prompts, answers or keys.

Whoever writes never waits: lines go to a thread, and are dropped and counted where stderr takes no more of them.
Exceptions are told by their types and places. Their words may be a client's or an upstream's, so they are left out,
and so is whatever a library fills into its messages.
"""

import asyncio
import json
import logging
import os
import select
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, Literal, TextIO, TypeAlias

import orjson
import structlog

Format: TypeAlias = Literal["auto", "json", "text"]

MAX_WAITING = 10_000
"""Lines."""
GATHER_S = 0.02
FLUSH_S = 1.0
MAX_CHAIN, MAX_FRAMES = 8, 40
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
log = structlog.get_logger("its_proxy")


class Sink:
    """Writes to a file descriptor from a thread of its own. `close` gives what still waits a moment to leave."""

    def __init__(self, fd: int | None, max_waiting: int = MAX_WAITING) -> None:
        self.n_dropped = 0
        self._fd = fd
        self._max_waiting = max_waiting
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._ends_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """From any thread, and never waits."""
        if self._lines.qsize() >= self._max_waiting:
            self.n_dropped += 1
        else:
            self._lines.put(line)

    def flush(self) -> None:
        """The thread writes as soon as it can."""

    def close(self, within_s: float = FLUSH_S) -> None:
        self._ends_at = monotonic() + within_s
        self._lines.put(None)
        self._thread.join(within_s)

    def _run(self) -> None:
        while (lines := self._next_lines()) and not self._is_over():
            try:
                self._write_whole("".join(lines).encode("utf-8", "backslashreplace"))
            except OSError:
                self.n_dropped += len(lines)  # nobody reads there any more; they may again, as behind a log rotation

    def _next_lines(self) -> list[str]:
        """What has gathered in a moment since the first line; empty at the end. A thread that woke for each line would
        take the interpreter from the event loop each time, at a quarter of a busy server's cost."""
        lines: list[str] = []
        line = self._lines.get()
        if line is not None:
            sleep(GATHER_S)
        while line is not None:
            lines.append(line)
            try:
                line = self._lines.get_nowait()
            except Empty:
                return lines
        if lines:
            self._lines.put(None)  # for the next time
        return lines

    def _write_whole(self, data: bytes) -> None:
        if self._fd is None:
            raise OSError
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Another process has made the terminal that we share non-blocking.
                select.select([], [self._fd], [], 1.0)
                if self._is_over():
                    raise

    def _is_over(self) -> bool:
        """From then on its number may be another file's."""
        return self._ends_at is not None and monotonic() > self._ends_at


def fill_standard_descriptors() -> None:
    """Where stdin, stdout or stderr is closed, the next file or connection would take its number, and get what C code
    writes to it; uvloop's loop aborts the process when it closes such a number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


_current: Sink | None = None
_is_json = False
_least_level = logging.INFO


def tell_request(**fields: Any) -> None:
    """What `log.info("request", **fields)` does. Every request has such a line, so one of JSON is made here, as
    structlog would make it, in a quarter of the time."""
    if _current is not None and _is_json and _least_level <= logging.INFO:
        event = {**fields, "event": "request", "level": "info", "timestamp": datetime.now(UTC)}
        try:
            line = orjson.dumps(event, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            pass  # half a character, which structlog's way can write
        else:
            _current.write(line.decode())
            return
    log.info("request", **fields)


def say(line: str) -> None:
    """A line that is no event, for a person; in order with the log where there is one."""
    if _current is not None:
        _current.write(f"{line}\n")
    elif sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def writing_logs(level: str, format: Format = "auto") -> Iterator[Sink]:
    """This process's log while the block runs: ours, the libraries', and what nobody catches."""
    global _current
    sink = _current = Sink(_descriptor(sys.stderr))
    hooks = threading.excepthook, sys.unraisablehook, warnings.showwarning
    _configure(sink, level, format)
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable
    warnings.showwarning = _on_warning
    handler = _OfLibraries()
    logging.basicConfig(handlers=[handler], level=_level_of_libraries(level), force=True)
    try:
        yield sink
    finally:
        logging.getLogger().removeHandler(handler)
        threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks
        _current = None
        sink.close()


def set_level(level: str) -> None:
    """Of the log that is being written; nothing where none is."""
    global _least_level
    if _current is not None:
        _least_level = _LEVELS[level]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))
        logging.getLogger().setLevel(_level_of_libraries(level))


def configure_logs(level: str) -> None:
    """For commands that only report a few events beside what they print."""
    _configure(sys.stderr, level, "auto")


def on_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that no task's owner has looked at. What asyncio says of it is cut before anybody's arguments."""
    said = str(context.get("message", "")).partition("<")[0].partition("(")[0].strip()
    log.error("a defect of its-proxy", where=said, exc_info=context.get("exception"))


def told(error: BaseException) -> str:
    """Types and places of an exception and of what led to it, without any of their words."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < MAX_CHAIN:
        frames = traceback.format_list(traceback.extract_tb(seen.__traceback__)[-MAX_FRAMES:])
        grouped = [told(part) for part in seen.exceptions[:3]] if isinstance(seen, BaseExceptionGroup) else []
        parts.append("".join([*frames, f"{type(seen).__module__}.{type(seen).__qualname__}", *_indented(grouped)]))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\nafter\n".join(parts)


def _indented(parts: list[str]) -> list[str]:
    return ["\n  | " + part.replace("\n", "\n  | ") for part in parts]


def _exception_told(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Puts `exc_info` into words."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        event["exception"] = told(error)
    return event


def _configure(out: Any, level: str, format: Format) -> None:
    global _is_json, _least_level
    _is_json = format == "json" or (format == "auto" and not _is_terminal())
    words = structlog.dev.ConsoleRenderer(colors=_is_terminal() and not os.environ.get("NO_COLOR"))
    last: Any = structlog.processors.JSONRenderer(_json) if _is_json else words
    _least_level = _LEVELS[level]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exception_told,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
    )


def _json(event: structlog.typing.EventDict, **options: Any) -> str:
    try:
        return orjson.dumps(event, default=options["default"]).decode()
    except TypeError:  # half a character, a number of many digits
        return json.dumps(event, default=options["default"])


def _level_of_libraries(level: str) -> int:
    return max(_LEVELS[level], logging.INFO)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _descriptor(file: TextIO | None) -> int | None:
    """None where it was closed before this program began: another file may have taken its number since."""
    try:
        return file.fileno() if file is not None else None
    except (OSError, ValueError):
        return None


# -- what others log ---------------------------------------------------------------------------------------------------


class _OfLibraries(logging.Handler):
    """Events of Python's own logging: what is said before anything is filled in, and where."""

    def emit(self, record: logging.LogRecord) -> None:
        # A message without arguments may be filled in already.
        says = {"says": record.msg} if record.args and isinstance(record.msg, str) else {}
        where = f"{Path(record.pathname).name}:{record.lineno}"
        error = record.exc_info[1] if record.exc_info else None
        report = getattr(log, record.levelname.lower(), log.error)
        report("a library says", library=record.name, where=where, **says, exc_info=error)


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log.warning("a warning of Python's", category=category.__name__, where=f"{Path(filename).name}:{lineno}")


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    log.error("a defect of its-proxy: a thread ended", exc_info=args.exc_value)


def _on_unraisable(args: "sys.UnraisableHookArgs") -> None:
    log.error("a defect of its-proxy, found while tidying up", exc_info=args.exc_value)
