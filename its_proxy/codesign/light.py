"""Frozen dataclasses that cost no more to make than others.

    @light
    @dataclass(frozen=True, slots=True)
    class Ballot: ...

A frozen dataclass sets each field by a call, because it refuses the plain way, and so costs five times as much to make.
A request makes some thirty of them, which was a fourteenth of all that it cost. To the type checker these are frozen
like any other; at run time nothing stops who sets a field all the same. Hashing, comparing and `replace` stay.
"""

from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


def light(cls: _Class) -> _Class:
    """For the few classes that every request makes."""
    post_init = {"__post_init__": cls.__post_init__} if hasattr(cls, "__post_init__") else {}
    twin: Any = make_dataclass(cls.__name__, [(f.name, Any, _copy(f)) for f in fields(cls)], namespace=post_init)
    made: Any = cls
    made.__init__ = twin.__init__
    del made.__setattr__, made.__delattr__
    return cls


def _copy(original: "Field[Any]") -> Any:
    return field(
        default=original.default if original.default_factory is MISSING else MISSING,
        default_factory=original.default_factory,
        init=original.init,
        kw_only=bool(original.kw_only),
    )
