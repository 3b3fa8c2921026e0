"""Which persona each strategy draws, and from which pools."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from its_proxy.codesign import taxonomy
from its_proxy.codesign.errors import ManifestError, StrategyUnavailable
from its_proxy.codesign.personas import Persona, Pool, taxonomy_pool
from its_proxy.codesign.strategies import Rewritten, rewrite
from tests.codesign.strategies.rewriting import NAMES, QUERY, UNHURRIED, assert_unrelated, queries, recipe, user

# -- each strategy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["How many eggs does the chef use?", "a train and a bus", "What is 3 + 4?"])
def test_similar_draws_from_the_querys_own_domain(query: str) -> None:
    assert rewrite(recipe("similar"), [user(query)]).personas[0].domain == taxonomy.domain_of(query)


@UNHURRIED
@given(query=QUERY | st.lists(st.sampled_from(sorted(taxonomy.DOMAINS[9].keywords)), min_size=1).map(" ".join))
def test_dissimilar_draws_a_domain_and_a_persona_that_share_no_word_with_the_querys_domain(query: str) -> None:
    persona = rewrite(recipe("dissimilar"), [user(query)]).personas[0]
    assert_unrelated(persona, query)


def test_dissimilar_passes_over_personas_that_speak_of_the_querys_domain() -> None:
    names = (*taxonomy.NAMES, taxonomy.GENERAL)
    pool = Pool.of([Persona(text, name) for name in names for text in ("You cook eggs.", f"You know {name}.")])
    for n in range(50):
        persona = rewrite(recipe("dissimilar", pool=pool), [user(f"{n} eggs")]).personas[0]
        assert persona.text == f"You know {persona.domain}."


def test_dissimilar_says_so_when_the_pool_holds_nothing_unrelated() -> None:
    names = (*taxonomy.NAMES, taxonomy.GENERAL)
    pool = Pool.of([Persona("You cook eggs.", name) for name in names])
    with pytest.raises(StrategyUnavailable, match="cooking"):
        rewrite(recipe("dissimilar", pool=pool), [user("3 eggs")])


def test_random_is_about_uniform_over_the_forty_domains() -> None:
    n_queries = 4000
    counts = Counter(rewrite(recipe("random"), [user(query)]).personas[0].domain for query in queries(n_queries))
    assert set(counts) == set(taxonomy.NAMES)
    expected = n_queries / len(taxonomy.NAMES)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 72  # 39 degrees of freedom: a fair draw exceeds it once in a thousand, and this one is fixed


def test_mixed_leaves_about_half_of_the_training_rows_plain_by_their_id() -> None:
    rows = [rewrite(recipe("mixed"), [user("How many eggs?")], row_id=f"gsm8k:{n}") for n in range(2000)]
    plain = [not row.personas for row in rows]
    assert 900 < sum(plain) < 1100
    assert all(row.messages == [user("How many eggs?")] for row in rows if not row.personas)
    other_texts = [rewrite(recipe("mixed"), [user(f"{n} dogs")], row_id=f"gsm8k:{n}") for n in range(200)]
    assert [not row.personas for row in other_texts] == plain[:200]


def test_mixed_rows_with_a_persona_and_mixed_served_are_random_to_the_letter() -> None:
    for n, query in enumerate(queries(200)):
        as_random = rewrite(recipe("random"), [user(query)])
        assert rewrite(recipe("mixed"), [user(query)]) == as_random
        row = rewrite(recipe("mixed"), [user(query)], row_id=str(n))
        assert row in (as_random, Rewritten([user(query)], {}))


@UNHURRIED
@given(
    texts=st.lists(st.text(min_size=1, max_size=200).filter(str.strip), min_size=1, max_size=4),
    query=QUERY,
)
def test_filler_is_exactly_as_long_as_the_persona_that_random_draws(texts: list[str], query: str) -> None:
    pool = Pool.of([Persona(text, name) for text in texts for name in ("cooking", "music")])
    filler = rewrite(recipe("filler", pool=pool), [user(query)]).personas[0]
    drawn = rewrite(recipe("random", pool=pool), [user(query)]).personas[0]
    assert len(filler.text) == len(drawn.text)
    assert filler.domain == taxonomy.GENERAL


def test_filler_names_no_domain() -> None:
    for query in queries(300):
        assert not taxonomy.relatedness(rewrite(recipe("filler"), [user(query)]).personas[0].text)


def test_fixed_gives_every_query_and_turn_one_persona_that_the_seed_picks() -> None:
    def fixed(seed: int) -> set[Persona]:
        return {
            persona
            for query in queries(50)
            for persona in rewrite(recipe("fixed", seed=seed), [user(query), user("again")]).personas.values()
        }

    assert all(len(fixed(seed)) == 1 for seed in range(5))
    assert len(set.union(*(fixed(seed) for seed in range(20)))) > 10


def test_shuffled_never_draws_the_querys_own_domain() -> None:
    drawn = Counter()
    for n in range(2000):
        drawn[rewrite(recipe("shuffled"), [user(f"The chef has {n} eggs.")]).personas[0].domain] += 1
    assert set(drawn) == set(taxonomy.NAMES) - {"cooking"}


@pytest.mark.parametrize("name", NAMES[1:5])
def test_another_seed_is_another_draw(name: str) -> None:
    drawn = {rewrite(recipe(name, seed=seed), [user("The chef has 3 eggs.")]).personas[0] for seed in range(200)}
    assert len(drawn) > 15


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    ["", "{query}", "{persona}", "{persona}{persona}{query}", "{persona} {query} {query}", "{ persona}{query}"],
)
def test_a_template_must_hold_persona_and_query_once_each(template: str) -> None:
    with pytest.raises(ManifestError, match="once each"):
        recipe("random", template=template)


@pytest.mark.parametrize("name", ["similar", "dissimilar", "shuffled"])
def test_strategies_that_follow_the_query_need_personas_of_every_domain(name: str) -> None:
    pool = Pool.of([persona for persona in taxonomy_pool().personas if persona.domain not in ("music", "pets")])
    with pytest.raises(ManifestError, match="missing: pets, music"):
        recipe(name, pool=pool)


@pytest.mark.parametrize("name", ["random", "mixed", "filler", "fixed"])
def test_strategies_that_do_not_follow_it_draw_from_the_domains_at_hand(name: str) -> None:
    pool = Pool.of([Persona("You sing.", "music"), Persona("You rest.", taxonomy.GENERAL)])
    persona = rewrite(recipe(name, pool=pool), [user("3 eggs")]).personas[0]
    assert persona.text == "You sing." or (name == "filler" and len(persona.text) == len("You sing."))


def test_a_pool_without_a_domain_to_draw_from_is_refused() -> None:
    with pytest.raises(ManifestError, match="no domain"):
        recipe("random", pool=Pool.of([Persona("You rest.", taxonomy.GENERAL)]))
