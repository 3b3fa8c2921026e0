"""JSON that two parties must read alike: one canonical spelling to digest, one strict way to read."""

import json
from hashlib import sha256
from math import isinf
from typing import Any

MAX_DIGITS = 1_000


def canonical_json(value: Any) -> bytes:
    """Keys sorted, no spaces, UTF-8: equal values give equal bytes. Raises ValueError for NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """sha256 in hexadecimal over the canonical JSON of `value`."""
    return sha256(canonical_json(value)).hexdigest()


def strict_json(data: bytes) -> Any:
    """Reads JSON that means the same to every reader: UTF-8, no duplicate keys, finite numbers, bounded nesting.

    Raises ValueError with one clear line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: invalid byte at position {error.start}") from None
    if text.startswith("\ufeff"):
        raise ValueError("starts with a byte order mark")
    try:
        return _STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bounded_integer(text: str) -> int:
    """Python refuses to read very long integers, for their cost, in words of its own."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"the number {text[:20]}... has {len(text)} digits")
    return int(text)


def _finite_number(text: str) -> float:
    """1e999 is JSON, but it reads as infinity, which canonical JSON cannot spell."""
    number = float(text)
    if isinf(number):
        raise ValueError(f"the number {text[:20]} is out of range")
    return number


# Made once: a pool of personas is read line by line.
_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_constant=_refuse_constant,
    parse_float=_finite_number,
    parse_int=_bounded_integer,
)
