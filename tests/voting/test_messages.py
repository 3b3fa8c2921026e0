"""Whole messages: tool calls as a multiset, JSON as the client reads it, and reasoning that is none of the answer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.voting.answers import answer_of, proven_different
from its_proxy.voting.messages import read_message


def message(*calls, content=None):
    made = [{"id": f"call-{k}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for k, (name, arguments) in enumerate(calls)]  # fmt: skip
    return {"role": "assistant", "content": content, "tool_calls": made}


def calls_of(*calls, content=None):
    return read_message(message(*calls, content=content), "tool_calls")


class TestToolCalls:
    def test_arguments_are_compared_by_value_and_ids_not_at_all(self):
        first = calls_of(("f", '{"a": 1, "b": [2.0]}'))
        assert first == calls_of(("f", '{"b":[2],"a":1e0}'), content="I will call f.")
        assert first.text == '[{"arguments":{"a":1,"b":[2]},"name":"f"}]'
        assert first.is_exact

    @settings(deadline=None)
    @given(st.permutations([("f", '{"a":1}'), ("g", "{}"), ("f", '{"a":2}'), ("f", '{"a":1}')]))
    def test_calls_side_by_side_have_no_order(self, calls):
        assert calls_of(*calls) == calls_of(("f", '{"a":1}'), ("f", '{"a":1}'), ("f", '{"a":2}'), ("g", "{}"))

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ([("f", "{}")], [("g", "{}")]),
            ([("f", "{}")], [("f", '{"a":null}')]),
            ([("f", "{}")], [("f", "{}"), ("f", "{}")]),
            ([("f", '{"a":"1"}')], [("f", '{"a":1}')]),
        ],
    )
    def test_other_calls_are_proven_different(self, first, second):
        assert proven_different(calls_of(*first), calls_of(*second))

    @pytest.mark.parametrize("empty", ["", None, "{}", " { } "])
    def test_a_call_without_arguments_has_several_spellings(self, empty):
        assert calls_of(("f", empty)) == calls_of(("f", "{}"))

    @pytest.mark.parametrize("arguments", ["{", "[]", "1", '{"a":1}{"b":2}', '{"a":1,"a":1}', 5, {"a": 1}])
    def test_arguments_that_cannot_be_read_abstain(self, arguments):
        assert calls_of(("f", arguments)) is None
        assert calls_of(("g", "{}"), ("f", arguments)) is None

    @pytest.mark.parametrize("call", [None, "f", {}, {"function": None}, {"function": {"name": 1}},
                                      {"type": "custom", "custom": {"name": "f", "input": "x"}},
                                      {"function": {"name": "\ud800", "arguments": "{}"}}])  # fmt: skip
    def test_what_is_no_call_of_a_function_abstains(self, call):
        assert read_message({"content": None, "tool_calls": [call]}, "tool_calls") is None

    def test_words_without_a_call_are_an_answer_of_their_own(self):
        none = read_message({"content": "I need no tool."}, "tool_calls")
        assert none.text == "no call"
        assert none == calls_of(content="Another reason.")
        assert proven_different(none, calls_of(("f", "{}")))

    @pytest.mark.parametrize("content", [None, "", "  ", "<think>hm", "<think>hm</think> "])
    def test_neither_words_nor_a_call_abstains(self, content):
        assert read_message({"content": content, "reasoning": "hm"}, "tool_calls") is None

    def test_a_reports_text_gives_the_same_answer_again(self):
        for answer in (
            calls_of(("f", '{"a":1}')),
            calls_of(content="x"),
            calls_of(("f", json.dumps({"a": "x" * 900}))),
        ):
            assert answer_of(answer.text, "tool_calls") == answer


class TestText:
    @pytest.mark.parametrize("kind", ["boxed", "number", "final_line", "letter", "json"])
    @pytest.mark.parametrize("content", [None, "", [{"type": "text", "text": "7"}], 7])
    @pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
    def test_reasoning_beside_an_empty_content_is_no_answer(self, kind, content, name):
        thought = "the answer is \\boxed{7} (B) {}"
        assert read_message({"content": content, name: thought, "tool_calls": []}, kind) is None

    def test_the_content_is_read_after_its_own_reasoning_part(self):
        assert read_message({"content": "<think>\\boxed{1}</think>\\boxed{2}", "reasoning": "x"}, "boxed").text == "2"


class TestJsonThatAClientAskedFor:
    def test_it_is_the_whole_text_and_valid(self):
        def read(content):
            return read_message({"content": content}, "json", lambda text: "b" not in text)

        assert read('{"a": 1}').text == '{"a":1}'
        assert read('<think>hm</think>\n{"a": 1}').text == '{"a":1}'
        assert read("<think>hm") is None
        assert read('Sure: {"a": 1}') is None
        assert read('{"b": 1}') is None

    def test_without_a_format_it_may_stand_among_words(self):
        assert read_message({"content": 'Sure: {"a": 1}'}, "json").text == '{"a":1}'
