"""What a response_format lets through, and that no schema of a client's costs more than its bounds."""

import json
import os
import subprocess
import sys
from time import process_time

import pytest

from its_proxy.codesign.errors import RequestError
from its_proxy.response_format import MAX_SCHEMA_BYTES, validity_of


def of_schema(schema):
    return validity_of({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}})


@pytest.mark.parametrize("form", [None, {}, {"type": "text"}, {"type": "grammar"}, "json_object", ["json_schema"]])
def test_a_format_that_asks_for_no_json_allows_anything(form):
    assert validity_of(form) is None


def test_json_object_allows_objects_only():
    is_valid = validity_of({"type": "json_object"})
    assert [is_valid(text) for text in ("{}", "[]", "1", '"{}"')] == [True, False, False, False]


def test_a_schema_allows_what_it_describes():
    is_valid = of_schema({
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": "^[A-Z]+$"}, "age": {"$ref": "#/$defs/age"}},
        "required": ["name"],
        "additionalProperties": False,
        "$defs": {"age": {"type": "integer", "minimum": 0}},
    })  # fmt: skip
    valid = ['{"name": "A"}', '{"name": "AB", "age": 3}', '{"name": "A", "age": 3.0}']
    invalid = [
        "{}",
        '{"name": "a"}',
        '{"name": "A", "age": -1}',
        '{"name": "A", "x": 1}',
        "[]",
        '{"name": "A", "age": 1e400}',
    ]
    assert [is_valid(text) for text in valid + invalid] == [True] * 3 + [False] * 6


def test_a_schema_may_refer_to_itself():
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "leaf": {"type": "integer"}},
    }
    is_valid = of_schema(tree)
    assert is_valid('{"left": {"leaf": 1}, "right": {}}')
    assert not is_valid('{"left": {"leaf": "1"}}')


def test_older_drafts_are_read_by_their_own_rules():
    is_valid = of_schema({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]})
    assert [is_valid(text) for text in ("[1]", '["x"]')] == [True, False]


BAD = {
    "no schema": None,
    "a list": [],
    "unknown type": {"type": "any"},
    "wrong keyword": {"properties": []},
    "no regex": {"pattern": "("},
    "lookaround": {"pattern": "^(?!a)"},
    "a regex that explodes when compiled": {"pattern": "((a{1,1000}){1,1000}){1,1000}"},
    "large patterns": {"allOf": [{"pattern": rf"(\p{{L}}|\d){{5}}{k}"} for k in range(64)]},
    "a tiny divisor": {"items": {"multipleOf": 1e-300}},
    "a huge divisor": {"multipleOf": 1e300},
    "a server": {"$ref": "http://127.0.0.1:9/schema"},
    "a file": {"$ref": "file:///etc/passwd"},
    "an anchor": {"$ref": "#here"},
    "a dynamic reference": {"$dynamicRef": "#node"},
    "another base": {"properties": {"a": {"$id": "http://127.0.0.1:9/", "$ref": "#/x"}}},
    "an unknown dialect": {"$schema": "http://127.0.0.1:9/dialect"},
    "nothing there": {"$ref": "#/$defs/none"},
    "too many patterns": {"allOf": [{"pattern": "a"}] * 65},
    "too large": {"enum": ["x" * MAX_SCHEMA_BYTES]},
    "doubling": {"$defs": {**{f"d{k}": {"allOf": [{"$ref": f"#/$defs/d{k + 1}"}] * 2} for k in range(30)}, "d30": {}},
                 "$ref": "#/$defs/d0"},
    "doubling into the depth": {"$defs": {**{f"d{k}": {"items": {"anyOf": [{"$ref": f"#/$defs/d{k + 1}"}] * 2}}
                                             for k in range(30)}, "d30": {}}, "$ref": "#/$defs/d0"},
    "a long chain": {"$defs": {**{f"d{k}": {"$ref": f"#/$defs/d{k + 1}"} for k in range(1500)}, "d1500": {}},
                     "$ref": "#/$defs/d0"},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_schema_that_cannot_be_checked_is_refused_in_one_line(name):
    started = process_time()
    with pytest.raises(RequestError) as refused:
        of_schema(BAD[name])
    assert process_time() - started < 0.5
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_json_schema")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("described", [None, "x", [], {}, {"schema": "x"}])
def test_a_format_without_its_schema_is_refused(described):
    with pytest.raises(RequestError, match=r"json_schema\.schema"):
        validity_of({"type": "json_schema", "json_schema": described})


DEEP = '{"a":' * 60 + "1" + "}" * 60
SELF, NOT_SELF = {"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"not": {"$ref": "#"}}}}
SLOW = {
    "backtracking": ({"pattern": "^(a|a)*(b+)+$"}, json.dumps("a" * 60_000)),
    "counted repeats in one another": ({"pattern": "(a{1,100}){1,20}!"}, json.dumps("a" * 60_000)),
    "counted repeats of two letters": (
        {"properties": {"x": {"pattern": "([ab]{1,3}){1,300}!"}}},
        json.dumps({"x": "ab" * 30_000}),
    ),
    "numbers far from one": ({"items": {"allOf": [{"minimum": -1e308}] * 150}}, f"[{','.join(['1e300'] * 9_000)}]"),
    "divisors": ({"items": {"allOf": [{"multipleOf": 0.01}] * 50}}, f"[{','.join(['1e300'] * 9_000)}]"),
    "numbers that are others": ({"items": {"allOf": [{"not": {"const": 1e300}}] * 9}}, json.dumps([1] * 20_000)),
    "many patterns": (
        {"items": {"allOf": [{"pattern": f"(x+x+)+y{k}"} for k in range(60)]}},
        json.dumps(["x" * 999] * 60),
    ),
    "many choices": ({"items": {"anyOf": [{"const": k} for k in range(600)]}}, json.dumps([999] * 12_000)),
    "unique objects": ({"uniqueItems": True}, json.dumps([{"a": k} for k in range(6_000)])),
    "recursion in many ways": ({"oneOf": [{**SELF, "maxProperties": k} for k in range(6)]}, DEEP),
    "negations": ({"not": {"allOf": [SELF, NOT_SELF]}}, DEEP),
}


@pytest.mark.parametrize("name", SLOW)
def test_no_schema_and_text_together_take_long(name):
    schema, text = SLOW[name]
    is_valid = of_schema(schema)
    started = process_time()
    is_valid(text)
    assert process_time() - started < 0.5


def test_a_usual_schema_checks_a_long_text():
    """The bounds are for what explodes: eight fields with patterns and ranges, of a hundred records, are checked."""
    record = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{6}$"},
            "day": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
            "kind": {"enum": ["a", "b", "c"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": ["id", "day", "kind", "n"],
        "additionalProperties": False,
    }
    is_valid = of_schema({"type": "array", "items": record})
    rows = [{"id": "AB123456", "day": "2026-01-31", "kind": "b", "n": 7}] * 400
    assert is_valid(json.dumps(rows))
    assert not is_valid(json.dumps([*rows, {**rows[0], "n": 101}]))


def test_the_validator_is_loaded_by_the_first_schema_and_not_before():
    code = "import sys, its_proxy.server.app, its_proxy.sampling; sys.exit('jsonschema_rs' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ).returncode
        == 0
    )
