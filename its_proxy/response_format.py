"""A request's `response_format` -> whether a JSON text is one that its client can use.

A client's schema is code of a kind, so it is bounded before it runs: nothing is fetched for a `$ref`,
patterns run on an engine of linear time (without lookaround and backreferences), and a schema that
unfolds too far is refused, or leaves a long text unchecked, which then casts no ballot.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from its_proxy.codesign.errors import RequestError
from its_proxy.voting.json_answers import IsValid

if TYPE_CHECKING:
    from jsonschema_rs import Validator

MAX_SCHEMA_BYTES = 64 * 1024
MAX_PATTERNS = 64
PATTERN_BYTES = (2**10, 2**13, 2**16, 2**18)
"""Of one compiled pattern: the least of these that it fits into stands for its size."""
MAX_UNFOLDED = 20_000
"""Subschemas after every `$ref` is replaced by what it names, those that cost more counted more than once."""
MAX_WORK = 2_000_000
"""Unfolded subschemas times characters of a text; less than 0.1 s at the very worst that could be found."""
# What cost more than a plain subschema, measured at their worst against one character each.
_BYTES_OF_ONE = 180
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_NUMERIC_COSTS = 12
_MULTIPLES = (1e-9, 1e9)
"""Beyond, one division takes microseconds."""
_EXPONENT = re.compile(r"\d[eE][+-]?\d")
_EXPONENT_COSTS = 10

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
    try:
        validator = _compiled(schema, PATTERN_BYTES[-1])
    except jsonschema_rs.ValidationError as error:
        raise _refusal(f"not a schema that can be checked here: {_one_line(error.message)}") from None
    except ValueError as error:
        raise _refusal(f"not a schema that can be checked here: {_one_line(str(error))}") from None

    def is_valid(text: str) -> bool:
        if n_unfolded * len(text) * (_EXPONENT_COSTS if _EXPONENT.search(text) else 1) > MAX_WORK:
            return False
        try:
            return bool(validator.is_valid(orjson.loads(text)))
        except ValueError:  # numbers that the validator cannot hold
            return False

    return is_valid


def _compiled(schema: bool | dict[str, Any], pattern_bytes: int) -> "Validator":
    """Raises jsonschema_rs.ValidationError or ValueError."""
    import jsonschema_rs

    patterns = jsonschema_rs.RegexOptions(size_limit=pattern_bytes, dfa_size_limit=pattern_bytes)
    return jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=patterns, offline=True)


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
        _refuse_costly_multiples(node)
    patterns = [pattern for node in nodes for pattern in _patterns(node)]
    if len(patterns) > MAX_PATTERNS:
        raise _refusal(f"the schema has {len(patterns)} patterns, and at most {MAX_PATTERNS} are checked")
    costs = _pattern_costs(set(patterns))
    try:
        n_unfolded = _unfolded(schema, schema, costs, {})
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


def _refuse_costly_multiples(node: Mapping[str, Any]) -> None:
    divisor = node.get("multipleOf")
    if isinstance(divisor, int | float) and not _MULTIPLES[0] <= divisor <= _MULTIPLES[1]:
        raise _refusal(f"multipleOf should lie between {_MULTIPLES[0]:g} and {_MULTIPLES[1]:g} to be checked here")


def _patterns(node: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(pattern := node.get("pattern"), str):
        yield pattern
    yield from _members(node, "patternProperties")


def _pattern_costs(patterns: Iterable[str]) -> Mapping[str, int]:
    """How many plain subschemas each is worth: its steps a character grow with its compiled size."""
    costs: dict[str, int] = {}
    for pattern in sorted(patterns):
        costs[pattern] = _compiled_bytes(pattern) // _BYTES_OF_ONE
        if sum(costs.values()) > MAX_UNFOLDED:
            raise _refusal("the schema's patterns are too large to be checked here")
    return costs


def _compiled_bytes(pattern: str) -> int:
    import jsonschema_rs

    for n_bytes in PATTERN_BYTES[:-1]:
        try:
            _compiled({"pattern": pattern}, n_bytes)
        except (jsonschema_rs.ValidationError, ValueError):
            continue  # or it is none at all, as the whole schema's own compilation says
        return n_bytes
    return PATTERN_BYTES[-1]


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


def _unfolded(
    schema: Mapping[str, Any], node: Mapping[str, Any], costs: Mapping[str, int], known: dict[int, int]
) -> int:
    """Subschemas that one value may be held against, each way to one counted.

    A reference back to where the walk is just inside counts as one: the validator remembers what it found there.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = 1
    enum = node.get("enum")
    values = [*(enum if isinstance(enum, list) else []), node.get("const")]
    n_numbers = sum(isinstance(value, int | float) for value in values) + sum(key in node for key in _NUMERIC)
    size = len(values) + _NUMERIC_COSTS * n_numbers
    size += sum(costs[pattern] for pattern in _patterns(node))
    size += sum(_unfolded(schema, child, costs, known) for child in _children(node, with_definitions=False))
    if isinstance(target := _target(schema, node.get("$ref")), Mapping):
        size += _unfolded(schema, target, costs, known)
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
