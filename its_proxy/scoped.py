"""A context variable's value for one block. A generator's context manager would do, and costs ten times as much."""

from contextvars import ContextVar, Token
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Setting(Generic[_Value]):
    """While the block runs, the variable has that value."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[_Value], value: _Value) -> None:
        self._variable = variable
        self._value = value
        self._token: Token[_Value] | None = None

    def __enter__(self) -> None:
        if self._variable.get() is not self._value:  # setting is what costs
            self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            self._variable.reset(self._token)
