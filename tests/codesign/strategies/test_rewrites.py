"""The question's own words stay, one by one and in conversations."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from its_proxy.codesign.errors import StrategyNotApplicable
from its_proxy.codesign.strategies import Rewritten, rewrite
from tests.codesign.strategies.rewriting import (
    IMAGE,
    NAMES,
    QUERY,
    SYSTEM,
    UNHURRIED,
    WITH_PERSONA,
    assistant,
    recipe,
    user,
)

# -- the question's own words ------------------------------------------------------------------------------------------


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


# -- conversations -----------------------------------------------------------------------------------------------------


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
