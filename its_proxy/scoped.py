"""Blocks that every call enters: `contextlib` would do, and costs ten times as much."""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Entered:
    """Leaves a context that was entered before its block, inside of something that the block is not to be in.

    with applied(mark):
        chunks = await stream.__aenter__()
    async with Entered(stream):
        ...
    """

    __slots__ = ("_context",)

    def __init__(self, context: AbstractAsyncContextManager[object]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        """It has been."""

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[bool | None]:
        return self._context.__aexit__(kind, error, trace)


class Setting(Generic[_Value]):
    """A context variable's value for one block."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[_Value], value: _Value) -> None:
        self._variable = variable
        self._value = value
        self._token: Token[_Value] | None = None

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        self._variable.reset(self._token)


_NO_CHANGE = nullcontext()


def setting(variable: ContextVar[_Value], value: _Value) -> AbstractContextManager[None]:
    """While the block runs, the variable has that value: mostly it has it already."""
    return _NO_CHANGE if variable.get() is value else Setting(variable, value)
