"""Reading a body: good ones as they were written, at any size; ambiguous and costly ones not at all."""

import json
from contextlib import suppress

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.body import (
    FEW_QUOTES,
    LARGE_BYTES,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_LONG_NUMBERS,
    MAX_TEXTS,
    MAX_VALUES,
    MOST_BACKSLASHES,
    read_at_a_glance,
    read_body,
    read_carefully,
)

MIB = 2**20
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text('\\"{}[]:,\n\u00e9', max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)  # fmt: skip
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
# Behind these a body is read in another way, which must find the same.
LONG = {
    "few quotes": '{"": "' + "x" * LARGE_BYTES + '", ',
    "many quotes": '{"": ["' + '", "'.join(["x" * 8] * (LARGE_BYTES // 8)) + '"], ',
    "quotes in a text": '{"": "' + 'x\\"' * LARGE_BYTES + '", ',
    "backslashes": '{"": "' + "\\\\" * LARGE_BYTES + '", ',
}


def refusal(data: bytes) -> str:
    with pytest.raises(RequestError) as refused:
        read_body(data)
    assert refused.value.code == "invalid_json"
    return refused.value.message


@given(OBJECT, st.sampled_from([None, 1]), st.booleans())
def test_a_good_body_is_read_as_it_was_written(body, indent, ensure_ascii):
    assert read_body(orjson.dumps(body)) == body
    assert read_body(json.dumps(body, indent=indent, ensure_ascii=ensure_ascii).encode()) == body


@given(OBJECT.filter(bool), st.data())
def test_a_key_named_twice_is_found_wherever_it_stands(body, data):
    """Written anew with one key of one object doubled, it is JSON still, and read by nobody."""
    doubled = data.draw(st.sampled_from(sorted(range(len(objects_of(body))))))
    text = written(body, objects_of(body)[doubled])
    assert json.loads(text) == body
    assert "names a key twice" in refusal(text.encode())


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
@settings(deadline=None, max_examples=30)  # a busy machine says nothing about the code
@given(OBJECT.filter(lambda body: body and "" not in body), st.data())
def test_a_long_body_is_read_and_refused_as_a_short_one_is(long, body, data):
    assert read_body((long + json.dumps(body)[1:]).encode()) == json.loads(long[:-2] + "}") | body
    doubled = data.draw(st.sampled_from(sorted(range(len(objects_of(body))))))
    text = written(body, objects_of(body)[doubled])
    assert "names a key twice" in refusal((long + text[1:]).encode())


@pytest.mark.parametrize("n", [0, 1, 2, 3, MOST_BACKSLASHES - 1, MOST_BACKSLASHES, MOST_BACKSLASHES + 1])
def test_a_quote_behind_any_number_of_backslashes_ends_its_text_or_does_not(n):
    text = b"x" * LARGE_BYTES + n * b"\\" + (b'"' if n % 2 else b"")
    assert read_body(b'{"a": "' + text + b'", "b": 1}') == {"a": orjson.loads(b'"' + text + b'"'), "b": 1}
    assert "names a key twice" in refusal(b'{"a": "' + text + b'", "a": 1}')


def test_a_text_of_a_long_body_that_does_not_end_is_refused_as_in_a_short_one():
    assert refusal(b'{"a": "' + b"x" * LARGE_BYTES) == refusal(b'{"a": "x')
    assert refusal(b'["a", "' + b"x" * LARGE_BYTES) == refusal(b'["a", "x')
    assert FEW_QUOTES < LARGE_BYTES // 4  # so that a body above has more


def objects_of(value) -> list[dict]:
    if isinstance(value, dict):
        return ([value] if value else []) + [found for part in value.values() for found in objects_of(part)]
    return [found for part in value for found in objects_of(part)] if isinstance(value, list) else []


def written(value, doubled) -> str:
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)}: {written(part, doubled)}" for key, part in value.items()]
        return "{" + ", ".join(pairs + (pairs[:1] if value is doubled else [])) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(part, doubled) for part in value) + "]"
    return json.dumps(value)


