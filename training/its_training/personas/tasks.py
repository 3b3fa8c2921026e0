"""What a writer is asked for: one task for each query and strategy, or several for each domain of the taxonomy.

Which domain a query's persona comes from is not decided here: the strategy itself says it, as it would to a
writer that is asked live.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.codesign import taxonomy
from its_proxy.codesign.canonical import digest, strict_json
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.persona_checks import Asked
from its_proxy.codesign.strategies import PersonaRequest, Recipe, rewrite_steps, strategy_named

PER_QUERY = ("similar", "dissimilar", "random")
"""Strategies that a writer can be asked for; all others draw from the pool that these fill."""
PER_DOMAIN = "domain"
_DOMAINS = (*taxonomy.NAMES, taxonomy.GENERAL)
N_DOMAINS = len(_DOMAINS)


@dataclass(frozen=True, slots=True)
class Query:
    id: str
    text: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """`number` tells several personas of one domain apart; a task of a query has the number 0."""

    id: str
    strategy: str
    asked: Asked
    seed: int
    number: int = 0

    def key(self, settings: dict[str, Any]) -> str:
        """What the cache knows it by: equal for equal model, prompts, sampling, strategy, domain, query and seed."""
        asked = self.asked
        return digest([settings, self.strategy, asked.domain, asked.query, self.seed, self.number])


def tasks_per_query(queries: Iterator[Query], strategies: Sequence[str], seed: int) -> Iterator[Task]:
    recipes = [Recipe(strategy_named(name), seed=seed) for name in strategies]
    for query in queries:
        for recipe in recipes:
            request = next(rewrite_steps(recipe, [{"role": "user", "content": query.text}], query.id))
            assert isinstance(request, PersonaRequest)
            asked = Asked(request.domain, request.strategy, query.text, query.answer)
            yield Task(query.id, recipe.strategy.name, asked, seed)


def tasks_per_domain(n: int, seed: int) -> Iterator[Task]:
    """`n` for each domain of the taxonomy, the general one included: a pool that every strategy can draw from."""
    for domain in _DOMAINS:
        for number in range(n):
            yield Task(f"{domain} {number + 1}", PER_DOMAIN, Asked(domain, PER_DOMAIN), seed, number)


def queries_file(source: Path) -> Path:
    """The file of `source`'s queries: itself, or any arm of a prepared data set, since its arms share their rows."""
    if not source.is_dir():
        return source
    sidecar = source / "dataset.json"
    try:
        arms = json.loads(sidecar.read_text(encoding="utf-8"))["arms"]
        return source / str(next(iter(arms.values()))["file"])
    except OSError as error:
        raise ConfigError(f"{sidecar}: {error.strerror}", hint="a folder that its-train prepare wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise ConfigError(f"{sidecar} names no arms", hint="a folder that its-train prepare wrote") from None


def read_queries(path: Path) -> Iterator[Query]:
    """Reads line by line, so that a large file costs no memory. Raises ConfigError that names the line."""
    try:
        with path.open("rb") as file:
            for n, line in enumerate(file, 1):
                if line.strip():
                    yield _read_query(path, n, line)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="JSON lines with id and query") from None


def _read_query(path: Path, n: int, line: bytes) -> Query:
    try:
        row = strict_json(line)
    except ValueError as error:
        raise ConfigError(f"{path}: line {n}: {error}", hint="one JSON object a line") from None
    fields = row if isinstance(row, dict) else {}
    query = fields.get("query")
    if not isinstance(query, str) or not query.strip():
        found = ", ".join(map(str, fields)) or "none"
        raise ConfigError(f"{path}: line {n} has no query; its fields: {found}", hint="its-train prepare maps fields")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise ConfigError(f"{path}: line {n} holds a lone surrogate, which no server can be sent")
    answer = fields.get("answer", fields.get("gold"))
    return Query(str(fields.get("id", n)), query, None if answer is None else str(answer))
