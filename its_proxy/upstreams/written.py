"""A request's JSON, of which what its candidates share is written once.

    shared = Shared({"messages": [...], "temperature": 0.8})
    body = SharedBody(shared, {"model": "m", "seed": 7})      # a Mapping like any other body
    over(body, {"seed": 8})                                   # another candidate's
    pieces_of(body)                                           # [b'{"model":"m","seed":7,', b'"messages":...}']

Sixteen candidates of a megabyte differ in their seeds: each is a few bytes of its own before the same megabyte.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

Pieces = list[bytes]


class Shared:
    """Fields that several bodies have in common. Nobody changes them any more."""

    __slots__ = ("_text", "fields")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self._text: bytes | None = None

    @property
    def text(self) -> bytes:
        """Their JSON without the brace that opens it."""
        if self._text is None:
            self._text = orjson.dumps(self.fields)[1:]
        return self._text


class SharedBody(Mapping[str, Any]):
    """`own` fields before `shared` ones; no name is in both."""

    __slots__ = ("own", "shared")

    def __init__(self, shared: Shared, own: dict[str, Any]) -> None:
        self.shared = shared
        self.own = own

    def __getitem__(self, name: str) -> Any:
        return self.own[name] if name in self.own else self.shared.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.shared.fields

    def get(self, name: str, default: Any = None) -> Any:
        return self.own[name] if name in self.own else self.shared.fields.get(name, default)

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.shared.fields

    def __len__(self) -> int:
        return len(self.own) + len(self.shared.fields)


def over(body: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body with `fields` in the place of its own."""
    if type(body) is SharedBody and body.shared.fields.keys().isdisjoint(fields):
        return SharedBody(body.shared, {**body.own, **fields})
    return {**body, **fields}


def pieces_of(body: Mapping[str, Any]) -> Pieces:
    """Together they are the body's JSON."""
    if type(body) is not SharedBody:
        return [orjson.dumps(body if type(body) is dict else dict(body))]
    own = orjson.dumps(body.own)
    if len(own) == 2:
        return [b"{", body.shared.text]
    return [own[:-1] + b"," if body.shared.fields else own[:-1], body.shared.text]
