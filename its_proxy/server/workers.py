"""Several servers on one port, for one big machine: a small parent starts them, watches them, and passes signals on.

The kernel gives each client to one of them (SO_REUSEPORT). They share nothing but the port and their metrics: limits
are each one's own. A worker's stdin is a pipe from its parent, and its end is the parent's, however that came about.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from its_proxy.server.port import reserved
from its_proxy.settings import Settings

WORKER_VARIABLE = "ITS_WORKER"
"""How a worker knows that it is one: its number, its port, whether others serve already, and where they meet."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
"""Before a worker that has ended is started again; doubled each time that it did not live long."""
LONG_S = 10.0
_STDIN = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """`number`: from 0, its name in metrics. `is_again`: others serve already, so that it listens once it can answer.
    `folder`: where the workers tell each other their metrics, by a socket each, which is there once it serves."""

    number: int
    port: int
    is_again: bool
    folder: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Worker | None":
        """This process, if it is one."""
        told = environ.get(WORKER_VARIABLE)
        if told is None:
            return None
        number, port, is_again, folder = told.split(":", 3)
        return cls(int(number), int(port), is_again == "1", Path(folder))

    def told(self) -> str:
        return f"{self.number}:{self.port}:{self.is_again:d}:{self.folder}"

    @property
    def is_first(self) -> bool:
        """Whether it speaks for all."""
        return self.number == 0 and not self.is_again

    def on_orphaned(self, end: Callable[[], object]) -> None:
        """`end` when the parent has ended."""
        loop = asyncio.get_running_loop()

        def closed() -> None:
            loop.remove_reader(_STDIN)
            end()

        loop.add_reader(_STDIN, closed)

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.number}.sock"


def run_workers(settings: Settings, say: Callable[[str], None]) -> int:
    """Returns the exit code when the last one has ended. Raises ConfigError where the port cannot be had."""
    with reserved(settings) as port:
        folder = Path(tempfile.mkdtemp(prefix="its-proxy-"))
        try:
            return asyncio.run(_Parent(port.getsockname()[1], folder, say).run(settings.workers))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Parent:
    def __init__(self, port: int, folder: Path, say: Callable[[str], None]) -> None:
        self._port, self._folder, self._say = port, folder, say
        self._command = (sys.executable, "-m", "its_proxy", *sys.argv[1:])
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._is_ending = asyncio.Event()
        self._was_ready = False
        self._code = 0

    async def run(self, n: int) -> int:
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._end, ending)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        async with asyncio.TaskGroup() as group:
            for number in range(n):
                group.create_task(self._keep(number))
        return self._code

    async def _keep(self, number: int) -> None:
        """Starts it again and again, until all are to end."""
        loop, wait_s = asyncio.get_running_loop(), FIRST_WAIT_S
        while not self._is_ending.is_set():
            worker = Worker(number, self._port, self._was_ready, self._folder)
            started_at = loop.time()
            code = await self._run(worker)
            if loop.time() - started_at >= LONG_S:
                wait_s = FIRST_WAIT_S
            self._note(number, code)
            await self._pause(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _run(self, worker: Worker) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, WORKER_VARIABLE: worker.told()},
            process_group=0,  # a terminal's Ctrl-C is the parent's to pass on: twice, it would end everything at once
        )
        self._running[worker.number] = process
        if self._is_ending.is_set():
            process.terminate()
        code = await process.wait()
        del self._running[worker.number]
        self._was_ready |= worker.socket.exists()
        return code

    def _note(self, number: int, code: int) -> None:
        self._was_ready |= any(self._folder.iterdir())
        if self._is_ending.is_set():
            self._code = self._code or abs(code)
        elif code > 0 and not self._was_ready:
            self._code = code  # it has said why it cannot serve, and so would the others
            self._end(signal.SIGTERM)
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._say(f"worker {number} has ended ({how}); another one is started")

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._is_ending.wait()
        except TimeoutError:
            pass

    def _end(self, number: int) -> None:
        self._is_ending.set()
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for process in self._running.values():
            process.send_signal(number)
