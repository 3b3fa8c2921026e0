import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign import strategies, taxonomy
from its_proxy.codesign.canonical import canonical_json
from its_proxy.codesign.errors import ManifestError, StrategyNotApplicable, StrategyUnavailable
from its_proxy.codesign.personas import Persona, Pool, taxonomy_pool
from its_proxy.codesign.strategies import (
    ENTRY_POINT_GROUP,
    PersonaRequest,
    Recipe,
    Rewritten,
    Strategy,
    load_strategies,
    name_from_input,
    register,
    rewrite,
    rewrite_async,
    strategy_named,
    strategy_names,
)

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


def golden_digest(name: str) -> str:
    """Over 200 queries: each as a training row, as served alone, and as served after another turn."""
    lines = []
    for n, query in enumerate(queries(200)):
        rows = (
            rewrite(recipe(name), [user(query)], row_id=f"row {n}"),
            rewrite(recipe(name), [user(query)]),
            rewrite(recipe(name, seed=n), [user(query), assistant("5"), user("And " + query)]),
        )
        lines += [canonical_json(row.messages) for row in rows]
    return sha256(b"\n".join(lines)).hexdigest()


def written(request: PersonaRequest) -> str:
    return f"You know {request.domain} and {{query}} ({request.strategy}, {len(request.text)})."


async def written_later(request: PersonaRequest) -> str:
    return written(request)


# ---- the question's own words


@pytest.mark.parametrize("name", NAMES)
@UNHURRIED
@given(query=QUERY, seed=st.integers())
def test_the_query_stays_verbatim_at_the_end_of_the_rewrite(name: str, query: str, seed: int) -> None:
    rewritten = rewrite(recipe(name, seed=seed), [user(query)])
    content = rewritten.messages[0]["content"]
    persona = rewritten.personas.get(0)
    assert content == (query if persona is None else f"{persona.text}\n\n" + query)
    assert (persona is None) == (name == "none")


@UNHURRIED
@given(
    query=QUERY,
    persona=QUERY,
    before=st.text("ab {}\n", max_size=5),
    between=st.text("ab {}\n", max_size=5),
    after=st.text("ab {}\n", max_size=5),
    is_first=st.booleans(),
)
def test_a_template_is_filled_once_whatever_the_texts_hold(
    query: str, persona: str, before: str, between: str, after: str, is_first: bool
) -> None:
    first, second = ("{persona}", "{query}") if is_first else ("{query}", "{persona}")
    template = before + first + between + second + after
    rewritten = rewrite(recipe("random", template=template, pool=None), [user(query)], write=lambda request: persona)
    texts = (persona, query) if is_first else (query, persona)
    assert rewritten.messages == [user(before + texts[0] + between + texts[1] + after)]
    assert rewritten.personas[0].text == persona


@pytest.mark.parametrize("name", WITH_PERSONA)
@UNHURRIED
@given(parts=st.lists(QUERY.map(lambda text: {"type": "text", "text": text}) | st.just(IMAGE), min_size=1, max_size=5))
def test_the_persona_goes_before_the_first_or_after_the_last_text_part(name: str, parts: list[dict[str, Any]]) -> None:
    texts = [part["text"] for part in parts if part is not IMAGE]
    if not texts:
        return
    for template in ("{persona}|{query}", "{query}|{persona}", "<{query}{persona}>"):
        rewritten = rewrite(recipe(name, template=template), [user(parts)])
        now = rewritten.messages[0]["content"]
        whole = template.replace("{persona}", rewritten.personas[0].text)
        before, after = whole.split("{query}")
        assert [part is IMAGE for part in now] == [part is IMAGE for part in parts]
        new_texts = [part["text"] for part in now if part is not IMAGE]
        assert new_texts[0].startswith(before + texts[0])
        assert new_texts[-1].endswith(texts[-1] + after)
        assert "".join(new_texts) == before + "".join(texts) + after


