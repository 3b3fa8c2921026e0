"""Recipes of every strategy, and queries to rewrite by them."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from its_proxy.codesign import taxonomy
from its_proxy.codesign.personas import Persona, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, strategy_named

NAMES = ("none", "similar", "dissimilar", "random", "mixed", "filler", "fixed", "shuffled")
WITH_PERSONA = NAMES[1:]
NOUNS = (
    "eggs",
    "trains",
    "coins",
    "pencils",
    "\u00e9t\u00e9",
    "songs",
    "{query}",
    "3.5",
    "dogs",
    "\U0001f600",
    "crates",
)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60) | st.sampled_from(
    ["{persona}", "{query}", "{persona}\n\n{query}", "{{query}}", "{0}", "%s", "\\1", "\ud83d", "\x00", "x" * 100_000]
)
QUERY = ANY_TEXT.filter(str.strip)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
# No deadline: a busy machine says nothing about the code. Most of these run once for each strategy.
UNHURRIED = settings(deadline=None, max_examples=50)
SYSTEM = {"role": "system", "content": "Be brief."}


def recipe(name: str, **fields: Any) -> Recipe:
    return Recipe(strategy_named(name), **{"pool": taxonomy_pool(), "seed": 7, **fields})


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def queries(n: int) -> list[str]:
    return [f"In story {k}, {k % 13} {NOUNS[k % 11]} and {k % 7} {NOUNS[k % 10]}: how many?" for k in range(n)]


def assert_unrelated(persona: Persona, query: str) -> None:
    own = taxonomy.domain_of(query)
    drawn = taxonomy.domain_named(persona.domain)
    assert drawn.group != taxonomy.domain_named(own).group
    assert not drawn.keywords & set(taxonomy.words(query))
    assert not taxonomy.domain_named(own).keywords & set(taxonomy.words(persona.text))
