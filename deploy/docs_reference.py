"""Writes what docs/ says of settings and manifests, from the code: two JSON Schemas, and the tables of two pages.

    python deploy/docs_reference.py          # writes those that differ

A key's line is the comment above it in the code; a comment goes for the keys below it, too, up to the next one.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from its_proxy.codesign import manifest
from its_proxy.dotted import Key
from its_proxy.settings import (
    AliasSettings,
    EnsembleSettings,
    KeySettings,
    LimitSettings,
    ModelSettings,
    Settings,
    UpstreamSettings,
    VoteSettings,
)
from its_proxy.settings.layers import VARIABLES

DOCS = Path(__file__).resolve().parent.parent / "docs"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMED = ("models", "ensembles", "aliases")
"""Sections that a file writes as a mapping of names, and the code holds as a tuple."""
BEGIN, END = "<!-- reference: begin -->\n", "<!-- reference: end -->"
"""Around what is written in a page; the rest of it is a person's."""


@dataclass(frozen=True)
class Part:
    """One table of a page: a model, and the keys before its own."""

    title: str
    model: type[BaseModel]
    place: Key = ()


SETTINGS_PARTS = (
    Part("Top level", Settings),
    Part("`upstreams.NAME`", UpstreamSettings),
    Part("`models.NAME`", ModelSettings),
    Part("`ensembles.NAME`", EnsembleSettings),
    Part("`aliases.NAME`", AliasSettings),
    Part("`keys[]`", KeySettings),
    Part("`vote`, and `models.NAME.vote`", VoteSettings, ("vote",)),
    Part("`limits`", LimitSettings, ("limits",)),
)
MANIFEST_PARTS = (
    Part("The document", manifest.Manifest),
    Part("`pair`", manifest.Pair),
    Part("`pair.trained_with`, `pair.serve_with`", manifest.Side),
    Part("`personas`", manifest.Personas),
    Part("`personas.written_by`", manifest.WrittenBy),
    Part("`personas.written_by.prompts`", manifest.Prompts),
    Part("`vote`", manifest.VoteAdvice),
    Part("`probes[]`", manifest.Probe),
    Part("`probes[].logprobs`", manifest.Logprobs),
    Part("`probes[].reply`", manifest.ProbeReply),
    Part("`evaluation[]`", manifest.Evaluation),
)


# -- schemas -----------------------------------------------------------------------------------------------------------


def manifest_schema() -> dict[str, Any]:
    schema = manifest.Manifest.model_json_schema()
    _tell(schema, (part.model for part in MANIFEST_PARTS))
    return {"$schema": DIALECT, **schema, "title": "its.json, version 1"}


def settings_schema() -> dict[str, Any]:
    """Of the file: models, ensembles and aliases are mappings by name, and any section may be left empty."""
    schema = Settings.model_json_schema()
    _tell(schema, (part.model for part in SETTINGS_PARTS))
    for section in NAMED:
        entry = schema["properties"][section]
        reference = entry.pop("items")
        entry |= {"type": "object", "additionalProperties": reference, "default": {}}
        definition = schema["$defs"][reference["$ref"].rpartition("/")[2]]
        del definition["properties"]["name"]
        definition["required"] = [key for key in definition.get("required", []) if key != "name"]
    for section in ("upstreams", *NAMED, "keys", "strategies", "roots"):
        entry = schema["properties"][section]
        entry["type"] = [entry["type"], "null"]
    return {"$schema": DIALECT, **schema, "title": "its-proxy's settings file"}


def _tell(schema: dict[str, Any], models: Iterable[type[BaseModel]]) -> None:
    """Puts every key's line into the schema as its description."""
    for model in models:
        described = schema if schema["title"] == model.__name__ else schema["$defs"][model.__name__]
        for key, line in lines_of(model).items():
            described["properties"][key]["description"] = line
            described["properties"][key].pop("title", None)


# -- what the code says of a key ---------------------------------------------------------------------------------------


def lines_of(model: type[BaseModel]) -> dict[str, str]:
    """The comment above each field of the model, or above the nearest field before it that has one."""
    source = textwrap.dedent(inspect.getsource(model))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    text, found, said = source.splitlines(), dict[str, str](), ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            said = _comment_above(text, node.lineno - 1) or said
            found[node.target.id] = said
    return found


