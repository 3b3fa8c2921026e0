"""Chooses what to probe with: short queries of a source that no test item comes from.

queries = read_queries(Path("validation.jsonl"))
chosen = by_room(rendered)[:8]
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Manifest, Probe
from its_proxy.evidence import MAX_TOKENS
from its_proxy.probing import QUERIES
from its_proxy.retrofit import QUERY_FIELDS

MAX_CONSIDERED = 200
"""Queries that are rendered to find short ones among them."""

_ROOM = 24
"""Tokens left for the model's own words, where the arms differ most."""


@dataclass(frozen=True, slots=True)
class Queries:
    """`source` says where they are from, for the manifest."""

    texts: tuple[str, ...]
    source: str


def choose_queries(file: Path | None, dataset: Path | None, arm: str | None, sealed: Manifest | None) -> Queries:
    """From the file, else the arm's own training rows, else what was probed before, else neutral ones of ours."""
    if file is not None:
        return read_queries(file)
    if dataset is not None and arm is not None:
        found = read_queries(dataset / "arms" / f"{arm}.jsonl")
        # By digest, as rows may be sorted by length or topic.
        texts = sorted(found.texts, key=lambda text: blake2b(text.encode("utf-8", "surrogatepass")).digest())
        return Queries(tuple(texts[:MAX_CONSIDERED]), f"training rows of {arm}, by hash")
    if sealed is not None and sealed.probes:
        return Queries(tuple(probe.query for probe in sealed.probes), "the probes recorded before")
    return Queries(QUERIES, "neutral queries of its-proxy")


def read_queries(path: Path) -> Queries:
    """A query a line, or JSON lines with `query`, `question`, `problem` or `instruction`.

    Raises ConfigError for rows of a test split: what a checkpoint is told by must not be what it is scored by.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # a line at a time: training rows hold long traces
            found = [_query(path, number, line) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="a query a line, or JSON lines with `query`") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: invalid byte at position {error.start}") from None
    if not found:
        raise ConfigError(f"{path} holds no queries", hint="a query a line, or JSON lines with `query`")
    return Queries(tuple(dict.fromkeys(found)), path.name)


def _query(path: Path, number: int, line: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        row: Any = json.loads(line)
    except ValueError:
        raise ConfigError(f"{path}:{number}: not a JSON object") from None
    if row.get("split") == "test":
        raise ConfigError(f"{path}:{number}: a row of the test split", hint="probe with a validation split")
    for name in QUERY_FIELDS:
        if isinstance(row.get(name), str) and row[name].strip():
            query: str = row[name]
            return query
    raise ConfigError(f"{path}:{number}: a row without a query", hint=f"one of {', '.join(QUERY_FIELDS)}")


def check_unseen(queries: Sequence[str], tested: Mapping[str, Sequence[str]]) -> None:
    """Raises ConfigError where a query is an item of a test split; `tested` holds each file's queries."""
    for name, items in tested.items():
        if common := set(queries) & set(items):
            raise ConfigError(
                f"{len(common)} of the probe queries are test items of {name}", hint="--queries names a validation file"
            )


def by_room(rendered: Sequence[Probe]) -> list[Probe]:
    """Those whose prompt leaves room for a reply, in their order; then the others, the shortest first."""
    roomy = [probe for probe in rendered if len(probe.prompt_token_ids) <= MAX_TOKENS - _ROOM]
    others = [probe for probe in rendered if len(probe.prompt_token_ids) > MAX_TOKENS - _ROOM]
    return [*roomy, *sorted(others, key=lambda probe: len(probe.prompt_token_ids))]
