"""Keeps worker processes warm, gives each one pair at a time, and kills it when that pair takes too long."""

import asyncio
import importlib.util
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter, OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast, get_args

from its_proxy.equivalence.expressions import expression_of
from its_proxy.voting.answers import Answer, Form, proven_different, same

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

Verdict: TypeAlias = Literal[
    "equal", "different", "unproven", "refused", "timeout", "exhausted", "crashed", "busy", "unavailable"
]
"""Only `equal` merges. `refused`: not in the grammar, or too much work; `timeout`: killed at its deadline; `exhausted`:
its memory was not enough; `crashed`: its worker ended by itself or by another's hand; `busy`: too many pairs are
waiting, or no worker was free in time; `unavailable`: sympy is not installed."""

_LASTING = frozenset(("equal", "different", "unproven", "timeout", "exhausted"))
"""What a second try would say again; the others depend on the moment."""
_WORKER = Path(__file__).with_name("worker.py")
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment; the rest, keys for instance, is none of a worker's business."""


@dataclass(frozen=True, slots=True)
class Limits:
    n_workers: int = 1
    pair_s: float = 0.3
    """A worker that needs longer for one pair is killed."""
    wait_s: float = 2.0
    """How long a pair may wait for a free worker; starting one takes a second."""
    start_s: float = 30.0
    max_pending: int = 64
    max_cached: int = 4096
    max_forms: int = 8
    """Of one vote; the pairs of the first so many different answers are compared."""
    backoff_s: tuple[float, ...] = (0.0, 0.1, 1.0, 10.0)
    """Before a start, by how many starts in a row have failed."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The verdicts on the pairs of one vote; `equivalent` is what `majority_vote` asks."""

    verdicts: Mapping[frozenset[Form], Verdict] = field(default_factory=dict)

    def equivalent(self, first: Answer, second: Answer) -> bool:
        return self.verdicts.get(frozenset((first.form, second.form))) == "equal"

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs got which verdict: what a reply reports."""
        return dict(Counter(self.verdicts.values()))


@dataclass(frozen=True, slots=True)
class _Job:
    line: bytes
    verdict: asyncio.Future[Verdict]


class EquivalenceWorkers:
    """`async with` starts processes in the background and leaves none behind; nothing here blocks the event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.is_symbolic = importlib.util.find_spec("sympy") is not None
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._n_pending = 0
        self._cache: OrderedDict[frozenset[Form], Verdict] = OrderedDict()
        self._workers: list[_Worker] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    async def __aenter__(self) -> Self:
        if not self.is_symbolic:
            log.warning(
                "answers are equal by normal form only (pip install its-proxy[math] compares them symbolically)"
            )
            return self
        self._workers = [_Worker(self.limits) for _ in range(self.limits.n_workers)]
        self._tasks = [asyncio.create_task(worker.serve(self._jobs)) for worker in self._workers]
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._workers = [], []

    async def compare_all(self, answers: Sequence[Answer]) -> Comparisons:
        """Each pair of different forms that are not proven different."""
        distinct = list({answer.form: answer for answer in answers}.values())[: self.limits.max_forms]
        pairs = [pair for pair in combinations(distinct, 2) if not proven_different(*pair)]
        verdicts = await asyncio.gather(*(self.compare(*pair) for pair in pairs))
        return Comparisons({_key(*pair): verdict for pair, verdict in zip(pairs, verdicts, strict=True)})

    async def compare(self, first: Answer, second: Answer) -> Verdict:
        if same(first, second):
            return "equal"
        if proven_different(first, second):
            return "different"
        if not self._tasks:
            return "unavailable"
        key = _key(first, second)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        verdict = await self._compared(first.form, second.form)
        if verdict in _LASTING:
            self._cache[key] = verdict
            if len(self._cache) > self.limits.max_cached:
                self._cache.popitem(last=False)
        return verdict

    async def _compared(self, first: Form, second: Form) -> Verdict:
        expressions = expression_of(first), expression_of(second)
        if expressions[0] is None or expressions[1] is None:
            return "refused"
        if self._n_pending >= self.limits.max_pending:
            return "busy"
        line = json.dumps([expressions[0].wire(), expressions[1].wire()]).encode() + b"\n"
        return await self._proved(line)

    async def _proved(self, line: bytes) -> Verdict:
        job = _Job(line, asyncio.get_running_loop().create_future())
        self._n_pending += 1
        try:
            self._jobs.put_nowait(job)
            async with asyncio.timeout(self.limits.wait_s):
                return await job.verdict
        except TimeoutError:
            return "busy"
        finally:
            self._n_pending -= 1


def _key(first: Answer, second: Answer) -> frozenset[Form]:
    return frozenset((first.form, second.form))


class _Worker:
    """One process at a time, started again whenever it has ended."""

    def __init__(self, limits: Limits) -> None:
        self.process: Process | None = None
        self._limits = limits

    async def serve(self, jobs: asyncio.Queue[_Job]) -> None:
        n_failed = 0
        while True:
            await asyncio.sleep(self._limits.backoff_s[min(n_failed, len(self._limits.backoff_s) - 1)])
            try:
                process = await _to_its_end(self._start())
                is_ready = await self._answer(process, self._limits.start_s) == "ready"
                n_failed = 0 if is_ready else n_failed + 1
                while is_ready and (job := await _next_job(process, jobs)) is not None:
                    is_ready = await self._work_on(process, job)
            except OSError as error:  # no process or no descriptor is left for it
                n_failed += 1
                log.warning("no equivalence worker could be started: %s", error)
            finally:
                await self._end()

    async def _start(self) -> Process:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        command = (sys.executable, "-P", str(_WORKER), str(os.getpid()))
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
        )
        return self.process

    async def _work_on(self, process: Process, job: _Job) -> bool:
        """Whether the process may go on to another pair."""
        assert process.stdin is not None
        with suppress(ConnectionError):  # then it is about to be found dead
            process.stdin.write(job.line)
        word = await self._answer(process, self._limits.pair_s)
        verdict = cast(Verdict, word) if word in get_args(Verdict) else "crashed"
        if not job.verdict.done():
            job.verdict.set_result(verdict)
        return verdict not in ("timeout", "exhausted", "crashed")

    async def _answer(self, process: Process, seconds: float) -> str:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                return (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            return "timeout"

    async def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                # Not process.kill(): that polls first, and asyncio then misses the end of a process that is dead.
                os.kill(process.pid, signal.SIGKILL)
        await _to_its_end(process.wait())


async def _to_its_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Not cut short by a cancellation, which is told after it: a child that is not known, or not waited for, stays."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _next_job(process: Process, jobs: asyncio.Queue[_Job]) -> _Job | None:
    """A pair that somebody still waits for; None when the idle process ends, which then costs no pair."""
    ended = asyncio.create_task(process.wait())
    try:
        while True:
            getting = asyncio.create_task(jobs.get())
            try:
                await asyncio.wait((ended, getting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                getting.cancel()
            if getting.done() and not getting.cancelled():
                if not (job := getting.result()).verdict.done():
                    return job
            elif ended.done():
                return None
    finally:
        ended.cancel()
