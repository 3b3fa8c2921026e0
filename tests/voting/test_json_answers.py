"""JSON answers: which value counts, and that equal values are spelled alike."""

import json
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.voting.answers import answer_of, read_answer
from its_proxy.voting.json_answers import MAX_JSON_CHARS, MAX_SHOWN_CHARS, read_json, spelled

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e12, 1e12) | st.text(max_size=8),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=4), parts, max_size=4),
    max_leaves=12,
)


class TestWhichValueCounts:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (' {"a": 1}\n', '{"a":1}'),
            ("[1, 2]", "[1,2]"),
            ('"word"', '"word"'),
            ('Here:\n```json\n{"a": 1}\n```\nor better\n```\n{"a": 2}\n```\nDone.', '{"a":2}'),
            ('```json\n{"a": 1}\n```\n```python\nprint({})\n```', '{"a":1}'),
            ('I take {"a": 1}, no, {"a": {"b": "}{"}} it is.', '{"a":{"b":"}{"}}'),
            ('as \\{x\\} says: {"a": 1}', '{"a":1}'),
            ('{"a": 1} and then {"a": ', None),
            ('```json\n{"a": 1}\n```\n```json\n{"a": }\n```', None),
            ("{'a': 1}", None),
            ("no value at all", None),
            ("", None),
        ],
    )
    def test_the_last_one_and_no_other(self, text, value):
        assert read_json(text) == value

    def test_reasoning_is_not_searched(self):
        assert read_answer('<think>{"a": 1}</think>{"a": 2}', "json").text == '{"a":2}'
        assert read_answer('<think>{"a": 1}</think> none', "json") is None

    def test_where_the_client_reads_the_whole_text_so_do_we(self):
        assert read_json(' {"a": 1} ', whole=True) == '{"a":1}'
        assert read_json('```json\n{"a": 1}\n```', whole=True) is None

    def test_validity_is_judged_on_the_text_as_written(self):
        seen = []
        assert read_json('{"b": 1.0,"a": 2}', is_valid=lambda text: not seen.append(text)) == '{"a":2,"b":1}'
        assert seen == ['{"b": 1.0,"a": 2}']
        assert read_json("{}", is_valid=lambda text: False) is None


class TestEqualValuesAreSpelledAlike:
    @pytest.mark.parametrize(
        "spellings",
        [
            ['{"a": 1, "b": [true, null]}', '{"b":[true,null],"a":1.0}', '{ "b" : [ true , null ], "\\u0061": 10e-1 }'],
            ["0", "-0", "0.0", "0e9", "-0.000"],
            ["100", "1e2", "1E+2", "100.000", "0.1e3"],
            ["0.001", "1e-3", "0.0010", "100e-5"],
            ["1e400", "10e399", "0.1e401"],
            ['"é"', '"\\u00e9"'],
        ],
    )
    def test_spellings_of_one_value(self, spellings):
        assert len({spelled(spelling) for spelling in spellings}) == 1
        assert spelled(spellings[0]) is not None

    @pytest.mark.parametrize(
        ("first", "second"),
        [("1", '"1"'), ("0.1", "0.1000000000000000055"), ("[1,2]", "[2,1]"), ("null", "false"), ("0", "false"),
         ('{"a":1}', '{"a":1,"b":null}'), ("12345678901234567890", "12345678901234567891"), ("[]", "{}"),
         ("1e400", "1e401")],
    )  # fmt: skip
    def test_other_values_are_spelled_otherwise(self, first, second):
        assert spelled(first) != spelled(second)

    @given(VALUES)
    @settings(deadline=None)
    def test_a_spelling_is_json_and_stays_as_it_is(self, value):
        spelling = spelled(json.dumps(value))
        assert spelling is not None
        assert json.loads(spelling) == value
        assert spelled(spelling) == spelling

    @given(VALUES, VALUES)
    @settings(deadline=None)
    def test_two_values_are_spelled_alike_only_if_they_are_equal(self, first, second):
        def typed(value):
            """As JSON tells types apart: true is no number."""
            if isinstance(value, dict):
                return {key: typed(part) for key, part in value.items()}
            return [typed(part) for part in value] if isinstance(value, list) else (isinstance(value, bool), value)

        assert (spelled(json.dumps(first)) == spelled(json.dumps(second))) == (typed(first) == typed(second))


class TestWhatTwoReadersCouldReadDifferentlyIsNoValue:
    @pytest.mark.parametrize(
        "text",
        ['{"a":1,"a":1}', "NaN", "[Infinity]", '"\\ud800"', '{"\\udfff":1}', "1" * 500, "1e99999999999",
         "[" * 70 + "]" * 70, "[" * 60_000, '"' + "x" * MAX_JSON_CHARS + '"', "01", "1 2"],
        ids=range(12),
    )  # fmt: skip
    def test_it_abstains(self, text):
        assert spelled(text) is None
        assert read_answer(text, "json") is None


def test_a_long_value_is_told_by_its_head_and_its_digest():
    long, other = ({"a": "x" * 1000 + end} for end in "12")
    first = read_answer(json.dumps(long), "json")
    assert len(first.text) <= MAX_SHOWN_CHARS
    assert first != read_answer(json.dumps(other), "json")
    assert answer_of(first.text, "json") == answer_of(json.dumps(long, indent=1), "json") == first


PIECES = ["{", '{"', "\\", '{"\\', "```\n", "[", "{}", '"', '{"a":', "1,", "}", '{"a":{}}', "```json\n{}\n```\n"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_hostile_text_of_100_000_characters_takes_under_100_ms(piece):
    text = piece * (100_000 // len(piece))
    assert min(_seconds(text) for _ in range(3)) < 0.1


def _seconds(text: str) -> float:
    started = process_time()
    read_json(text)
    read_json(text[:MAX_JSON_CHARS])
    return process_time() - started
