"""A context variable's value for one block. A generator's context manager would do, and costs ten times as much."""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Setting(Generic[_Value]):
    """Enters one block."""

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
