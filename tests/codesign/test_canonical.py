import json
import math
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign.canonical import canonical_json, digest, strict_json

UNHURRIED = settings(deadline=None)  # a busy machine says nothing about the code
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
"""Every code point, lone surrogates included."""

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


@UNHURRIED
@given(JSON_VALUES)
def test_what_is_written_canonically_is_read_back_as_it_was(value: Any) -> None:
    written = json.dumps(value).encode()  # escaped, so that lone surrogates are UTF-8
    assert strict_json(written) == value
    assert canonical_json(strict_json(written)) == canonical_json(value)


@UNHURRIED
@given(st.dictionaries(ANY_TEXT, JSON_VALUES, max_size=6))
def test_the_order_of_keys_changes_neither_bytes_nor_digest(document: dict[str, Any]) -> None:
    turned = dict(reversed(document.items()))
    assert canonical_json(turned) == canonical_json(document)
    assert digest(turned) == digest(document)


def test_the_digest_is_sha256_over_sorted_compact_utf8() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "\u00e9"}) == b'{"a":"\xc3\xa9","b":[1,2.5,null]}'
    assert digest({"b": 1, "a": "\u00e9"}) == sha256(b'{"a":"\xc3\xa9","b":1}').hexdigest()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_spell_are_not_written(number: float) -> None:
    with pytest.raises(ValueError):
        canonical_json({"number": number})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b'{"a": 1, "b": 2, "a": 1}', "duplicate key 'a'"),
        (b'[{"x": {"a\\nb": 1, "a\\nb": 2}}]', r"duplicate key 'a\\nb'"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": -1e999}', "out of range"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'"\xff"', "not UTF-8: invalid byte at position 1"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5000, "digits"),
    ],
)
def test_what_two_readers_may_read_differently_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        strict_json(data)
    assert "\n" not in str(refusal.value)


@UNHURRIED
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused_with_a_value_error(data: bytes) -> None:
    try:
        value = strict_json(data)
    except ValueError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 both outcomes are good, neither may be anything else
    else:
        assert value == json.loads(data)
