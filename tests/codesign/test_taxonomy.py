import os
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign import taxonomy

UNHURRIED = settings(deadline=None)  # a busy machine says nothing about the code
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
KEYWORDS = sorted({keyword for domain in taxonomy.DOMAINS for keyword in domain.keywords})
KEYWORD_TEXT = st.lists(st.sampled_from(KEYWORDS), max_size=12).map(" ".join)


def digest_of_domains() -> str:
    """Over every keyword beside its next 40 in the alphabet: many of these texts lie between two domains."""
    texts = [f"{first} {second}" for first, second in zip(KEYWORDS * 40, _later_keywords(), strict=True)]
    found = [f"{text}: {taxonomy.domain_of(text)} {taxonomy.unrelated_domains(text)}" for text in texts]
    return sha256("\n".join(found).encode()).hexdigest()


def _later_keywords() -> list[str]:
    return [keyword for step in range(1, 41) for keyword in (*KEYWORDS[step:], *KEYWORDS[:step])]


def test_there_are_forty_domains_of_different_names() -> None:
    assert len(set(taxonomy.NAMES)) == len(taxonomy.NAMES) == 40
    assert taxonomy.GENERAL not in taxonomy.NAMES


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("How many eggs does the chef use?", "cooking"),
        ("The COACH brings balls to the stadium.", "team sports"),
        ("a bank pays out coins and bonds", "banking"),
        ("The captain loads ropes and crates in the harbour.", "sailing"),
        ("What is 3 + 4?", taxonomy.GENERAL),
        ("", taxonomy.GENERAL),
        ("\u5065\u5eb7 \u00e9t\u00e9", taxonomy.GENERAL),
    ],
)
def test_a_text_belongs_to_the_domain_of_its_words(text: str, domain: str) -> None:
    assert taxonomy.domain_of(text) == domain


def test_plural_and_singular_are_one_word() -> None:
    assert taxonomy.words("Coins, coin: class glass-es BUS") == ["coin", "coin", "class", "glass", "es", "bus"]


def test_on_a_draw_the_earlier_domain_of_the_table_wins() -> None:
    # Both words occur in one domain only, and the two domains have the same number of such keywords: equal weights.
    scores = taxonomy.relatedness("passenger sprint")
    assert scores["railways"] == scores["running"]
    assert taxonomy.NAMES.index("running") < taxonomy.NAMES.index("railways")
    assert taxonomy.domain_of("passenger sprint") == "running"


@UNHURRIED
@given(ANY_TEXT | KEYWORD_TEXT)
def test_unrelated_domains_share_neither_word_nor_group_with_the_text(text: str) -> None:
    own = taxonomy.domain_of(text)
    unrelated = taxonomy.unrelated_domains(text)
    words = set(taxonomy.words(text))
    assert unrelated
    for name in unrelated:
        assert taxonomy.domain_named(name).group != taxonomy.domain_named(own).group
        assert not words & taxonomy.domain_named(name).keywords


def test_a_text_that_touches_every_domain_still_has_unrelated_ones() -> None:
    text = " ".join(KEYWORDS)
    own_group = taxonomy.domain_named(taxonomy.domain_of(text)).group
    unrelated = taxonomy.unrelated_domains(text)
    assert unrelated
    assert all(taxonomy.domain_named(name).group != own_group for name in unrelated)


@UNHURRIED
@given(st.lists(KEYWORD_TEXT, min_size=2, max_size=4))
def test_relatedness_grows_with_every_word(texts: list[str]) -> None:
    grown = [taxonomy.relatedness(" ".join(texts[: n + 1])) for n in range(len(texts))]
    for less, more in pairwise(grown):
        assert all(more[name] >= score for name, score in less.items())


def test_a_domain_without_a_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        taxonomy.domain_named("alchemy")


def test_every_domain_has_its_own_template_personas() -> None:
    personas = taxonomy.template_personas()
    texts = [text for _, text in personas]
    assert {domain for domain, _ in personas} == {*taxonomy.NAMES, taxonomy.GENERAL}
    assert len(set(texts)) == len(texts)
    assert not any(character.isdigit() for text in texts for character in text)


def test_the_domains_of_texts_are_the_recorded_ones() -> None:
    assert digest_of_domains() == "8a9781968d8140651d0392dd5d968f9c974d8394ea7b272883c66bfa4a9d46a6", (
        "another domain for a text is another persona: it needs taxonomy/2"
    )


@pytest.mark.parametrize("hash_seed", ["1", "4", "5"])
def test_domains_are_the_same_in_every_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == digest_of_domains()


if __name__ == "__main__":
    print(digest_of_domains())
