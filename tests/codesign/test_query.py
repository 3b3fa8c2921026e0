from copy import deepcopy
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.query import surrounded, user_turns
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named

UNHURRIED = settings(deadline=None)  # a busy machine says nothing about the code
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@UNHURRIED
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_rewrite_surrounds_the_text_and_leaves_it_verbatim(before: str, text: str, after: str) -> None:
    message = surrounded(user(text), before, after)
    assert message == user(before + text + after)


@UNHURRIED
@given(st.lists(st.one_of(ANY_TEXT.map(text_part), st.just(IMAGE)), max_size=6), ANY_TEXT, ANY_TEXT)
def test_parts_get_it_before_the_first_and_after_the_last_text(
    parts: list[dict[str, Any]], before: str, after: str
) -> None:
    texts = [part["text"] for part in parts if part is not IMAGE]
    if not texts:
        assert user_turns([user(parts)]) == ()
        return
    message = surrounded(user(parts), before, after)
    rewritten = message["content"]
    assert "".join(part["text"] for part in rewritten if part is not IMAGE) == before + "".join(texts) + after
    assert [part is IMAGE for part in rewritten] == [part is IMAGE for part in parts]
    assert next(part for part in rewritten if part is not IMAGE)["text"].startswith(before + texts[0])
    assert next(part for part in reversed(rewritten) if part is not IMAGE)["text"].endswith(texts[-1] + after)


def test_middle_parts_and_further_fields_stay_as_they_are() -> None:
    cached = {"type": "text", "text": "first", "cache_control": {"type": "ephemeral"}}
    middle, last = text_part("middle"), text_part("last")
    message = {"role": "user", "name": "ann", "content": [IMAGE, cached, middle, last, IMAGE]}
    rewritten = surrounded(message, "<", ">")
    assert rewritten == {
        "role": "user",
        "name": "ann",
        "content": [IMAGE, {**cached, "text": "<first"}, middle, text_part("last>"), IMAGE],
    }
    assert rewritten["content"][2] is middle
    assert rewritten["content"][0] is IMAGE


def test_the_callers_messages_are_never_changed() -> None:
    messages = [user("plain"), user([text_part("one"), IMAGE])]
    before = deepcopy(messages)
    for message in messages:
        surrounded(message, "<", ">")
    assert messages == before


def test_every_other_message_is_passed_on_as_the_same_object() -> None:
    others = [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "user"},
        user([IMAGE]),
        "no message at all",
    ]
    messages = [*others, user("How many?")]
    rewritten = rewrite(Recipe(strategy_named("random"), pool=taxonomy_pool()), messages).messages
    assert all(now is then for now, then in zip(rewritten, others, strict=False))
    assert rewritten[-1]["content"].endswith("\n\nHow many?")


def test_turns_are_numbered_by_user_messages_whether_they_hold_text_or_not() -> None:
    messages = [
        {"role": "system", "content": "s"},
        user("one"),
        {"role": "assistant", "content": "a"},
        user([IMAGE]),
        user([text_part("three"), IMAGE, text_part("parts")]),
    ]
    assert [(turn.position, turn.number, turn.text) for turn in user_turns(messages)] == [
        (1, 0, "one"),
        (4, 2, "three\nparts"),
    ]


@pytest.mark.parametrize("kind", ["input_text", "output_text"])
def test_what_servers_render_as_text_is_text_under_its_other_names(kind: str) -> None:
    part = {"type": kind, "text": "How many?"}
    [turn] = user_turns([user([IMAGE, part])])
    assert turn.text == "How many?"
    message = surrounded(user([IMAGE, part]), "A baker asks. ", "")
    assert message == user([IMAGE, {**part, "text": "A baker asks. How many?"}])


def test_a_string_and_one_text_part_are_the_same_text() -> None:
    assert user_turns([user("How many?")]) == user_turns([user([text_part("How many?")])])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        user(None),
        user(""),
        user(" \n\t"),
        user([]),
        user([text_part(" ")]),
        user(7),
        user({"type": "text", "text": "not in a list"}),
        user(["bare string"]),
        user([{"type": "text"}]),
        user([{"type": "text", "text": None}]),
        user([{"type": "input_audio", "text": "not a text part"}]),
        {"role": ["user"], "content": "a list as role"},
        {"content": "no role"},
        {},
        None,
        "user",
        ["role", "user"],
    ],
)
def test_what_holds_no_user_text_is_no_turn(message: Any) -> None:
    assert user_turns([message]) == ()


class Choice(str, Enum):  # noqa: UP042 a StrEnum formats as its value, which this one does not: that is the point
    A = "How many?"


class Markup(str):
    """As in template engines: whatever is put before it is escaped."""

    __slots__ = ()

    def __radd__(self, other: str) -> str:
        return other.replace("<", "&lt;") + str(self)

    def __format__(self, spec: str) -> str:
        return "formatted"


@pytest.mark.parametrize("text", [Choice.A, Markup("How many?")])
def test_a_subclass_of_str_is_rewritten_as_its_text(text: str) -> None:
    messages = [user(text), user([text_part(text)])]
    assert [surrounded(message, "<", ">") for message in messages] == [
        user("<How many?>"),
        user([text_part("<How many?>")]),
    ]
