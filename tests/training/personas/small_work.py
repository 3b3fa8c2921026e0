"""A small world for the tests of the persona writer: queries with answers, and one call that writes for them."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from its_training.personas.endpoints import Endpoints
from its_training.personas.ledger import FILE_NAME, open_ledger
from its_training.personas.prompts import packaged_prompts
from its_training.personas.tasks import PER_QUERY, Query, tasks_per_query
from its_training.personas.write import Writer, write

_SCENES = (
    "A baker puts {a} eggs and {b} bags of flour into the oven. How many of the eggs are left when {c} are broken?",
    "A train with {a} passengers stops at a station, where {b} leave and {c} enter. How many are on the train now?",
    "A farmer has {a} cows and {b} hens in the barn and sells {c} of them. How many animals does she still keep?",
    "In the orchestra {a} violins and {b} drums play, until {c} musicians go home. How many musicians stay?",
    "Add {a}, {b} and {c}, and write down what comes out of it at the end.",
)


def queries(n: int) -> list[Query]:
    made = []
    for k in range(n):
        a, b, c = 20 + 7 * k, 3 + k, 2 + k % 11
        made.append(Query(f"q{k}", _SCENES[k % len(_SCENES)].format(a=a, b=b, c=c), str(a + b - c)))
    return made


def answers(some: Sequence[Query]) -> dict[str, str]:
    return {query.text: query.answer or "" for query in some}


def write_file(path: Path, some: Sequence[Query]) -> Path:
    rows = ({"id": query.id, "query": query.text, "answer": query.answer} for query in some)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def select(work: Path, query: str) -> list[Any]:
    """What SQLite itself says of a ledger."""
    with closing(sqlite3.connect(work / FILE_NAME)) as connection:
        return list(connection.execute(query))


async def write_all(
    work: Path,
    urls: Sequence[str],
    some: Sequence[Query],
    *,
    strategies: Sequence[str] = PER_QUERY,
    n_asks: int = 8,
    timeout_s: float = 10.0,
    max_failures: int = 200,
    **more: Any,
) -> int:
    writer = Writer("writer", {"temperature": 1.0}, packaged_prompts(), n_asks)
    work.mkdir(exist_ok=True)
    with open_ledger(work, create=True) as ledger:
        async with Endpoints(urls, key=None, timeout_s=timeout_s, max_failures=max_failures) as endpoints:
            tasks = tasks_per_query(iter(some), strategies, 7)
            ran = await write(writer, tasks, endpoints, ledger, **more)
    assert ran.n_lost == 0
    return ran.n_calls
