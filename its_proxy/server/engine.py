"""vLLM as a process of ours: started for one checkpoint on a loopback port, shown, watched, and ended with its-proxy.

    launch = plan_launch("checkpoints/qwen-random", "qwen-random@3837bb5f", ("--tensor-parallel-size", "8"))
    async with VllmEngine(launch, say=print) as engine:
        await engine.start()
        await engine.until_healthy()
        raise await engine.end()         # why it ended, whenever that is

vLLM runs under `guard.py`, in a process group of its own: a terminal's Ctrl-C does not reach it, and it ends in order
when its-proxy does, however that came about.
"""

import asyncio
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import aiohttp

from its_proxy.checkpoint import read_manifest
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.server.engine_log import cause_of, last_lines, stage_of

KEY_VARIABLE = "VLLM_API_KEY"
"""Where vLLM looks for the key that it asks for. In its environment, not its arguments: those everyone may read."""

# Below those that the kernel hands to outgoing connections: vLLM takes its port some seconds after we choose it.
PORTS = range(20_000, 32_000)
STOP_GRACE_S = 15.0
POLL_S = 0.5
SAY_EVERY_S = 15.0
MAX_LINE = 4000
BURST_S = 30.0  # what was said this long before the end is taken to be about the end

_GUARD = Path(__file__).with_name("guard.py")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What its-proxy decides, each with the reason that its refusal gives.
_OWNED = {
    **dict.fromkeys(("--host", "--port", "--uds"), "its-proxy chooses where vLLM listens"),
    **dict.fromkeys(("--served-model-name",), "its-proxy names it, after its pair; --model chooses the public name"),
    **dict.fromkeys(("--model", "--model-tag"), "it is CHECKPOINT"),
    **dict.fromkeys(("--api-key",), "its-proxy makes a key that nobody else knows"),
    **dict.fromkeys(("--headless", "--grpc"), "its-proxy speaks HTTP with it"),
    **dict.fromkeys(("--ssl-keyfile", "--ssl-certfile"), "nobody but its-proxy asks it, on this machine"),
}
_CONTROL = {code: "�" for code in (*range(32), 127) if chr(code) != "\t"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Nobody but its-proxy may ask it, and that keeps a log of its own.
_OWN_CALL = re.compile(r'INFO: .* - "(GET /health |(GET|POST) /\S* HTTP/\S+" 200)')
_KILLED = "the kernel kills like that when memory runs out: its log (dmesg) would tell"


@dataclass(frozen=True, slots=True)
class Launch:
    """One vLLM server to be: `checkpoint` is a folder's absolute path or a Hub id, `flags` go to vLLM unchanged."""

    checkpoint: str
    served_name: str
    port: int
    flags: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What `--upstream` takes."""
        return f"{self.root}/v1"

    def command(self, vllm: str = "vllm") -> tuple[str, ...]:
        """The whole command line; our own options come last, so that they count. Raises ConfigError."""
        if not hasattr(os, "killpg"):
            raise ConfigError("--engine vllm needs Linux or macOS", hint="start vLLM elsewhere and name it --upstream")
        ours = ("--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", self.served_name)
        return (*find_command(vllm), "serve", self.checkpoint, *self.flags, *ours)


def plan_launch(checkpoint: str, served_name: str, flags: Sequence[str] = ()) -> Launch:
    """A launch on a free port. Raises ConfigError for a flag that is its-proxy's to set."""
    for flag in flags:
        name = flag.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and name in _OWNED:
            raise ConfigError(f"{name} behind --: {_OWNED[name]}", hint="leave it out")
    return Launch(checkpoint, served_name, free_port(), tuple(flags))


def checkpoint_and_name(text: str) -> tuple[str, str]:
    """CHECKPOINT as vLLM gets it, and the public name that it lends: the folder's, or the Hub id whole."""
    folder = Path(text)
    if text and folder.is_dir():
        return os.path.abspath(folder), folder.resolve().name
    if folder.exists() or not _HUB_ID.fullmatch(text):
        raise ConfigError(f"{text} is not a folder", hint="the checkpoint's own folder is meant, or a Hub id: org/name")
    return text, text


def pair_name(name: str, manifest_at: Path | None) -> str:
    """The name to serve under: `NAME@<first 8 of the pair id>`, or NAME without a manifest. Raises ManifestError."""
    manifest = read_manifest(manifest_at) if manifest_at is not None else None
    return f"{name}@{manifest.pair_id[:8]}" if manifest is not None else name


def find_command(vllm: str) -> list[str]:
    """The words of the command `vllm`, its program found in PATH or beside this Python. Raises ConfigError."""
    words = [vllm] if Path(vllm).is_file() else shlex.split(vllm)
    beside = os.path.dirname(sys.executable)
    program = shutil.which(words[0]) or shutil.which(words[0], path=beside) if words else None
    if program is None:
        raise ConfigError(
            f"no command {vllm!r} in PATH or {beside}",
            hint="pip install vllm, or say where it is with --engine-command",
        )
    return [os.path.abspath(program), *words[1:]]


def free_port() -> int:
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigError(f"no free port for vLLM among {PORTS.start} to {PORTS.stop}")


class VllmEngine:
    """The process, from `start` to its end. `say` gets every line to show; `stage` is what it is doing now.

    Raises ConfigError where there is no such command.
    """

    def __init__(
        self,
        launch: Launch,
        command: str = "vllm",
        *,
        start_timeout_s: float | None = None,
        say: Callable[[str], None],
    ) -> None:
        self.launch = launch
        self.stage = "starting"
        self.is_healthy = False
        self._command = launch.command(command)
        self._start_timeout_s = start_timeout_s
        self._show = say
        self._lines: deque[tuple[float, str]] = deque(maxlen=400)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "VllmEngine":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(at_once=kind is not None and issubclass(kind, asyncio.CancelledError))

    def say(self, line: str) -> None:
        """Shows one line; who does not read it any more does not keep vLLM from writing."""
        with suppress(OSError):
            self._show(line)

    async def start(self) -> None:
        """Starts it, and does not wait."""
        self.say(f"starting {shlex.join(self._command)}")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_GUARD), str(STOP_GRACE_S), *self._command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def until_healthy(self, on_stage: Callable[[str], None] = lambda stage: None) -> None:
        """Waits for `/health`. Raises ItsError when it ends before, or after `start_timeout_s`."""
        began = self._now()
        said_at, said = began, ""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), trust_env=False) as http:
            while not await self._answers(http):
                if self._has_ended:
                    raise await self.end()
                now = self._now()
                if self._start_timeout_s is not None and now - began > self._start_timeout_s:
                    hint = f"it was {self.stage}; --engine-start-timeout-s gives it more time"
                    raise ItsError(f"vLLM was not ready within {self._start_timeout_s:g} s", hint=hint)
                if now - said_at >= (POLL_S if self.stage != said else SAY_EVERY_S):
                    said_at, said = now, self.stage
                    on_stage(self.stage)
                    self.say(f"vLLM after {now - began:.0f} s: {self.stage}")
                await asyncio.sleep(POLL_S)
        self.is_healthy = True
        self.say(f"vLLM is ready after {self._now() - began:.0f} s")

    async def end(self) -> ItsError:
        """Waits until it has ended, and tells why; its last lines are shown again, without tracebacks."""
        assert self._process is not None
        code = await self._process.wait()
        await self._read_rest()
        if code < 0:  # the guard itself was killed
            code = 128 - code
            self._kill_orphans()
        lines = [line for at, line in self._lines if self._now() - at < BURST_S]
        self.say("vLLM has ended; its last words, in short:")
        for line in last_lines(lines):
            self.say(f"vllm | {line}")
        cause = cause_of(lines)
        how = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
        when = "" if self.is_healthy else " before it was ready"
        hint = _KILLED if code == 128 + signal.SIGKILL or "died unexpectedly" in cause else ""
        return ItsError(f"vLLM {how}{when}" + (f": {cause}" if cause else ""), hint=hint)

    async def stop(self, *, at_once: bool = False) -> None:
        """Ends it and all its processes, and waits for them: in order, or `at_once`. Not started: nothing to do."""
        if self._process is None:
            return
        self._tell(b"k" if at_once else b"e")
        ended, is_cancelled = asyncio.ensure_future(self._process.wait()), False
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                # Whoever cannot wait may have it hurry; left alone, it would not be waited for by anyone.
                is_cancelled = True
                self._tell(b"k")
        await self._read_rest()
        if is_cancelled:
            raise asyncio.CancelledError

    def _kill_orphans(self) -> None:
        """Those in the dead guard's group, which is all that is left to find them by."""
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, word: bytes) -> None:
        if self._process is not None and self._process.stdin is not None and not self._has_ended:
            with suppress(OSError, RuntimeError):  # it is just ending by itself
                self._process.stdin.write(word)

    @property
    def _has_ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def _answers(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.launch.root}/health") as reply:
                return reply.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Shows what it writes, line by line; a progress bar's intermediate states only tell the stage."""
        assert process.stdout is not None
        pending = b""
        while data := await process.stdout.read(65536):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._heard(line)
            if len(pending) > 16 * MAX_LINE or b"\r" in pending:
                self._note_stage(_text(pending.rstrip(b"\r").rpartition(b"\r")[2]))
                pending = pending[-MAX_LINE:]
        if pending:
            self._heard(pending)

    def _heard(self, data: bytes) -> None:
        line = _text(data.rstrip(b"\r").rpartition(b"\r")[2])
        self._note_stage(line)
        if not _OWN_CALL.match(line):
            self._lines.append((self._now(), line))
            self.say(f"vllm | {line}")

    def _note_stage(self, line: str) -> None:
        if not self.is_healthy and (stage := stage_of(line)) is not None:
            self.stage = stage

    async def _read_rest(self) -> None:
        """What was written until its end; bounded, should a process that we could not find hold the pipe open."""
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=2.0)
            self._reading.cancel()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _text(data: bytes) -> str:
    """A line as it may be shown: bounded, without colours or anything else that steers a terminal."""
    text = _COLOUR.sub("", data.decode("utf-8", "replace")).rstrip().translate(_CONTROL)
    return text if len(text) <= MAX_LINE else text[:MAX_LINE] + "…"
