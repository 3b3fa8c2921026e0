"""Where personas that stand beside queries are found: a prepared data set, a frozen pool, a writer's ledger."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.codesign.personas import Pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_training.personas.freeze import POOL_FILE
from its_training.personas.ledger import FILE_NAME, Totals, open_ledger
from its_training.personas.tasks import PER_QUERY, Query, queries_file, read_queries


@dataclass(frozen=True, slots=True)
class Written:
    """A persona beside the query that it is put before."""

    id: str
    query: str
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """`beside` holds the pairs of each strategy; `personas` every (domain, text); `label` says what they are."""

    label: str
    beside: Mapping[str, list[Written]]
    personas: list[tuple[str, str]]
    totals: Totals | None = None


def open_source(folder: Path, dataset: Path | None, limit: int) -> Source:
    """At most `limit` queries a strategy, the same for all of them, chosen by hash."""
    if (folder / "dataset.json").is_file():
        return _from_dataset(folder, limit)
    if (folder / FILE_NAME).is_file():
        return _from_ledger(folder, limit)
    if (folder / POOL_FILE).is_file():
        return _from_pool(folder / POOL_FILE, dataset, limit)
    raise ConfigError(
        f"{folder} holds none of dataset.json, {FILE_NAME} and {POOL_FILE}",
        hint="a folder that its-train prepare, personas write or personas freeze wrote",
    )


def _from_dataset(folder: Path, limit: int) -> Source:
    """The personas that the arms' rows carry, whatever wrote them."""
    arms = _arms(folder)
    beside: dict[str, list[Written]] = {}
    personas: set[tuple[str, str]] = set()
    generators: set[str] = set()
    for arm, file in arms.items():
        rows = list(_rows(file, personas, generators))
        if rows:
            beside[arm] = _sample(rows, limit)
    if not beside:
        raise ConfigError(f"no arm of {folder} carries personas", hint=f"arms: {', '.join(arms)}")
    label = ", ".join(sorted(generators)) or "personas"
    return Source(f"{label}, arms of {folder.resolve().name}", beside, sorted(personas))


def _arms(folder: Path) -> dict[str, Path]:
    queries_file(folder)  # says what is wrong with it
    document: Any = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return {name: folder / str(arm["file"]) for name, arm in document["arms"].items()}


def _rows(file: Path, personas: set[tuple[str, str]], generators: set[str]) -> Iterator[Written]:
    """The rows of an arm that carry a persona; what they carry is added to both sets."""
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                persona = row.get("persona") or {}
                if text := persona.get("text"):
                    if persona.get("strategy") != "filler":  # neutral text, of no domain
                        personas.add((str(persona.get("domain")), text))
                        generators.add(str(persona.get("generator")))
                    yield Written(str(row["id"]), row["query"], text)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", hint="its-train prepare wrote it") from None


def _from_ledger(folder: Path, limit: int) -> Source:
    beside: dict[str, list[Written]] = {}
    personas: set[tuple[str, str]] = set()
    with open_ledger(folder) as ledger:
        for accepted in ledger.accepted():
            personas.add((accepted.domain, accepted.text))
            if accepted.query:
                written = Written(accepted.id, accepted.query, accepted.text)
                beside.setdefault(accepted.strategy, []).append(written)
        totals = ledger.totals()
    if not personas:
        raise ConfigError(f"{folder} holds no accepted persona", hint="its-train personas write first")
    sampled = {strategy: _sample(rows, limit) for strategy, rows in sorted(beside.items())}
    return Source(f"personas written by {', '.join(totals.models) or 'a model'}", sampled, sorted(personas), totals)


def _from_pool(file: Path, dataset: Path | None, limit: int) -> Source:
    """What the strategies draw from the pool for the queries of `dataset`; without it, the pool alone."""
    try:
        pool = Pool.from_jsonl(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    beside: dict[str, list[Written]] = {}
    if dataset is not None:
        queries = nsmallest(limit, read_queries(queries_file(dataset)), key=lambda query: _rank(query.id))
        for strategy in PER_QUERY:
            drawn = _drawn(pool, strategy, queries)
            if drawn is not None:
                beside[strategy] = drawn
    return Source(f"personas of the pool {file}", beside, [(one.domain, one.text) for one in pool.personas])


def _drawn(pool: Pool, strategy: str, queries: list[Query]) -> list[Written] | None:
    """None where the pool cannot serve the strategy: the page says so."""
    try:
        recipe = Recipe(strategy_named(strategy), pool=pool)
        drawn = [rewrite(recipe, [{"role": "user", "content": query.text}]).personas[0].text for query in queries]
    except ItsError:
        return None
    return [Written(query.id, query.text, text) for query, text in zip(queries, drawn, strict=True)]


def _sample(rows: list[Written], limit: int) -> list[Written]:
    return nsmallest(limit, rows, key=lambda row: _rank(row.id))


def _rank(id_: str) -> bytes:
    return blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest()