@pytest.mark.parametrize("name", NAMES)
def test_messages_without_the_users_text_are_passed_on_as_the_same_objects(name: str) -> None:
    others = [
        SYSTEM,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "7 eggs"},
        user([IMAGE]),
        user(None),
        "no message",
        None,
    ]
    messages: list[Any] = [*others, user("How many eggs?")]
    before = deepcopy(messages)
    rewritten = rewrite(recipe(name, system_prompt="recorded"), messages)
    assert all(now is then for now, then in zip(rewritten.messages, others, strict=False))
    assert len(rewritten.messages) == len(messages)
    assert messages == before


@pytest.mark.parametrize("name", NAMES)
def test_a_string_and_a_text_part_get_the_same_persona(name: str) -> None:
    as_string = rewrite(recipe(name), [user("How many eggs?")])
    as_part = rewrite(recipe(name), [user([{"type": "text", "text": "How many eggs?"}])])
    assert as_part.messages[0]["content"] == [{"type": "text", "text": as_string.messages[0]["content"]}]
    assert as_part.personas == as_string.personas


# ---- conversations


@pytest.mark.parametrize("name", NAMES)
@UNHURRIED
@given(turns=st.lists(st.tuples(QUERY, QUERY), min_size=2, max_size=5))
def test_history_renders_the_same_as_the_conversation_grows(name: str, turns: list[tuple[str, str]]) -> None:
    messages = [message for asked, replied in turns for message in (user(asked), assistant(replied))]
    whole = rewrite(recipe(name), messages).messages
    for n in range(1, len(messages), 2):
        assert rewrite(recipe(name), messages[:n]).messages == whole[:n]


@pytest.mark.parametrize("name", WITH_PERSONA)
def test_all_turns_or_only_the_last_one(name: str) -> None:
    messages = [user("How many eggs?"), assistant("3"), user([IMAGE]), assistant("?"), user("And dogs?")]
    every = rewrite(recipe(name, turns="all"), messages)
    last = rewrite(recipe(name, turns="last"), messages)
    assert sorted(every.personas) == [0, 2]
    assert sorted(last.personas) == [2]
    assert last.messages == [*messages[:4], every.messages[4]]
    assert every.messages[0] != messages[0]


def test_the_same_question_asked_again_may_get_another_persona() -> None:
    asked = [user(f"How many? {n // 2}") for n in range(40)]
    drawn = rewrite(recipe("random"), asked).personas
    assert sum(drawn[n] != drawn[n + 1] for n in range(0, 40, 2)) > 10


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_system_prompt_stands_in_for_a_missing_one(name: str) -> None:
    rewritten = rewrite(recipe(name, system_prompt="recorded"), [user("How many eggs?")])
    assert rewritten.messages[0] == {"role": "system", "content": "recorded"}
    assert rewritten.messages[1:] == rewrite(recipe(name), [user("How many eggs?")]).messages


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_clients_own_system_prompt_stays(role: str) -> None:
    messages = [{"role": role, "content": "the client's"}, user("How many eggs?")]
    assert rewrite(recipe("none", system_prompt="recorded"), messages).messages == messages


@pytest.mark.parametrize("name", WITH_PERSONA)
@pytest.mark.parametrize(
    "messages",
    [[], [SYSTEM], [assistant("3")], [user("")], [user(" \n")], [user(None)], [user([IMAGE])], ["How many?"], [None]],
)
def test_without_text_of_the_user_a_persona_has_no_place(name: str, messages: list[Any]) -> None:
    with pytest.raises(StrategyNotApplicable) as refusal:
        rewrite(recipe(name), messages)
    assert refusal.value.param == "messages"
    assert name in str(refusal.value)


@pytest.mark.parametrize("messages", [[], [user("")], [user([IMAGE])], [None]])
def test_none_passes_on_what_holds_no_text(messages: list[Any]) -> None:
    assert rewrite(recipe("none"), messages) == Rewritten(messages, {})


# ---- each strategy


