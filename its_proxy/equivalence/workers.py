"""Compares answers in worker processes: what was proved is remembered, and what two ask at once is proved once."""

import asyncio
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import inf
from types import TracebackType
from typing import Self

from its_proxy.equivalence.comparisons import Comparisons, Pair, Verdict, pair_of
from its_proxy.equivalence.expressions import expression_of
from its_proxy.equivalence.process import Job, Worker
from its_proxy.voting.answers import Answer, Form, proven_different, same

_LASTING = frozenset(("equal", "different", "unproven", "timeout", "exhausted"))
"""What a second try would say again; the others depend on the moment."""
NOTHING_TO_COMPARE = Comparisons()
NO_MATH = Comparisons(by_form_because="its-proxy[math] is not installed")


@dataclass(frozen=True, slots=True)
class Limits:
    n_workers: int = 1
    pair_s: float = 0.3
    """A worker that needs longer for one pair is killed."""
    wait_s: float = 2.0
    """How long a pair may take with its wait for a free worker; starting one takes a second."""
    start_s: float = 30.0
    max_pending: int = 512
    max_cached: int = 4096
    max_forms: int = 16
    """Of one vote; the pairs of the first so many different answers are compared."""
    backoff_s: tuple[float, ...] = (0.0, 0.1, 1.0, 10.0)
    """Before a start, by how many starts in a row have failed."""


class EquivalenceWorkers:
    """Lives on one event loop, which nothing here blocks; starts its processes when there is a first pair for them.

    `close`, or the end of an `async with`, leaves none behind.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.is_symbolic = importlib.util.find_spec("sympy") is not None
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._running: dict[Pair, Job] = {}
        self._cache: OrderedDict[Pair, Verdict] = OrderedDict()
        self._workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Whoever still waits is told `unavailable`."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._workers = [], []
        for job in self._running.values():
            job.verdict.cancel()

    async def compare_all(self, answers: Sequence[Answer], within_s: float = inf) -> Comparisons:
        """Each pair of different forms that are not proven different."""
        if not self.is_symbolic:
            return NO_MATH
        distinct = list({answer.form: answer for answer in answers}.values())[: self.limits.max_forms]
        pairs = [pair for pair in combinations(distinct, 2) if not proven_different(*pair)]
        if not pairs:
            return NOTHING_TO_COMPARE
        verdicts = await asyncio.gather(*(self.compare(*pair, within_s) for pair in pairs))
        return Comparisons({pair_of(*pair): verdict for pair, verdict in zip(pairs, verdicts, strict=True)})

    async def compare(self, first: Answer, second: Answer, within_s: float = inf) -> Verdict:
        if same(first, second):
            return "equal"
        if proven_different(first, second):
            return "different"
        pair = pair_of(first, second)
        if pair in self._cache:
            self._cache.move_to_end(pair)
            return self._cache[pair]
        if (line := _line(first.form, second.form)) is None:
            return "refused"
        if not self._may_work():
            return "unavailable"
        job = self._running.get(pair)
        if job is None or job.verdict.done():
            if self._jobs.qsize() >= self.limits.max_pending:
                return "busy"
            job = self._begin(pair, line)
        return await _verdict_on(job, min(within_s, self.limits.wait_s))

    def _may_work(self) -> bool:
        """Starts the workers at the first need."""
        if self._is_closed or not self.is_symbolic:
            return False
        if not self._tasks:
            limits = self.limits
            self._workers = [Worker(limits.pair_s, limits.start_s, limits.backoff_s) for _ in range(limits.n_workers)]
            self._tasks = [asyncio.create_task(worker.serve(self._jobs)) for worker in self._workers]
        return not all(worker.is_failing for worker in self._workers)

    def _begin(self, pair: Pair, line: bytes) -> Job:
        job = self._running[pair] = Job(line, asyncio.get_running_loop().create_future())
        job.verdict.add_done_callback(lambda verdict: self._keep(pair, job, verdict))
        self._jobs.put_nowait(job)
        return job

    def _keep(self, pair: Pair, job: Job, verdict: asyncio.Future[Verdict]) -> None:
        if self._running.get(pair) is job:
            del self._running[pair]
        if not verdict.cancelled() and verdict.result() in _LASTING:
            self._cache[pair] = verdict.result()
            if len(self._cache) > self.limits.max_cached:
                self._cache.popitem(last=False)


def _line(first: Form, second: Form) -> bytes | None:
    wired = _wired(first), _wired(second)
    return f"[{wired[0]},{wired[1]}]\n".encode() if None not in wired else None


@lru_cache(maxsize=1024)
def _wired(form: Form) -> str | None:
    """Kept, because a vote asks for each form once for every other one."""
    expression = expression_of(form)
    return json.dumps(expression.wire()) if expression is not None else None


async def _verdict_on(job: Job, within_s: float) -> Verdict:
    """When the last one who waits has gone, in time or not, nobody works on it any more."""
    job.n_waiting += 1
    try:
        await asyncio.wait({job.verdict}, timeout=within_s)
        if job.verdict.cancelled():
            return "unavailable"
        return job.verdict.result() if job.verdict.done() else "busy"
    finally:
        job.n_waiting -= 1
        if not job.n_waiting:
            job.verdict.cancel()
