"""Proves a strategy by the rows that it is said to have made: each is rewritten here, and must come out the same.

A row holds the query, and what the model was trained on: the rewritten prompt as text, or `messages`, with or
without the reply at their end. A row of messages may hold its query as messages, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import ConfigError, ItsError, ManifestError
from its_proxy.codesign.query import Message
from its_proxy.codesign.strategies import Recipe, rewrite

MIN_PERCENT = 99
MAX_LINE_BYTES = 16 * 2**20
QUERY_FIELDS = ("query", "question", "problem", "instruction")
REWRITTEN_FIELDS = ("rewritten", "prompt", "input", "messages", "conversations", "text")
ID_FIELDS = ("id", "row_id", "unique_id")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row hold what; None takes the first of the usual names that the row has."""

    query: str | None = None
    rewritten: str | None = None
    row_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """How many of the file's rows came out byte-identical, and the file's digest."""

    n_rows: int
    n_same: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Difference:
    line: int
    expected: str
    got: str


def check_rows(
    path: Path, trained: Recipe, fields: Fields | None = None, on_bytes: Callable[[int], None] = lambda n: None
) -> Fit:
    """Rewrites every row of a JSONL file; raises ManifestError where less than 99% of them come out as they stand.

    The refusal tells the count, and of the first row that differs what was rewritten and what it holds.
    ConfigError for a file or a row that cannot be read. `on_bytes` is told how much of the file was read.
    """
    fields = fields or Fields()
    digest = sha256()
    n_rows = n_same = 0
    first: _Difference | None = None
    for number, line in _lines(path):
        digest.update(line)
        on_bytes(len(line))
        if not line.strip():
            continue
        n_rows += 1
        difference = _difference(_row(path, number, line), number, path, trained, fields)
        n_same += difference is None
        first = first or difference
    if not n_rows:
        raise ConfigError(f"{path} holds no rows", hint="one JSON object a line")
    if 100 * n_same < MIN_PERCENT * n_rows:
        assert first is not None
        raise ManifestError(
            f"{n_same} of {n_rows} rows come out as {trained.strategy.name!r} rewrites them here, {MIN_PERCENT}% are "
            f"needed; line {first.line} holds {first.got}, and is rewritten to {first.expected}",
            hint="compare --template, --pool, --seed, --turns, --system-prompt and the field names",
        )
    return Fit(n_rows, n_same, digest.hexdigest())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file's lines with their numbers, one at a time: training files may be larger than memory."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ConfigError(f"{path}:{number}: longer than {MAX_LINE_BYTES} bytes")
                yield number, line
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _row(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        row = strict_json(line)
    except ValueError as error:
        raise ConfigError(f"{path}:{number}: {error}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: not a JSON object")
    return row


def _difference(row: Mapping[str, Any], number: int, path: Path, trained: Recipe, fields: Fields) -> _Difference | None:
    query_name = _name(row, fields.query, QUERY_FIELDS, f"{path}:{number}", "--query-field")
    rewritten_name = _name(row, fields.rewritten, REWRITTEN_FIELDS, f"{path}:{number}", "--rewritten-field")
    query, rewritten = row[query_name], row[rewritten_name]
    id_name = fields.row_id or next((name for name in ID_FIELDS if row.get(name) is not None), None)
    row_id = None if id_name is None else str(row.get(id_name))
    if trained.strategy.name == "mixed" and (id_name is None or row.get(id_name) is None):
        raise ConfigError(f"{path}:{number}: 'mixed' goes by each row's id, and this row has none", hint="--id-field")
    try:
        messages = rewrite(trained, _messages(query, query_name), row_id=row_id).messages
        if isinstance(rewritten, str):
            expected, got = _text_of_last_user(messages), rewritten
        else:
            expected, got = _spelled(messages), _spelled(_without_reply(_messages(rewritten, rewritten_name), messages))
    except ItsError as error:
        raise ConfigError(f"{path}:{number}: {error.message}", hint=error.hint) from None
    if expected == got:
        return None
    return _Difference(number, *_around_difference(expected, got))


def _name(row: Mapping[str, Any], wanted: str | None, usual: Sequence[str], place: str, flag: str) -> str:
    found = next((name for name in ([wanted] if wanted is not None else usual) if row.get(name) is not None), None)
    if found is None:
        names = wanted or ", ".join(usual)
        raise ConfigError(f"{place}: has no {names}", hint=f"name the field with {flag}")
    return found


def _messages(value: Any, name: str) -> list[Message]:
    """A conversation as the row has it; a bare text is one user message."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        return [_message(message) for message in value]
    raise ConfigError(f"{name} is neither text nor a list of messages")


_ROLES = {"human": "user", "gpt": "assistant"}


def _message(message: Mapping[str, Any]) -> Message:
    """`{"from": "human", "value": ...}`, as some training files have it, is read as well."""
    if "role" not in message and "from" in message:
        return {"role": _ROLES.get(message["from"], message["from"]), "content": message.get("value")}
    return {"role": message.get("role"), "content": message.get("content")}


def _without_reply(messages: Sequence[Message], rewritten: Sequence[Message]) -> Sequence[Message]:
    """The messages without the reply that was learned from them, where the query holds none in that place."""
    ends_in_reply = messages[-1]["role"] == "assistant" and len(messages) == len(rewritten) + 1
    return messages[:-1] if ends_in_reply else messages


def _text_of_last_user(messages: Sequence[Message]) -> str:
    content = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    return content if isinstance(content, str) else repr(content)


def _spelled(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _around_difference(expected: str, got: str) -> tuple[str, str]:
    """Both texts, shortened to where they part."""
    parts = next(
        (k for k, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got))
    )
    start = max(0, parts - _SHOWN // 3)
    return _shortened(expected, start), _shortened(got, start)


def _shortened(text: str, start: int) -> str:
    part = text[start : start + _SHOWN]
    return ("..." if start else "") + ascii(part) + ("..." if start + _SHOWN < len(text) else "")