@pytest.mark.parametrize("query", ["How many eggs does the chef use?", "a train and a bus", "What is 3 + 4?"])
def test_similar_draws_from_the_querys_own_domain(query: str) -> None:
    assert rewrite(recipe("similar"), [user(query)]).personas[0].domain == taxonomy.domain_of(query)


@UNHURRIED
@given(query=QUERY | st.lists(st.sampled_from(sorted(taxonomy.DOMAINS[9].keywords)), min_size=1).map(" ".join))
def test_dissimilar_draws_a_domain_and_a_persona_that_share_no_word_with_the_querys_domain(query: str) -> None:
    persona = rewrite(recipe("dissimilar"), [user(query)]).personas[0]
    assert_unrelated(persona, query)


def assert_unrelated(persona: Persona, query: str) -> None:
    own = taxonomy.domain_of(query)
    drawn = taxonomy.domain_named(persona.domain)
    assert drawn.group != taxonomy.domain_named(own).group
    assert not drawn.keywords & set(taxonomy.words(query))
    assert not taxonomy.domain_named(own).keywords & set(taxonomy.words(persona.text))


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


# ---- recipes


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


# ---- the two drivers


@pytest.mark.parametrize("name", NAMES)
async def test_batch_and_async_give_the_same_bytes_with_a_pool(name: str) -> None:
    for n, query in enumerate(queries(60)):
        messages = [SYSTEM, user(query), assistant("3"), user([{"type": "text", "text": query}, IMAGE])]
        for row_id in (None, f"row {n}"):
            at_once = rewrite(recipe(name), messages, row_id=row_id)
            later = await rewrite_async(recipe(name), messages, row_id=row_id)
            assert canonical_json(at_once.messages) == canonical_json(later.messages)
            assert at_once == later


@pytest.mark.parametrize("name", NAMES)
async def test_batch_and_async_give_the_same_bytes_with_a_writer(name: str) -> None:
    for n, query in enumerate(queries(60)):
        messages = [user(query), assistant("3"), user(query)]
        for row_id in (None, f"row {n}"):
            at_once = rewrite(recipe(name, pool=None), messages, row_id=row_id, write=written)
            later = await rewrite_async(recipe(name, pool=None), messages, row_id=row_id, write=written_later)
            assert canonical_json(at_once.messages) == canonical_json(later.messages)
            assert at_once == later


@pytest.mark.parametrize("name", WITH_PERSONA)
def test_a_writer_is_asked_for_the_domain_that_the_strategy_picks_once_a_turn(name: str) -> None:
    asked: list[PersonaRequest] = []

    def write(request: PersonaRequest) -> str:
        asked.append(request)
        return "You write {persona} and {query}."

    messages = [user("The chef has 3 eggs."), assistant("3"), user("And 4 trains?")]
    rewritten = rewrite(recipe(name, pool=None), messages, write=write)
    assert len(asked) == 2
    assert {request.domain for request in asked} <= {*taxonomy.NAMES, taxonomy.GENERAL}
    if name != "fixed":
        assert [request.text for request in asked] == ["The chef has 3 eggs.", "And 4 trains?"]
    if name == "similar":
        assert [request.domain for request in asked] == ["cooking", "railways"]
    if name != "filler":
        assert rewritten.messages[0] == user("You write {persona} and {query}.\n\nThe chef has 3 eggs.")


@pytest.mark.parametrize("name", WITH_PERSONA)
async def test_without_pool_and_writer_the_strategy_is_unavailable(name: str) -> None:
    with pytest.raises(StrategyUnavailable, match=name):
        rewrite(recipe(name, pool=None), [user("3 eggs")])
    with pytest.raises(StrategyUnavailable, match=name) as refusal:
        await rewrite_async(recipe(name, pool=None), [user("3 eggs")])
    assert refusal.value.is_retryable


def test_none_needs_neither_pool_nor_writer() -> None:
    assert rewrite(recipe("none", pool=None), [user("3 eggs")]).messages == [user("3 eggs")]


