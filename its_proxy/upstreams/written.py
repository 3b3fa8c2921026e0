"""A request's JSON in pieces, of which the large ones are written once for all calls that share them.

Sixteen candidates of a megabyte differ in their seeds: each is a few bytes of its own around the same megabyte.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

Pieces = list[bytes]
SHARED_CHARS = 1024


@dataclass(slots=True)
class _Shared:
    value: Any
    """Kept, so that no other value can come to its id."""
    text: bytes
    n_users: int = 0


class SharedJson:
    """Of one upstream. What calls share is known by being the same object."""

    def __init__(self) -> None:
        self._shared: dict[int, _Shared] = {}

    @contextmanager
    def written(self, body: Mapping[str, Any]) -> Iterator[Pieces]:
        """The pieces of one object; its large values are kept for others until the block is left."""
        own = {key: value for key, value in body.items() if not _is_large(value)}
        large = {key: value for key, value in body.items() if key not in own}
        pieces = [orjson.dumps(own)[:-1]]
        held = []
        try:
            for key, value in large.items():
                held.append(self._hold(value))
                pieces += [b"," if own or len(held) > 1 else b"", orjson.dumps(key) + b":", held[-1].text]
            yield [*pieces, b"}"]
        finally:
            for shared in held:
                self._release(shared)

    def _hold(self, value: Any) -> _Shared:
        shared = self._shared.get(id(value))
        if shared is None:
            shared = self._shared[id(value)] = _Shared(value, orjson.dumps(value))
        shared.n_users += 1
        return shared

    def _release(self, shared: _Shared) -> None:
        shared.n_users -= 1
        if shared.n_users == 0:
            del self._shared[id(shared.value)]


def _is_large(value: Any) -> bool:
    """Lists and objects of any size: theirs is not known before they are written."""
    return isinstance(value, list | dict) or (isinstance(value, str) and len(value) > SHARED_CHARS)