def _comment_above(text: list[str], number: int) -> str:
    lines: list[str] = []
    while text[number - 1].lstrip().startswith("#"):
        number -= 1
        lines.insert(0, text[number].strip(" #"))
    return " ".join(lines)


# -- pages -------------------------------------------------------------------------------------------------------------


def tables(parts: Iterable[Part], schema: Mapping[str, Any], *, has_variables: bool) -> str:
    return "\n".join(_table(part, schema, has_variables=has_variables) for part in parts)


def page(path: Path, written: str) -> str:
    """The page as it is, with `written` between the markers."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path}: the markers {BEGIN.strip()} and {END} are gone")
    return f"{before}{BEGIN}\n{written}\n{END}{after}"


def _table(part: Part, schema: Mapping[str, Any], *, has_variables: bool) -> str:
    whole = "properties" in schema and part.model in (Settings, manifest.Manifest)
    properties = (schema if whole else schema["$defs"][part.model.__name__])["properties"]
    variables = {key: name for name, (key, _) in VARIABLES.items()} if has_variables else {}
    shows_variables = any(key[:-1] == part.place for key in variables) and (whole or bool(part.place))
    heads = ["key", "type", "default", *(["variable"] if shows_variables else []), "what"]
    rows = [heads, ["---"] * len(heads)]
    for key, line in lines_of(part.model).items():
        if key not in properties:
            continue
        variable = variables.get((*part.place, key))
        told = [f"`{variable}`" if variable else ""] if shows_variables else []
        rows.append([f"`{key}`", _type(properties[key]), _default(part.model, key), *told, _in_a_cell(line)])
    summary = re.sub(r"\bNone\b", "null", inspect.getdoc(part.model) or "")
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"## {part.title}\n\n{summary}\n\n{table}\n"


def _default(model: type[BaseModel], key: str) -> str:
    value = model.model_fields[key].default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel) or value in ((), {}, [], "", None):
        return ""
    if isinstance(value, frozenset):
        return ", ".join(f"`{one}`" for one in sorted(value))
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{json.dumps(value)[1:-1]}`"


_PLURALS = {"mapping": "mappings", "number": "numbers", "whole number": "whole numbers", "text": "texts"}


def _type(schema: Mapping[str, Any]) -> str:
    """A few words for a JSON Schema, as a person would say it."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "$ref" in schema:
        return "mapping"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    names = schema.get("type", "anything")
    name = next(one for one in names if one != "null") if isinstance(names, list) else names
    if name == "array":
        return _array(schema)
    if name == "object":
        values = schema.get("additionalProperties")
        if not isinstance(values, dict):
            return "mapping"
        return "mapping of names" if "$ref" in values else f"name: {_type(values)}"
    words = {"integer": "whole number", "boolean": "true, false", "string": "text"}
    return " ".join([words.get(name, name), ", ".join(_bounds(schema))]).strip()


def _array(schema: Mapping[str, Any]) -> str:
    n = f"{len(schema['prefixItems'])} " if "prefixItems" in schema else ""
    one = _type(schema["prefixItems"][0] if n else schema.get("items", {}))
    return f"list of {n}{_PLURALS.get(one, one)}"


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    if "minimum" in schema and "maximum" in schema:
        yield f"{schema['minimum']} to {schema['maximum']}"
        return
    for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")):
        if name in schema:
            yield f"{sign} {schema[name]}"


def _in_a_cell(line: str) -> str:
    """As YAML and JSON say it, on one line of a table."""
    return re.sub(r"\bNone\b", "null", line).replace("|", "\\|")


# -- writing -----------------------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """What should be in docs/, by path."""
    of_settings, of_manifests = settings_schema(), manifest_schema()
    configuration, manifests = DOCS / "reference" / "configuration.md", DOCS / "reference" / "manifest.md"
    return {
        DOCS / "settings.schema.json": json.dumps(of_settings, indent=2) + "\n",
        DOCS / "manifest.schema.json": json.dumps(of_manifests, indent=2) + "\n",
        configuration: page(configuration, tables(SETTINGS_PARTS, of_settings, has_variables=True)),
        manifests: page(manifests, tables(MANIFEST_PARTS, of_manifests, has_variables=False)),
    }


if __name__ == "__main__":
    for path, text in files().items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
