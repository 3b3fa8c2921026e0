"""A request's `response_format` -> whether a JSON text is one that its client can use.

A client's schema is code of a kind, so it is bounded before it runs: nothing is fetched for a `$ref`,
patterns run on an engine of linear time (without lookaround and backreferences), and a schema that
unfolds too far is refused, or leaves a long text unchecked, which then casts no ballot.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import orjson

from its_proxy.codesign.errors import RequestError
from its_proxy.voting.json_answers import IsValid

MAX_SCHEMA_BYTES = 64 * 1024
MAX_PATTERNS = 64
MAX_PATTERN_BYTES = 256 * 1024
"""Of one compiled pattern."""
MAX_UNFOLDED = 20_000
"""Subschemas after every `$ref` is replaced by what it names."""
MAX_WORK = 20_000_000
"""Unfolded subschemas times characters of a text; a few tenths of a second at the very worst."""

PARAM = "response_format"
_HINT = 'its: {"vote": "off"} leaves the schema to the upstream alone'


def is_json(form: Any) -> bool:
    """Whether the format asks for JSON."""
    return isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")


def validity_of(form: Any) -> IsValid | None:
    """What tells valid texts from others; None where the format asks for no JSON. Raises RequestError."""
    if not is_json(form):
        return None
    if form["type"] == "json_object":
        return _is_object
    described = form.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, bool | dict):
        raise _refusal("json_schema.schema should be a JSON Schema")
    return _schema_validity(schema)


def _is_object(text: str) -> bool:
    return text.startswith("{")


def _schema_validity(schema: bool | dict[str, Any]) -> IsValid:
    # Only here: most requests carry no schema, and the library costs 10 MiB.
    import jsonschema_rs

    n_unfolded = _check_bounds(schema)
    patterns = jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES)
    try:
        validator = jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=patterns, offline=True)
    except jsonschema_rs.ValidationError as error:
        raise _refusal(f"not a schema that can be checked here: {_one_line(error.message)}") from None
    except ValueError as error:
        raise _refusal(f"not a schema that can be checked here: {_one_line(str(error))}") from None

    def is_valid(text: str) -> bool:
        if n_unfolded * len(text) > MAX_WORK:
            return False
        try:
            return bool(validator.is_valid(orjson.loads(text)))
        except ValueError:  # numbers that the validator cannot hold
            return False

    return is_valid


# --- bounds ----------------------------------------------------------------------------------

_DATA = ("const", "default", "enum", "examples")
_DEFINITIONS = ("$defs", "definitions")
_NAMED = (*_DEFINITIONS, "dependencies", "dependentSchemas", "patternProperties", "properties")


def _check_bounds(schema: bool | dict[str, Any]) -> int:
    """How many subschemas the schema unfolds to; raises RequestError beyond the bounds."""
    if isinstance(schema, bool):
        return 1
    if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise _refusal(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
    nodes = list(_nodes(schema))
    for node in nodes:
        _refuse_far_references(node, is_root=node is schema)
    n_patterns = sum(("pattern" in node) + len(_members(node, "patternProperties")) for node in nodes)
    if n_patterns > MAX_PATTERNS:
        raise _refusal(f"the schema has {n_patterns} patterns, and at most {MAX_PATTERNS} are checked")
    try:
        n_unfolded = _unfolded(schema, schema, {})
    except RecursionError:
        n_unfolded = MAX_UNFOLDED + 1
    if n_unfolded > MAX_UNFOLDED:
        raise _refusal(f"the schema's references unfold to more than {MAX_UNFOLDED} subschemas")
    return n_unfolded


def _refuse_far_references(node: Mapping[str, Any], *, is_root: bool) -> None:
    reference = node.get("$ref")
    is_far = isinstance(reference, str) and reference != "#" and not reference.startswith("#/")
    has_other = any(isinstance(node.get(key), str) for key in ("$dynamicRef", "$recursiveRef"))
    if is_far or has_other or (not is_root and isinstance(node.get("$id"), str)):
        raise _refusal("the schema refers to more than its own definitions by #/...")


def _nodes(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and every subschema in it, definitions included."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(_children(node, with_definitions=True))


def _children(node: Mapping[str, Any], *, with_definitions: bool) -> Iterator[Mapping[str, Any]]:
    """The subschemas right below a schema. What no keyword explains is taken for one: a `$ref` may point into it."""
    for key, value in node.items():
        if key in _DATA or (key in _DEFINITIONS and not with_definitions):
            continue
        parts = value.values() if key in _NAMED and isinstance(value, Mapping) else [value]
        flat = [part for each in parts for part in (each if isinstance(each, list) else [each])]
        yield from (part for part in flat if isinstance(part, Mapping))


def _members(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    members = node.get(key)
    return members if isinstance(members, Mapping) else {}


def _unfolded(schema: Mapping[str, Any], node: Mapping[str, Any], known: dict[int, int]) -> int:
    """Subschemas that one value may be held against, each way to one counted.

    A reference back to where the walk is just inside counts as one: the validator remembers what it found there.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = 1
    enum = node.get("enum")
    size = 1 + (len(enum) if isinstance(enum, list) else 0)
    size += sum(_unfolded(schema, child, known) for child in _children(node, with_definitions=False))
    if isinstance(target := _target(schema, node.get("$ref")), Mapping):
        size += _unfolded(schema, target, known)
    known[id(node)] = size
    return size


def _target(schema: Mapping[str, Any], reference: Any) -> Any:
    """What a `#/...` names; None where it names nothing, which the validator then says."""
    if not isinstance(reference, str):
        return None
    place: Any = schema
    for part in unquote(reference).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping):
            place = place.get(part)
        elif isinstance(place, list) and part.isascii() and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        else:
            return None
    return place


def _refusal(message: str) -> RequestError:
    return RequestError(f"{PARAM}: {message}", param=PARAM, code="invalid_json_schema", hint=_HINT)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