async def test_a_writer_that_fails_is_heard() -> None:
    texts: Iterator[str] = iter(["You cook."])

    def write(request: PersonaRequest) -> str:
        return next(texts)

    async def write_later(request: PersonaRequest) -> str:
        raise StrategyUnavailable("the writer is down")

    with pytest.raises(StopIteration):
        rewrite(recipe("random", pool=None), [user("3 eggs"), user("4 eggs")], write=write)
    with pytest.raises(StrategyUnavailable, match="is down"):
        await rewrite_async(recipe("random", pool=None), [user("3 eggs")], write=write_later)


# ---- the same text in every process, forever

GOLDEN = {
    "none": "81bb47d569ce393a799baeaf66cd54fe4481a8f23aa03ffb9dd73d8d31144fe4",
    "similar": "b43c6098d21c13f4691cc2ac2a1d6a48b9889ed9d3a1ffa53bd0263f3b38ea20",
    "dissimilar": "898836ffa0d7b687686eb9f39dff134d77c4c61ffee9f97cd782951d66e7efba",
    "random": "484351c7b996a75ef7f167f01c3577943b7365641224c1901aa6a934c67ee72d",
    "mixed": "8d7ef85f74086acc7be2185b7181fce793d48d706a8f6476ae22d99c079f9bd0",
    "filler": "4d55dedc0d85213c968e9657b73fe0942b9ddd22cce723daffa8ea7b2e2779cf",
    "fixed": "632c0664fb19ea41660140bd0179c09bd64f1cc7a0ad6f32bccc512a5294a879",
    "shuffled": "115860664eaf21e3a652faef23a7a9d47e69231dba859bf0fd8872c8a8eceff8",
}


@pytest.mark.parametrize("name", NAMES)
def test_rewrites_are_the_recorded_ones(name: str) -> None:
    assert golden_digest(name) == GOLDEN[name], (
        f"{name!r} rewrites differently than it did: checkpoints trained with version 1 would be served other text. "
        "Keep version 1 as it is and register the new rule as version 2"
    )


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_rewrites_are_the_same_in_another_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == {name: golden_digest(name) for name in NAMES}


# ---- GSM8K


@pytest.fixture(scope="session")
def gsm8k(test_data: Path) -> list[str]:
    lines = (test_data / "gsm8k-test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def rewrite_all(name: str, questions: Sequence[str]) -> list[Rewritten]:
    return [rewrite(recipe(name), [user(question)], row_id=f"gsm8k:{n}") for n, question in enumerate(questions)]


@pytest.mark.parametrize("name", NAMES)
def test_all_gsm8k_questions_are_rewritten_alike_twice_with_their_text_intact(name: str, gsm8k: list[str]) -> None:
    started = time.perf_counter()
    rewritten = rewrite_all(name, gsm8k)
    print(f"{name}: {len(gsm8k)} questions rewritten in {time.perf_counter() - started:.2f} s")
    assert len(rewritten) == 1319
    assert rewrite_all(name, gsm8k) == rewritten
    for question, row in zip(gsm8k, rewritten, strict=True):
        persona = row.personas.get(0)
        assert row.messages == [user(question if persona is None else f"{persona.text}\n\n{question}")]


def test_dissimilar_is_unrelated_on_all_gsm8k_questions(gsm8k: list[str]) -> None:
    for question, row in zip(gsm8k, rewrite_all("dissimilar", gsm8k), strict=True):
        assert_unrelated(row.personas[0], question)


def test_shuffled_leaves_the_own_domain_of_all_gsm8k_questions(gsm8k: list[str]) -> None:
    for question, row in zip(gsm8k, rewrite_all("shuffled", gsm8k), strict=True):
        assert row.personas[0].domain != taxonomy.domain_of(question)


# ---- the registry


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(strategies._registry)
    yield
    strategies._registry.clear()
    strategies._registry.update(before)


def test_our_own_strategies_are_there_in_order() -> None:
    assert strategy_names()[: len(NAMES)] == NAMES
    assert {strategy_named(name).family for name in WITH_PERSONA} == {"context"}
    assert strategy_named("none").family == "none"


@pytest.mark.usefixtures("registry")
def test_a_name_and_version_that_are_taken_are_refused() -> None:
    taken = strategy_named("random")
    register(taken)  # the same one again is no harm
    with pytest.raises(ManifestError, match="'random' version 1 is registered twice"):
        register(Strategy("random", 1, "context", strategy_named("fixed").steps))
    assert strategy_named("random") is taken


@pytest.mark.usefixtures("registry")
def test_a_new_version_stands_beside_the_old_one() -> None:
    register(Strategy("random", 2, "context", strategy_named("fixed").steps))
    assert strategy_named("random", 2).steps is strategy_named("fixed").steps
    assert strategy_named("random").version == 1
    assert strategy_names()[: len(NAMES)] == NAMES
    with pytest.raises(ManifestError, match="versions here: 1, 2"):
        strategy_named("random", 3)


@pytest.mark.parametrize("name", ["", "Random", "N", "rando", "random\n"])
def test_an_unknown_name_is_told_what_is_known(name: str) -> None:
    with pytest.raises(ManifestError) as refusal:
        strategy_named(name)
    assert all(known in str(refusal.value) for known in NAMES)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("N", "none"), ("S", "similar"), ("U", "dissimilar"), ("D", "dissimilar"), ("R", "random"), ("mixed", "mixed"),
     ("n", "n"), ("X", "X")],
)  # fmt: skip
def test_the_papers_letters_are_read_on_input(typed: str, name: str) -> None:
    assert name_from_input(typed) == name


