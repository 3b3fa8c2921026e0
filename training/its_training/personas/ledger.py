"""The ledger of a persona writer's work: every finished call is one row of an SQLite file, written at once.

A killed run therefore loses at most the calls in flight, a second run asks for nothing that is there, and
two processes may share one file.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import canonical_json, digest
from its_proxy.codesign.errors import ConfigError
from its_training.personas.tasks import Task

FILE_NAME = "calls.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (sha256 TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT NOT NULL, attempt INTEGER NOT NULL, settings TEXT NOT NULL,
    id TEXT NOT NULL, strategy TEXT NOT NULL, domain TEXT NOT NULL, query TEXT NOT NULL,
    reply TEXT NOT NULL, persona TEXT, reason TEXT, advice TEXT,
    model TEXT, fingerprint TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, date TEXT NOT NULL,
    PRIMARY KEY (key, attempt)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One finished call: `persona` is the accepted text, or `reason` and `advice` say why there is none.

    `model` and `fingerprint` are as the endpoint reported them.
    """

    attempt: int
    reply: str
    persona: str | None
    reason: str | None
    advice: str | None
    model: str | None
    fingerprint: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    date: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted persona, with the query that it was written for ("" for a persona of a domain)."""

    id: str
    strategy: str
    domain: str
    query: str
    text: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What all calls of a ledger came to. `n_again` counts calls that followed a refused reply."""

    n_calls: int
    n_again: int
    n_accepted: int
    n_unwritten: int
    prompt_tokens: int
    completion_tokens: int
    rejected: Mapping[str, int]
    models: tuple[str, ...]
    fingerprints: tuple[str, ...]


class Ledger:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection

    def calls(self, key: str) -> list[Call]:
        """The calls made for a task so far, oldest first."""
        rows = self._all(
            "SELECT attempt, reply, persona, reason, advice, model, fingerprint, prompt_tokens, completion_tokens, date"
            " FROM calls WHERE key = ? ORDER BY attempt",
            key,
        )
        return [Call(*row) for row in rows]

    def add(self, task: Task, key: str, settings: Mapping[str, Any], call: Call) -> None:
        """One row, in one transaction. Another process that made the same call first keeps its own."""
        row = (key, call.attempt, digest(settings), task.id, task.strategy, task.asked.domain, task.asked.query,
               call.reply, call.persona, call.reason, call.advice, call.model, call.fingerprint,
               call.prompt_tokens, call.completion_tokens, call.date)  # fmt: skip
        with self._told():
            self._connection.execute(f"INSERT OR IGNORE INTO calls VALUES ({', '.join('?' * len(row))})", row)

    def remember_settings(self, settings: Mapping[str, Any]) -> None:
        with self._told():
            self._connection.execute(
                "INSERT OR IGNORE INTO settings VALUES (?, ?)", (digest(settings), canonical_json(settings).decode())
            )

    def settings(self) -> list[dict[str, Any]]:
        """Every way in which calls of this ledger were made."""
        used = "SELECT document FROM settings WHERE sha256 IN (SELECT settings FROM calls) ORDER BY sha256"
        return [json.loads(document) for (document,) in self._all(used)]

    def accepted(self, settings: Mapping[str, Any] | None = None) -> Iterator[Accepted]:
        """Accepted personas in an order that no chance of timing changes; only those of `settings` where given."""
        only = "" if settings is None else " AND settings = ?"
        rows = self._all(
            f"SELECT id, strategy, domain, query, persona FROM calls WHERE persona IS NOT NULL{only} ORDER BY key",
            *(() if settings is None else (digest(settings),)),
        )
        return (Accepted(*row) for row in rows)

    def unwritten(self) -> Iterator[tuple[str, str, str, str]]:
        """(id, strategy, domain, last reason) of every task that was asked and has no persona."""
        yield from self._all(
            "SELECT id, strategy, domain, reason FROM calls c WHERE persona IS NULL"
            " AND attempt = (SELECT max(attempt) FROM calls WHERE key = c.key)"
            " AND NOT EXISTS (SELECT 1 FROM calls WHERE key = c.key AND persona IS NOT NULL) ORDER BY key"
        )

    def last_date(self, settings: Mapping[str, Any]) -> str:
        rows = self._all("SELECT max(date) FROM calls WHERE persona IS NOT NULL AND settings = ?", digest(settings))
        return str(next(rows)[0])

    def totals(self) -> Totals:
        sums = "count(*), sum(attempt > 0), count(persona), sum(prompt_tokens), sum(completion_tokens)"
        n_calls, n_again, n_accepted, prompt, completion = next(self._all(f"SELECT {sums} FROM calls"))
        rejected = Counter(dict(self._all("SELECT reason, count(*) FROM calls WHERE reason IS NOT NULL GROUP BY 1")))
        unwritten = sum(1 for _ in self.unwritten())
        return Totals(n_calls, n_again or 0, n_accepted, unwritten, prompt or 0, completion or 0,
                      dict(rejected.most_common()), self._distinct("model"), self._distinct("fingerprint"))  # fmt: skip

    def _distinct(self, column: str) -> tuple[str, ...]:
        found = self._all(f"SELECT DISTINCT {column} FROM calls WHERE {column} IS NOT NULL ORDER BY 1")
        return tuple(value for (value,) in found)

    def _all(self, query: str, *values: Any) -> Iterator[Any]:
        with self._told():
            return iter(self._connection.execute(query, values))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigError(f"{self.path}: {error}", hint="is the disk full, or the file not a ledger?") from None


@contextmanager
def open_ledger(folder: Path, *, create: bool = False) -> Iterator[Ledger]:
    """Opens FOLDER/calls.sqlite. Raises ConfigError where there is none, or it is no ledger."""
    path = folder / FILE_NAME
    if not create and not path.is_file():
        raise ConfigError(f"{folder} holds no {FILE_NAME}", hint="the folder that its-train personas write was given")
    try:
        # Each statement is a transaction of its own; another process's is waited for.
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing by it; a power cut may lose the last rows, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: {error}", hint="choose another --out, or remove that file") from None
    try:
        yield Ledger(connection, path)
    finally:
        connection.close()