@given(st.binary(max_size=40) | st.text('{}[]":,\\0123456789.eE-+ntu', max_size=40).map(str.encode))
def test_whatever_is_read_means_the_same_to_the_strictest_reader(data):
    for document in (data, b'{"a":' + data + b"}", b'{"a":"' + data + b'"}'):
        try:
            body = read_body(document)
        except RequestError:
            continue
        assert strict_json(document) == body


# Pieces that a look which counts could be deceived by, set side by side and into good bodies.
PIECES = st.lists(
    st.sampled_from(
        [
            *'{}[]":,\\ -0e.', '"a"', '"a":', '"a:":', '"a\\u003a":', '"\\u003A"', '"\\\\u003a"', '"\\":"', '\\"',
            "\\u0000", "\\ud83d\\ude00", "\\ud83d", "\ud83d", "\ufeff", "\u2028", "/**/",
            "1e400", "-0.0", "1" * 18, "1" * 19, "18446744073709551616", "NaN", "null",
        ]
    ),
    max_size=8,
).map(lambda pieces: "".join(pieces).encode("utf-8", "surrogatepass"))  # fmt: skip
SPELLED = st.builds(
    lambda body, indent, ascii: json.dumps(body, indent=indent, ensure_ascii=ascii).encode(),
    OBJECT, st.sampled_from([None, 1]), st.booleans(),
)  # fmt: skip


def with_a_key_doubled(body, data) -> bytes:
    at = data.draw(st.sampled_from(range(max(1, len(objects_of(body))))))
    return written(body, [*objects_of(body), {}][at]).encode()


def both_ways(data: bytes) -> None:
    """A glance that sees something sees what the careful reading does, which refuses nothing of it. Written anew, it is
    what a glance is soonest satisfied with."""
    documents = [data]
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        documents.append(orjson.dumps(orjson.loads(data)))
    for document in documents:
        seen = read_at_a_glance(document)
        if seen is not None:
            assert repr(seen) == repr(read_carefully(document))


@settings(max_examples=500)
@given(SPELLED, PIECES, st.data())
def test_a_glance_passes_nothing_that_the_careful_reading_would_refuse_or_read_otherwise(spelled, pieces, data):
    start = data.draw(st.integers(0, len(spelled)))
    end = data.draw(st.integers(start, min(len(spelled), start + 6)))
    both_ways(spelled)
    both_ways(spelled[:start] + pieces + spelled[end:])
    both_ways(b'{"a":' + pieces + b"}")
    both_ways(b'{"a":1,"b:":":",' + pieces + b":1}")


@settings(max_examples=300)
@given(OBJECT, st.data())
def test_a_glance_passes_no_key_that_is_named_twice_however_texts_are_spelled(body, data):
    """With some of its colons spelled as escapes, and some escapes as colons."""
    text = with_a_key_doubled(body, data)
    escaped = data.draw(st.sampled_from([b":", b"\\u003a", b"\\u003A", b'":"']))
    for document in (text, text.replace(b"\\n", escaped), text.replace(b"x", escaped)):
        both_ways(document)


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":1,"a":"\\u003a"}',  # the colon that is lost with the key comes back
        b'{"a":1,"\\u0061":"\\u003A"}',
        b'{"a":":","a":"\\u003a\\u003a"}',
        b'{"a":{"b":1,"b":2},"c":"\\u003a"}',
        b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"a":18446744073709551616}',
        b'{"a":1' + b"0" * 400 + b"}",
        b'{"a":"' + b"x" * LARGE_BYTES + b'"}',
        b"[]", b"1", b"null", b"", b"{", b'{"a":NaN}', b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}', b'{"a":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_a_glance_cannot_be_sure_of_is_left_to_the_careful_reading(document):
    assert read_at_a_glance(document) is None


@pytest.mark.parametrize(
    "text", ["How many?", "a: b, c", '{"a": [1]}', '\u00e9\n\u2028\\ "', "\\boxed{7}", "1234567890" + "12345678"]
)
def test_a_glance_is_enough_for_what_clients_send(text):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0.7, "its": {"n": 8}}
    for document in (orjson.dumps(body), json.dumps(body, indent=1).encode(), json.dumps(body).encode()):
        assert read_at_a_glance(document) == body


