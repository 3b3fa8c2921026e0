import json
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign import taxonomy
from its_proxy.codesign.errors import ManifestError
from its_proxy.codesign.personas import MAX_POOL_BYTES, Draw, Persona, Pool, pool_jsonl, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from tests.counted import counting

UNHURRIED = settings(deadline=None)  # a busy machine says nothing about the code
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
PERSONAS = st.builds(
    Persona,
    st.text(min_size=1, max_size=60).filter(str.strip),
    st.sampled_from((*taxonomy.NAMES, taxonomy.GENERAL)),
)
DOMAINS = (*taxonomy.NAMES, taxonomy.GENERAL)
DRAW = Draw(seed=7, strategy="random", turn=0, text="How many eggs?")


@UNHURRIED
@given(st.integers(), ANY_TEXT, st.integers(0, 1000), ANY_TEXT, ANY_TEXT)
def test_equal_draws_give_equal_numbers_of_64_bits(
    seed: int, strategy: str, turn: int, text: str, purpose: str
) -> None:
    number = Draw(seed, strategy, turn, text).number(purpose)
    assert number == Draw(seed, strategy, turn, text).number(purpose)
    assert 0 <= number < 2**64


@pytest.mark.parametrize(
    "other",
    [
        replace(DRAW, seed=8),
        replace(DRAW, strategy="similar"),
        replace(DRAW, turn=1),
        replace(DRAW, text="How many eggs? "),
        # Fields are told apart: what moves from one to the next is another draw.
        replace(DRAW, seed=70, turn=0),
        replace(DRAW, seed=7, turn=10),
    ],
)
def test_each_field_of_a_draw_counts(other: Draw) -> None:
    assert other.number("persona") != DRAW.number("persona")


def test_each_purpose_has_a_number_of_its_own() -> None:
    assert len({DRAW.number(purpose) for purpose in ("domain", "persona", "plain", "word 0", "word 1")}) == 5


def test_a_draw_is_the_recorded_number() -> None:
    assert (DRAW.number("domain"), DRAW.number("persona")) == (12976842474189693008, 6918948204417333163), (
        "every trained checkpoint depends on these numbers: another way to draw needs new strategy versions"
    )


@UNHURRIED
@given(st.lists(PERSONAS, min_size=1, max_size=12))
def test_a_pool_reads_back_what_was_written(personas: list[Persona]) -> None:
    data = pool_jsonl(personas)
    pool = Pool.from_jsonl(data)
    assert pool.personas == tuple(personas)
    assert pool.sha256 == sha256(data).hexdigest()
    assert pool == Pool.of(personas)
    assert [persona for domain in pool.by_domain for persona in pool.by_domain[domain]] == sorted(
        personas, key=lambda persona: list(pool.by_domain).index(persona.domain)
    )


@UNHURRIED
@given(st.lists(PERSONAS, min_size=1, max_size=12), ANY_TEXT)
def test_a_persona_is_drawn_from_the_asked_domain(personas: list[Persona], text: str) -> None:
    pool = Pool.of(personas)
    for domain in pool.by_domain:
        assert pool.draw(domain, replace(DRAW, text=text)) in [
            persona for persona in personas if persona.domain == domain
        ]


def test_personas_of_a_domain_are_drawn_about_equally_often() -> None:
    pool = Pool.of([Persona(f"persona {n}", "cooking") for n in range(10)])
    drawn = Counter(pool.draw("cooking", replace(DRAW, text=f"query {n}")) for n in range(5000))
    assert len(drawn) == 10
    assert all(400 < count < 600 for count in drawn.values())


def test_domains_come_in_the_order_of_the_taxonomy_and_without_the_general_one() -> None:
    pool = Pool.of([Persona("x", name) for name in ("gardening", taxonomy.GENERAL, "cooking", "swimming", "cooking")])
    assert pool.domains == ("cooking", "gardening", "swimming")


