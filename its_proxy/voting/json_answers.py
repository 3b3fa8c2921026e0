"""Finds the JSON value that a candidate answers with, and spells it one way.

    >>> read_json('Here it is:\\n```json\\n{"b": 1.0, "a": [2e1]}\\n```')
    '{"a":[20],"b":1}'

Equal values have equal spellings: keys are sorted, numbers are compared by value (1, 1.0 and 10e-1
are one number, to the last digit), strings by their code points. What two readers could read
differently (a key said twice, NaN, half of a surrogate pair) is no value. Every scan is linear.
"""

import json
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeAlias

IsValid: TypeAlias = Callable[[str], bool]
"""Whether a JSON text is one that the client can use: an object, or what its schema allows."""

MAX_JSON_CHARS = 64 * 1024
"""A longer JSON text is not read: its candidate abstains."""
MAX_TEXT_CHARS = 4 * MAX_JSON_CHARS
"""Nor is one looked for in a longer text: where a block begins can only be told from the front."""
MAX_DEPTH = 64
MAX_DIGITS = 400
"""A number with more digits, or an exponent of more than 9, is not read."""
MAX_SHOWN_CHARS = 512
"""A longer spelling is told by its head and its digest, which still tells it from every other."""


def read_json(text: str, *, whole: bool = False, is_valid: IsValid | None = None) -> str | None:
    """The canonical spelling of the JSON answer in `text`, or None: then the candidate abstains.

    The whole text, else (unless `whole`) its last fenced block, else the last balanced {...}: the last one
    wins, and one that is not JSON is not replaced by an earlier one. `is_valid` judges it as it was written.
    """
    if len(text) > MAX_TEXT_CHARS:
        return None
    written = text.strip()
    spelling = spelled(written)
    if spelling is None and not whole:
        written = _last_fenced(text) or _last_object(text) or ""
        spelling = spelled(written)
    if spelling is None or (is_valid is not None and not is_valid(written)):
        return None
    return shown(spelling)


def spelled(text: str) -> str | None:
    """The canonical spelling of a JSON text; None where it is none, is too long, or could be read in two ways."""
    if len(text) > MAX_JSON_CHARS:
        return None
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_int=_number, parse_float=_number, parse_constant=_refuse
        )
        spelling = _spelling(value, MAX_DEPTH)
        spelling.encode("utf-8")  # half of a surrogate pair is no text, and no reply could carry it
    except (ValueError, RecursionError):
        return None
    return spelling


def spelled_text(text: str) -> str | None:
    """A text as a JSON string; None where it is not one that a reply could carry."""
    return None if any("\ud800" <= character <= "\udfff" for character in text) else _text(text)


def shown(spelling: str) -> str:
    """A spelling short enough for a reply's report."""
    if len(spelling) <= MAX_SHOWN_CHARS:
        return spelling
    digest = sha256(spelling.encode()).hexdigest()
    return f"{spelling[: MAX_SHOWN_CHARS - 80]}… sha256:{digest}"


# --- finding it ------------------------------------------------------------------------------

_FENCE = re.compile(r"^[ \t]{0,3}(?:```|~~~)[ \t]{0,8}([A-Za-z0-9_+-]{0,20})[ \t\r]*$", re.MULTILINE)
_QUOTE_OR_BRACE = re.compile(r'\\.|[{}"]', re.DOTALL)


def _last_fenced(text: str) -> str | None:
    """The content of the last fenced block that is closed and may hold JSON."""
    fences = list(_FENCE.finditer(text))
    last = None
    for opening, closing in zip(fences[::2], fences[1::2], strict=False):
        if opening[1].lower() in ("", "json", "jsonc", "json5"):
            last = text[opening.end() : closing.start()].strip()
    return last


def _last_object(text: str) -> str | None:
    """The last {...} at the top level of the text; None where a later one is left open: it was cut off."""
    depth = start = end = 0
    is_string = False
    for mark in _QUOTE_OR_BRACE.finditer(text):
        # Quotes count inside of an object only: prose has its own.
        if mark[0] == '"':
            is_string = depth > 0 and not is_string
        elif is_string:
            continue
        elif mark[0] == "{":
            start = mark.start() if depth == 0 else start
            depth += 1
        elif mark[0] == "}" and depth:
            depth -= 1
            end = mark.end()
    return text[start:end] if end and depth == 0 else None


# --- spelling it -----------------------------------------------------------------------------

_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,9}))?")


class _Number(str):
    """A number, already in its canonical spelling."""


def _number(written: str) -> _Number:
    parts = _NUMBER.fullmatch(written)
    if parts is None or len(written) > MAX_DIGITS:
        raise ValueError("a number that is not read")
    sign, whole, fraction, exponent = parts[1], parts[2], parts[3] or "", int(parts[4] or 0)
    digits = (whole + fraction).lstrip("0")
    exponent -= len(fraction)
    exponent += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    if not digits:
        return _Number("0")
    if 0 <= exponent <= 20:
        return _Number(sign + digits + "0" * exponent)
    if -20 <= exponent < 0:
        padded = digits.rjust(1 - exponent, "0")
        return _Number(f"{sign}{padded[:exponent]}.{padded[exponent:]}")
    return _Number(f"{sign}{digits}e{exponent}")


def _spelling(value: Any, depth: int) -> str:
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(_spelling(part, depth - 1) for part in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{_text(key)}:{_spelling(value[key], depth - 1)}" for key in sorted(value))
        return "{" + ",".join(pairs) + "}"
    return _text(value)


def _text(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice")
    return members


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
