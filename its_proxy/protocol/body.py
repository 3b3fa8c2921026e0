"""A request's body: JSON that every reader reads alike, and that costs little to read however it was made.

What two parsers could read differently is refused at any size: duplicate keys, numbers beyond 64 bits, NaN, lone
surrogates, a byte order mark. orjson sees all of these but the first two, which are found by what stands outside of
texts: a colon there is a key, and an object that names a key twice has fewer keys than colons. The same view bounds
how many values there are before any of them is built, for a reader in an event loop keeps everybody waiting.

Nearly all bodies are short and plain, and are read at a glance: where it could miss anything, it sees nothing at all.
"""

import re
from typing import Any

import orjson

from its_proxy.codesign.errors import RequestError

MAX_DEPTH = 64
MAX_VALUES = 300_000
"""Two megabytes of token ids are fewer."""
MAX_TEXTS = 50_000
MAX_CONTAINERS = 25_000
LARGE_BYTES = 2**14
"""A body of fewer has no room for too many of anything but levels."""
FEW_QUOTES = 2_000
MOST_BACKSLASHES = 64
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_DIGITS = b"0" * 19
"""The shortest number that may be beyond 64 bits."""
_LONG_NUMBER = re.compile(rb"\d{19,}")
MAX_LONG_NUMBERS = 10_000
_MAX_DIGITS = 20
_DECIMAL = (b".", b"e", b"E")
_EXPONENT = (b"e-", b"E-", b"e+", b"E+")
_CONTAINERS = frozenset({dict, list})
_MAYBE_COLON = b"\\u003"


def read_body(data: bytes) -> dict[str, Any]:
    """JSON bytes -> object; RequestError for whatever two parsers could read differently."""
    body = read_at_a_glance(data)
    return read_carefully(data) if body is None else body


def read_at_a_glance(data: bytes) -> dict[str, Any] | None:
    """What `read_carefully` makes of it, or None where only that can tell."""
    if len(data) >= LARGE_BYTES or data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        return None
    try:
        body = orjson.loads(data)
        again = orjson.dumps(body)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    # What is written anew as it was has lost no key, and no digit of a number: most clients write as orjson does.
    return body if type(body) is dict and (again == data or _has_kept_all(data, again)) else None


def _has_kept_all(data: bytes, again: bytes) -> bool:
    """Whether what was written anew lacks nothing, though it looks otherwise. Texts keep their colons, and have no more
    than before unless one was spelled `\\u003a`: so a key that was dropped, and its colon with it, leaves fewer."""
    return (
        again.count(b":") == data.count(b":")
        and _MAYBE_COLON not in data
        and _LONG_DIGITS not in data.translate(_DIGITS_AS_ZEROS)
    )


def read_carefully(data: bytes) -> dict[str, Any]:
    """The same for every body."""
    outside = _outside_of_texts(data)
    _refuse_too_many(outside)
    _refuse_large_integers(outside)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _refusal(f"the body is not JSON: {error.msg}") from None
    if not isinstance(body, dict):
        raise _refusal("the body must be a JSON object")
    if _n_keys(body) != outside.count(b":"):
        raise _refusal("the body names a key twice in one object")
    return body


def _outside_of_texts(data: bytes) -> bytes:
    """What stands between quotes left out; of what is no JSON anything may be left, and the parser refuses it."""
    if len(data) >= LARGE_BYTES and (outside := _outside_of_few_texts(data)) is not None:
        return outside
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * MAX_TEXTS:
        raise _refusal(f"the body holds more than {MAX_TEXTS:,} texts")
    return b"".join(bare.split(b'"')[::2])


def _outside_of_few_texts(data: bytes) -> bytes | None:
    """The same by leaps from quote to quote, a tenth of the time where texts are few and long; None for many."""
    parts, at, is_in_text = [], 0, False
    quote = data.find(b'"')
    for _ in range(FEW_QUOTES):
        if quote < 0:
            parts.append(b"" if is_in_text else data[at:])
            return b"".join(parts)
        before = data[max(at, quote - MOST_BACKSLASHES) : quote] if is_in_text else b""
        n_backslashes = len(before) - len(before.rstrip(b"\\"))
        if n_backslashes == MOST_BACKSLASHES:
            return None
        if n_backslashes % 2 == 0:  # an odd number makes it a part of the text
            if not is_in_text:
                parts.append(data[at:quote])
            at, is_in_text = quote + 1, not is_in_text
        quote = data.find(b'"', quote + 1)
    return None


def _refuse_too_many(outside: bytes) -> None:
    if len(outside) <= MAX_CONTAINERS and outside.count(b"[") + outside.count(b"{") <= MAX_DEPTH:
        return  # mostly there is too little of anything
    if outside.count(b",") > MAX_VALUES:
        raise _refusal(f"the body holds more than {MAX_VALUES:,} values")
    brackets = outside.translate(_BRACES_AS_BRACKETS, _ALL_BUT_BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise _refusal(f"the body holds more than {MAX_CONTAINERS:,} lists and objects")
    for _ in range(MAX_DEPTH):  # each round takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise _refusal(f"the body is nested deeper than {MAX_DEPTH} levels")


def _refuse_large_integers(outside: bytes) -> None:
    """orjson reads them as floats, others exactly, and most servers not at all."""
    if _LONG_DIGITS not in outside.translate(_DIGITS_AS_ZEROS):
        return
    if len(_LONG_NUMBER.findall(outside)) > MAX_LONG_NUMBERS:
        raise _refusal(f"the body holds more than {MAX_LONG_NUMBERS:,} numbers of 19 digits and more")
    for found in _LONG_NUMBER.finditer(outside):
        before, after = outside[max(0, found.start() - 2) : found.start()], outside[found.end() : found.end() + 1]
        is_decimal = before[-1:] in _DECIMAL or before in _EXPONENT or after in _DECIMAL
        sign = -1 if before.endswith(b"-") else 1
        if not is_decimal and (len(found[0]) > _MAX_DIGITS or not -(2**63) <= sign * int(found[0]) < 2**64):
            raise _refusal("the body holds an integer beyond 64 bits")


def _n_keys(body: dict[str, Any]) -> int:
    n_keys = 0
    containers: list[Any] = [body]
    for container in containers:  # more of which are found meanwhile
        if type(container) is dict:
            n_keys += len(container)
            container = container.values()
        # Most lists and objects hold none themselves, and are seen through without a loop.
        if not _CONTAINERS.isdisjoint(map(type, container)):
            containers += [child for child in container if type(child) in _CONTAINERS]
    return n_keys


def _refusal(message: str) -> RequestError:
    return RequestError(message, code="invalid_json")
