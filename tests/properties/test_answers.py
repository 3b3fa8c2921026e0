"""Answers read from any text: never an error, and what was read reads the same again."""

from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.voting.answers import MAX_ANSWER_CHARS, answer_of, read_answer
from its_proxy.voting.messages import read_message
from tests.examples import examples
from tests.fuzz.targets import ANSWER_WORDS, KINDS
from tests.properties.spellings import readings

WORDS = st.sampled_from(ANSWER_WORDS) | st.text(max_size=6)
TEXTS = st.lists(WORDS, max_size=30).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FUNCTIONS = st.fixed_dictionaries({}, optional={"name": st.sampled_from(["add", "get"]) | JSON, "arguments": JSON})
CALLS = st.lists(st.fixed_dictionaries({}, optional={"function": FUNCTIONS | JSON, "type": JSON}) | JSON, max_size=3)
MESSAGES = st.fixed_dictionaries({}, optional={"content": TEXTS | JSON, "tool_calls": CALLS | JSON})


@settings(max_examples=examples(120), deadline=None)
@given(TEXTS, st.sampled_from(KINDS))
def test_what_is_read_of_any_text_reads_the_same_again(text, kind):
    found = read_answer(text, kind)
    assert found == read_answer(text, kind)
    if found is not None:
        assert 0 < len(found.text) <= MAX_ANSWER_CHARS
        assert answer_of(found.text, kind) == found


@settings(max_examples=examples(120), deadline=None)
@given(MESSAGES, st.sampled_from(KINDS))
def test_what_is_read_of_any_message_reads_the_same_again(message, kind):
    found = read_message(message, kind)
    if found is not None:
        assert answer_of(found.text, kind) == found


@settings(max_examples=examples(120), deadline=None)
@given(TEXTS, readings())
def test_the_last_box_wins_whatever_stands_before_it(before, reading):
    _, first, second = reading
    found = read_answer(rf"</think>{before}</think> no, \boxed{{{first}}} so \boxed{{{second}}}.", "boxed")
    assert found is not None
    assert found == answer_of(second.strip(), "boxed")
