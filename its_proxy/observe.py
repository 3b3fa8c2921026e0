"""What may be watched of a request: each call to an upstream, as it begins and as it ends. Never its texts.

The server's traces come in through this; nothing here knows of them. A watcher holds nobody up and raises nothing.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from its_proxy.plan import Member
from its_proxy.upstreams.base import Completion


class Call(Protocol):
    """One call under way. `traceparent`: what the upstream is told, so that its own traces can be found."""

    @property
    def traceparent(self) -> str | None: ...

    def told(self, state: str, completion: Completion | None = None, error: Exception | None = None) -> None:
        """What became of it; where nothing is told, the exception that ends the block tells, or none that all is ok."""
        ...


class Observer(Protocol):
    def call(self, member: Member, index: int | None = None, operation: str = "chat") -> AbstractContextManager[Call]:
        """While the block runs, the call does. `index`: which candidate of a vote it is."""
        ...


@dataclass(frozen=True, slots=True)
class OfOperation:
    """Watches every call as one of that operation."""

    observer: Observer
    operation: str

    def call(self, member: Member, index: int | None = None, operation: str = "chat") -> AbstractContextManager[Call]:
        return self.observer.call(member, index, self.operation)


class _Unwatched:
    traceparent = None

    def told(self, state: str, completion: Completion | None = None, error: Exception | None = None) -> None:
        """Nobody listens."""


class _Nobody:
    def __init__(self) -> None:
        self._call: AbstractContextManager[Call] = nullcontext(_Unwatched())

    def call(self, member: Member, index: int | None = None, operation: str = "chat") -> AbstractContextManager[Call]:
        return self._call


NOBODY: Observer = _Nobody()