def test_a_short_body_has_no_room_for_what_only_long_ones_can_have_too_many_of():
    assert min(MAX_VALUES, 2 * MAX_TEXTS, MAX_CONTAINERS, 19 * MAX_LONG_NUMBERS) > LARGE_BYTES


@pytest.mark.parametrize("size", [100, 70_000, 2 * MIB - 100])
def test_a_key_named_twice_is_refused_at_any_size(size):
    text = b"x" * (size - 40)
    assert "names a key twice" in refusal(b'{"model":"a","text":"' + text + b'","model":"b"}')
    assert "names a key twice" in refusal(b'{"text":"' + text + b'","a":[{"b":1,"\\u0062":2}]}')


def test_quotes_and_backslashes_in_texts_hide_nothing():
    tricky = {'"a":': '\\":{"', "\\": '\\\\"', '\\"': [{'{"': ':"'}]}
    assert read_body(orjson.dumps(tricky)) == tricky
    assert "names a key twice" in refusal(b'{"\\"": 1, "\\\\": 2, "\\"": 3}')


@pytest.mark.parametrize(("levels", "is_read"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False)])
@pytest.mark.parametrize(("opening", "inner", "closing"), [(b"[", b"", b"]"), (b'{"a":', b"1", b"}")])
def test_nesting_has_one_limit(levels, is_read, opening, inner, closing):
    data = b'{"a":' + opening * (levels - 1) + inner + closing * (levels - 1) + b"}"
    if is_read:
        assert read_body(data)
    else:
        assert refusal(data).startswith(("the body is nested deeper than 64", "the body holds more than"))


LONG = ["0.12345678901234567890123", "1e-12345678901234567890", "-2.5e0000000000000000000001",
        "1E+0000000000000000000002", "18446744073709551615", "-9223372036854775808"]  # fmt: skip


@pytest.mark.parametrize("number", LONG)
def test_long_numbers_that_everybody_can_hold_are_read(number):
    assert read_body(f'{{"a":{number}}}'.encode()) == {"a": json.loads(number)}


@pytest.mark.parametrize(
    "number", [b"18446744073709551616", b"-9223372036854775809", b"9" * 5_000, b"[1,9999999999999999999999]"]
)
def test_longer_integers_are_refused(number):
    assert refusal(b'{"a":' + number + b"}") == "the body holds an integer beyond 64 bits"


def many(unit: bytes, n: int = 0) -> bytes:
    n = n or (2 * MIB - 100) // (len(unit) + 1)
    return b'{"model":"m","x":[' + b",".join([unit] * n) + b"]}"


COSTLY = {
    "values": many(b"1", MAX_VALUES + 2),
    "texts": many(b'""', MAX_TEXTS + 1),
    "lists": many(b"[]", MAX_CONTAINERS + 1),
    "objects": many(b"{}", MAX_CONTAINERS + 1),
    "long numbers": many(b"1" * 19, MAX_LONG_NUMBERS + 1),
    "messages without end": many(b'{"role":"user","content":"a"}'),
    "brackets without end": b'{"a":' + b"[" * MIB,
    "closing brackets without end": b'{"a":1' + b"}" * MIB,
    "quotes without end": b'"' * 2 * MIB,
}
FULL = {
    "one text": b'{"model":"' + b"a" * (2 * MIB - 100) + b'"}',
    "escapes": b'{"model":"' + b"\\n" * (MIB - 50) + b'"}',
    "backslashes": b'{"model":"' + b"\\\\" * (MIB - 50) + b'"}',
    "quotes": b'{"model":"' + b'\\"' * (MIB - 50) + b'"}',
    "values": many(b"12345", MAX_VALUES - 2),
    "objects": many(b"{}", MAX_CONTAINERS - 3),
    "keys": b'{"x":{' + b",".join(b'"%06d":1' % number for number in range(MAX_TEXTS - 1)) + b"}}",
    "long numbers": many(b"1" * 19, MAX_LONG_NUMBERS),
}


@pytest.mark.parametrize("data", COSTLY.values(), ids=COSTLY.keys())
def test_a_body_that_only_costs_is_refused_before_it_is_built(data):
    assert refusal(data)


@pytest.mark.parametrize("data", FULL.values(), ids=FULL.keys())
def test_the_fullest_bodies_are_read(data):
    assert read_body(data)
