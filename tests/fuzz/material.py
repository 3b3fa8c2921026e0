"""Values made of the bytes that a fuzzer varies: a byte more or less changes one choice, and any bytes make a value."""

from collections.abc import Iterator, Sequence
from typing import Any

MAX_DEPTH = 6
_SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 16, 17, 2**31, 2**62, -(2**62) - 1, 2**64, 0.5, 1e308, -0.0, "", "x", "auto",
)  # fmt: skip


class Material:
    """Bytes to be used up from the front; when they are, every choice is the first."""

    def __init__(self, data: bytes, words: Sequence[str] = ()) -> None:
        self._data, self._at = data, 0
        self._words = words

    def below(self, n: int) -> int:
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1] % n

    def rest(self) -> bytes:
        rest, self._at = self._data[self._at :], len(self._data)
        return rest

    def text(self) -> str:
        """A word that matters, or what the bytes say, half surrogates included."""
        if self.below(2) and self._words:
            return self._words[self.below(len(self._words))]
        length = self.below(32)
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken.decode("utf-8", "surrogateescape")

    def json(self, keys: Sequence[str] = (), depth: int = 0) -> Any:
        """Any JSON value; `keys` are the likely ones of its objects."""
        kind = self.below(6)
        if kind == 0 or depth == MAX_DEPTH:
            return _SCALARS[self.below(len(_SCALARS))]
        if kind <= 2:
            return self.text()
        if kind == 3:
            return [self.json(keys, depth + 1) for _ in range(self.below(5))]
        names = (keys[self.below(len(keys))] if keys and self.below(4) else self.text() for _ in range(self.below(6)))
        return {name: self.json(keys, depth + 1) for name in names}

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """`data`, cut into at most a hundred."""
        start = 0
        for _ in range(99):
            size = self.below(256)
            yield data[start : start + size]
            start += size
            if start >= len(data):
                return
        yield data[start:]