def test_a_draw_takes_as_many_steps_from_a_large_pool_as_from_a_small_one() -> None:
    def steps(n_each: int, name: str) -> int:
        personas = [Persona(f"Persona {n} of no trade.", domain) for domain in DOMAINS for n in range(n_each)]
        recipe = Recipe(strategy_named(name), pool=Pool.of(personas), seed=7)
        with counting() as counted:
            rewrite(recipe, [{"role": "user", "content": "How many eggs does the cook fry?"}])
        return counted.total()

    for name in ("random", "similar", "dissimilar", "mixed", "fixed", "shuffled"):
        steps(1, name)  # what is remembered from the first draw on
        assert steps(200, name) == steps(2, name), name


def test_personas_of_a_pool_share_the_name_of_their_domain() -> None:
    pool = Pool.of([Persona(f"{n}", "cooking") for n in range(3)])
    assert len({id(persona.domain) for persona in pool.personas}) == 1


def test_only_line_feeds_and_carriage_returns_end_a_persona() -> None:
    text = "one\u2028two\x85three\x0bfour\x1efive\nsix"
    assert Pool.of([Persona(text, "cooking")]).personas == (Persona(text, "cooking"),)


def test_blank_lines_and_further_fields_are_passed_over() -> None:
    data = b'\n{"text": "a", "domain": "cooking", "id": 3}\r\n  \n{"domain": "farming", "text": "b"}'
    assert Pool.from_jsonl(data).personas == (Persona("a", "cooking"), Persona("b", "farming"))


GOOD_LINE = '{"text": "a", "domain": "cooking"}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"null",
        b'"text domain"',
        b"{}",
        b'{"text": "a"}',
        b'{"domain": "cooking"}',
        b'{"text": "", "domain": "cooking"}',
        b'{"text": " \\n", "domain": "cooking"}',
        b'{"text": 3, "domain": "cooking"}',
        b'{"text": "a", "domain": "alchemy"}',
        b'{"text": "a", "domain": ["cooking"]}',
        b'{"text": "a", "domain": null}',
        b'{"text": "a", "text": "b", "domain": "cooking"}',
        b'{"text": "\\ud800", "domain": "cooking"}',
        b'{"text": "\xff", "domain": "cooking"}',
        b'{"text": NaN, "domain": "cooking"}',
        b"[" * 100_000,
    ],
)
def test_a_bad_line_is_refused_by_its_number_in_one_line(line: bytes) -> None:
    with pytest.raises(ManifestError, match="line 2 of the persona pool") as refusal:
        Pool.from_jsonl(GOOD_LINE.encode() + line)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_pool_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="empty"):
        Pool.from_jsonl(data)


def test_a_pool_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ManifestError, match="at most 67108864"):
        Pool.from_jsonl(bytes(MAX_POOL_BYTES + 1))


def test_a_persona_that_no_file_can_hold_is_refused_as_a_pool() -> None:
    with pytest.raises(ManifestError):
        Pool.of([Persona("half of a pair: \ud83d", "cooking")])


def test_a_pool_cannot_be_changed() -> None:
    pool: Any = taxonomy_pool()
    with pytest.raises(TypeError):
        pool.by_domain["cooking"] = ()
    with pytest.raises(FrozenInstanceError):
        pool.sha256 = ""


def test_the_taxonomys_pool_is_the_recorded_one() -> None:
    pool = taxonomy_pool()
    assert pool.sha256 == "6c231f9de74c6d9c512df412e283fb1467fd8491f300c67d5e5fc15e3c1e14eb", (
        "manifests name this digest: another wording of a template persona needs taxonomy/2"
    )
    assert set(pool.by_domain) == {*taxonomy.NAMES, taxonomy.GENERAL}
    assert all(len(group) == 24 for group in pool.by_domain.values())
    assert json.loads(pool_jsonl(pool.personas).splitlines()[0]).keys() == {"text", "domain"}