EXTRA_MODULE = """
from its_proxy.codesign.personas import Persona
from its_proxy.codesign.strategies import Strategy

def _shout(situation):
    text = yield from _ask(situation)
    return Persona(text, "music")

def _ask(situation):
    if False:
        yield
    return f"SHOUT {situation.draw.number('loud') % 10}"

shout = Strategy("shout", 1, "loud", _shout)
taken = Strategy("random", 1, "loud", _shout)
number = 7
"""
ENTRY_POINTS = f"""[{ENTRY_POINT_GROUP}]
shout = its_extra_strategies:shout
taken = its_extra_strategies:taken
number = its_extra_strategies:number
absent = its_extra_strategies:absent
broken = its_extra_broken:shout
"""


@pytest.fixture
def extra_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> Iterator[None]:
    """An installed package that offers strategies by entry points."""
    (tmp_path / "its_extra_strategies.py").write_text(EXTRA_MODULE)
    (tmp_path / "its_extra_broken.py").write_text("raise RuntimeError('two\\nlines')")
    info = tmp_path / "its_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: its-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for module in ("its_extra_strategies", "its_extra_broken"):
        sys.modules.pop(module, None)


@pytest.mark.usefixtures("extra_package")
def test_an_installed_packages_strategy_is_loaded_by_its_name() -> None:
    load_strategies([])
    assert "its_extra_strategies" not in sys.modules  # listed by nobody, imported by nobody
    load_strategies(["shout"])
    load_strategies(["shout"])  # settings may be read again
    assert strategy_named("shout").family == "loud"
    rewritten = rewrite(recipe("shout", pool=None), [user("3 eggs")])
    assert rewritten.messages[0]["content"].startswith("SHOUT ")
    assert rewritten.messages[0]["content"].endswith("\n\n3 eggs")


@pytest.mark.usefixtures("extra_package")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unheard", "offered: absent, broken, number, shout, taken"),
        ("taken", "registered twice"),
        ("number", "not a Strategy"),
        ("absent", "cannot be loaded"),
        ("broken", "cannot be loaded"),
    ],
)
def test_a_strategy_that_cannot_be_had_is_refused_in_one_line(name: str, reason: str) -> None:
    before = strategy_names()
    with pytest.raises(ManifestError, match=reason) as refusal:
        load_strategies([name])
    assert "\n" not in str(refusal.value)
    assert strategy_names() == before


if __name__ == "__main__":
    print(json.dumps({name: golden_digest(name) for name in NAMES}))
