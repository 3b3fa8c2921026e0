"""Has an endpoint write the personas of many tasks: bounded at once, checked, asked again, never asked twice."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from its_proxy.codesign.errors import ItsError, UpstreamError
from its_proxy.codesign.persona_checks import Reason, Rejection, judge
from its_proxy.codesign.personas import Persona
from its_training.personas.endpoints import Endpoints
from its_training.personas.ledger import Call, Ledger
from its_training.personas.prompts import Prompts
from its_training.personas.tasks import Task

MAX_KEPT = 4_000
"""Characters of a reply that the ledger keeps."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, and how. `n_asks` is the first call of a task and its re-asks together."""

    model: str
    sampling: Mapping[str, Any]
    prompts: Prompts
    n_asks: int = 3

    @property
    def settings(self) -> dict[str, Any]:
        """What a persona's key and its pool's `written_by` hold."""
        return {"model": self.model, "prompts_sha256": self.prompts.sha256, "sampling": dict(self.sampling)}


class Ran(NamedTuple):
    """What a run took. `n_lost` tasks got no reply, however often they were tried; the next run tries them again."""

    n_calls: int
    n_lost: int


async def write(
    writer: Writer,
    tasks: Iterator[Task],
    endpoints: Endpoints,
    ledger: Ledger,
    *,
    concurrency: int = 16,
    advance: Callable[[], None] = lambda: None,
) -> Ran:
    """Works all tasks off that the ledger does not hold.

    Tasks are read as they are needed, so their number costs no memory. Raises ConfigError where the endpoints fail.
    """
    run = _Run(writer, endpoints, ledger)
    ledger.remember_settings(writer.settings)

    async def work() -> None:
        for task in tasks:
            await run.task(task)
            advance()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* ItsError as errors:
        first = errors.exceptions[0]
    else:
        return Ran(run.n_calls, run.n_lost)
    raise first


class _Run:
    def __init__(self, writer: Writer, endpoints: Endpoints, ledger: Ledger) -> None:
        self.n_calls = 0
        self.n_lost = 0
        self._writer = writer
        self._endpoints = endpoints
        self._ledger = ledger
        self._in_flight: set[str] = set()

    async def task(self, task: Task) -> None:
        """Asks until a reply is accepted or the tries are used up; goes on where an earlier run was cut."""
        key = task.key(self._writer.settings)
        if key in self._in_flight:
            return  # the same query twice: the other one's persona is this one's too
        calls = self._ledger.calls(key)
        if any(call.persona is not None for call in calls) or len(calls) >= self._writer.n_asks:
            await asyncio.sleep(0)  # a long ledger must not keep the other tasks' replies waiting
            return
        self._in_flight.add(key)
        try:
            while len(calls) < self._writer.n_asks and not (calls and calls[-1].persona):
                call = await self._ask(task, key, calls)
                self._ledger.add(task, key, self._writer.settings, call)
                # Read again: another process may have made the same call first, and the ledger then holds its reply.
                calls = self._ledger.calls(key)
        except UpstreamError:
            self.n_lost += 1
        finally:
            self._in_flight.discard(key)

    async def _ask(self, task: Task, key: str, calls: list[Call]) -> Call:
        prompts = self._writer.prompts
        messages = prompts.messages(task)
        if calls:
            messages += prompts.again(calls[-1].reply, calls[-1].advice or "")
        body = {"model": self._writer.model, "messages": messages, **self._writer.sampling,
                "seed": (int(key[:8], 16) + len(calls)) % 2**31}  # fmt: skip
        completion = await self._endpoints.ask(body, prompts.response_format(), f"{key[:16]}-{len(calls)}")
        self.n_calls += 1
        return _call(task, len(calls), completion)


def _call(task: Task, attempt: int, completion: Mapping[str, Any]) -> Call:
    """The completion, judged. What cannot be written down as UTF-8 was never accepted, and is kept as "?"."""
    choice = completion["choices"][0]
    reply = _reply(choice["message"])
    verdict = _judged(reply, choice, task)
    rejection = verdict if isinstance(verdict, Rejection) else None
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Call(
        attempt=attempt,
        reply=reply[:MAX_KEPT].encode("utf-8", "replace").decode(),
        persona=verdict.text if isinstance(verdict, Persona) else None,
        reason=rejection.reason.value if rejection else None,
        advice=rejection.advice if rejection else None,
        model=_text(completion.get("model")),
        fingerprint=_text(completion.get("system_fingerprint")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        date=datetime.now(UTC).date().isoformat(),
    )


def _judged(reply: str, choice: Mapping[str, Any], task: Task) -> Persona | Rejection:
    if choice["message"].get("refusal"):
        return Rejection(Reason.REFUSAL, "Only a description of an ordinary person is asked for.")
    if choice.get("finish_reason") == "length":
        return Rejection(Reason.TRUNCATED, "The reply was cut off: keep it short.")
    return judge(reply, task.asked)


def _reply(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
