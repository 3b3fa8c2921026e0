"""Duplicates among the queries: equal ones always go, near ones by MinHash; of each group the lowest rank stays."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from its_proxy.codesign.errors import ConfigError
from its_training.prepare.text import words_and_signs

N_PERMUTATIONS, SHINGLE, THRESHOLD = 128, 5, 0.8

Key = TypeVar("Key")


def exact_duplicates(queries: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(id, id of the one that stays) of every query whose words and signs stood before; by rank, as (id, text)."""
    first: dict[tuple[str, ...], str] = {}
    for identity, text in queries:
        kept = first.setdefault(words_and_signs(text), identity)
        if kept != identity:
            yield identity, kept


def near_duplicates(
    queries: Sequence[tuple[str, str]], on_done: Callable[[int], None] = lambda n_done: None
) -> Iterator[tuple[str, str, float]]:
    """(id, id of the one that stays, estimated similarity), for queries by rank; Jaccard of 5-grams >= 0.8.

    What is dropped does not hold others down: only those that stay are compared with.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        hint = "pip install 'its-proxy[train]', or --no-near-duplicates"
        raise ConfigError("near duplicates need datasketch", hint=hint) from None
    index = MinHashLSH(threshold=THRESHOLD, num_perm=N_PERMUTATIONS)
    kept: dict[str, MinHash] = {}
    texts = ([shingle.encode("utf-8", "surrogatepass") for shingle in shingles(text)] for _, text in queries)
    for n_done, ((identity, _), hashed) in enumerate(
        zip(queries, MinHash.generator(texts, num_perm=N_PERMUTATIONS), strict=True), start=1
    ):
        found = [(hashed.jaccard(kept[other]), other) for other in index.query(hashed)]
        similarity, other = max(found, default=(0.0, ""))
        if similarity >= THRESHOLD:
            yield identity, other, similarity
        else:
            index.insert(identity, hashed)
            kept[identity] = hashed
        on_done(n_done)


def shingles(text: str) -> list[str]:
    """Runs of five words or signs; a shorter text is one shingle."""
    found = words_and_signs(text)
    if len(found) <= SHINGLE:
        return [" ".join(found)]
    return [" ".join(found[start : start + SHINGLE]) for start in range(len(found) - SHINGLE + 1)]
