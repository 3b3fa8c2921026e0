import json
from copy import deepcopy
from hashlib import sha256
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign.errors import ManifestError, OneSidedPair, UnknownSchema
from its_proxy.codesign.manifest import Manifest, Pair, Personas, Side, check_pair_rule, parse_manifest, recipe_of
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import rewrite, strategy_names

DIGEST = "0123456789abcdef" * 4
POOL = {
    "source": "pool",
    "file": "its-personas.jsonl",
    "sha256": DIGEST,
    "domains": "taxonomy/1",
    "written_by": {
        "model": "a writer \u00e9",
        "prompts": {"folder": "its-persona-prompts/", "sha256": DIGEST},
        "sampling": {"temperature": 0.8, "top_k": 20, "stop": ["\n\n"]},
        "date": "2025-11-21",
    },
}
SIDE = {
    "strategy": "random",
    "version": 1,
    "template": "{persona}\n\n{query}",
    "turns": "all",
    "personas": POOL,
    "system_prompt": None,
    "chat_template_sha256": DIGEST,
    "chat_template_kwargs": {"enable_thinking": False, "budget": {"tokens": 1e3}},
    "seed": 7,
}
DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "origin": "recorded",
    "pair": {"trained_with": {**SIDE, "strategy": "mixed"}, "serve_with": SIDE},
    "vote": {"n": 8, "temperature": 0.8, "top_p": 0.95, "max_tokens": 32768, "answer": "boxed", "stop": "exact"},
    "probes": [
        {
            "query": "How many eggs?",
            "messages": [{"role": "user", "content": "You cook.\n\nHow many eggs?"}],
            "prompt_token_ids": [1, 2, 3],
            "completion_token_ids": [4],
            "dtype": "bfloat16",
            "logprobs": {"this": [-0.5, -1, -2.25], "base": [-3.0], "siblings": {"none": [-1.5]}, "noise": 0.0},
        }
    ],
    "evaluation": [
        {
            "benchmark": "gsm8k",
            "split": "validation",
            "items": 1000,
            "metric": "maj@8",
            "value": 0.5,
            "ci95": [0.4, 0.6],
            "seeds": {"train": 3},
        }
    ],
    "provenance": {"base_model": "a base", "anything": [{"nested": None}]},
}


DOCUMENT = json.loads(json.dumps(DOCUMENT))  # the two sides share no object: a change to one is a change to one


def parse(document: Any) -> Manifest:
    return parse_manifest(json.dumps(document).encode())


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The document with the value at `path` set."""
    document = deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return document


def recomputed_pair_id(data: bytes) -> str:
    """What anyone can compute from the file without us."""
    pair = json.loads(data)["pair"]
    text = json.dumps(pair, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode("utf-8")).hexdigest()


def assert_refused_in_one_line(data: bytes, kind: type[ManifestError] = ManifestError) -> str:
    with pytest.raises(kind) as refusal:
        parse_manifest(data)
    line = str(refusal.value)
    assert len(line.splitlines()) == 1
    assert line.startswith("its.json: ")
    assert len(line) < 400
    return line


# ---- reading and the pair id


def test_a_manifest_is_read_whole() -> None:
    manifest = parse(DOCUMENT)
    assert manifest.model_dump(mode="json", exclude_unset=True) == DOCUMENT


def test_a_manifest_that_is_written_again_keeps_its_pair_id() -> None:
    manifest = parse(DOCUMENT)
    again = parse_manifest(manifest.model_dump_json(exclude_unset=True).encode())
    assert again == manifest
    assert again.pair_id == manifest.pair_id


MINIMAL: dict[str, Any] = {
    "schema_version": 1,
    "origin": "declared",
    "pair": {"trained_with": {"strategy": "none"}, "serve_with": {"strategy": "none", "seed": 0}},
}


@pytest.mark.parametrize("document", [DOCUMENT, MINIMAL])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_the_pair_id_is_what_anyone_recomputes_from_the_file(
    document: dict[str, Any], indent: int | None, ensure_ascii: bool
) -> None:
    data = json.dumps(document, indent=indent, ensure_ascii=ensure_ascii).encode()
    assert parse_manifest(data).pair_id == recomputed_pair_id(data)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4), st.integers(), st.text(max_size=20))
def test_the_pair_id_is_recomputable_whatever_values_the_pair_holds(
    kwargs: dict[str, Any], seed: int, system_prompt: str
) -> None:
    document = changed("pair", "serve_with", "chat_template_kwargs", to=kwargs)
    document["pair"]["serve_with"] |= {"seed": seed, "system_prompt": system_prompt}
    data = json.dumps(document, ensure_ascii=False).encode()
    assert parse_manifest(data).pair_id == recomputed_pair_id(data)


@pytest.mark.parametrize(
    "document",
    [
        changed("vote", to=None),
        changed("vote", "n", to=4),
        changed("probes", to=[]),
        changed("probes", 0, "dtype", to="float32"),
        changed("evaluation", to=[]),
        changed("evaluation", 0, "value", to=0.25),
        changed("provenance", to={"note": "\u00e9"}),
        changed("origin", to="declared"),
        {key: DOCUMENT[key] for key in reversed(DOCUMENT)},
        changed("pair", to={side: dict(reversed(DOCUMENT["pair"][side].items())) for side in DOCUMENT["pair"]}),
    ],
)
def test_what_lies_outside_the_pair_does_not_change_its_id(document: dict[str, Any]) -> None:
    assert parse(document).pair_id == parse(DOCUMENT).pair_id


@pytest.mark.parametrize("side", ["trained_with", "serve_with"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["strategy"], "fixed"),
        (["template"], "{persona} {query}"),
        (["turns"], "last"),
        (["system_prompt"], ""),
        (["chat_template_sha256"], "f" * 64),
        (["chat_template_kwargs"], {}),
        (["chat_template_kwargs", "enable_thinking"], True),
        (["seed"], 8),
        (["personas", "source"], "writer"),
        (["personas", "file"], "other.jsonl"),
        (["personas", "sha256"], "f" * 64),
        (["personas", "written_by"], None),
        (["personas", "written_by", "model"], "another"),
        (["personas", "written_by", "prompts", "sha256"], "f" * 64),
        (["personas", "written_by", "prompts", "folder"], "prompts"),
        (["personas", "written_by", "sampling", "temperature"], 0.9),
        (["personas", "written_by", "date"], None),
    ],
)
def test_any_change_inside_the_pair_changes_its_id(side: str, path: list[str], value: Any) -> None:
    document = changed("pair", side, *path, to=value)
    assert parse(document).pair_id != parse(DOCUMENT).pair_id


def test_a_side_becomes_the_recipe_that_it_names() -> None:
    side = parse(changed("pair", "serve_with", "turns", to="last")).pair.serve_with
    recipe = recipe_of(side, taxonomy_pool())
    assert (recipe.strategy.name, recipe.turns, recipe.seed, recipe.template) == ("random", "last", 7, side.template)
    assert rewrite(recipe, [{"role": "user", "content": "3 eggs"}]).personas[0] in taxonomy_pool().personas


def test_a_manifest_cannot_be_changed_in_place() -> None:
    manifest: Any = parse(DOCUMENT)
    with pytest.raises(ValueError, match="frozen"):
        manifest.pair.serve_with.seed = 8


# ---- refusals


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"its"',
        b"1",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": 1, "provenance": ' + b"[" * 100_000,
        b'{"schema_version": 1, "provenance": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
        b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode(),
        json.dumps(DOCUMENT).encode("utf-16"),
        json.dumps(DOCUMENT).encode() + b"{}",
        json.dumps(DOCUMENT).encode()[:-1],
        json.dumps(DOCUMENT).encode().replace(b'"a base"', b'"\xff"'),
        json.dumps(DOCUMENT).encode().replace(b'"a base"', b'"\\ud800"'),
        json.dumps(DOCUMENT).encode().replace(b'"seed": 7', b'"seed": 7, "seed": 7'),
        json.dumps(DOCUMENT).encode().replace(b'"seed": 7', b'"seed": NaN'),
        json.dumps(DOCUMENT).encode().replace(b'"seed": 7', b'"seed": ' + b"7" * 5000),
        json.dumps(DOCUMENT).encode().replace(b'"noise": 0.0', b'"noise": Infinity'),
        json.dumps(DOCUMENT).encode().replace(b'"top_k": 20', b'"top_k": 1e999'),
    ],
)
def test_bytes_that_are_no_manifest_are_refused_in_one_line(data: bytes) -> None:
    assert_refused_in_one_line(data)


@pytest.mark.parametrize(
    "version", [2, 0, -1, "1", 1.5, True, False, None, [1], {"a\nb": 1}, "1\n2\u20283", "x" * 10_000, [[[[]]]]]
)
def test_an_unknown_schema_is_refused_naming_who_can_read_it(version: Any) -> None:
    line = assert_refused_in_one_line(json.dumps(changed("schema_version", to=version)).encode(), UnknownSchema)
    assert "reads 1" in line
    assert "upgrade" in line


def test_a_missing_schema_version_is_unknown() -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != "schema_version"}
    assert_refused_in_one_line(json.dumps(document).encode(), UnknownSchema)


PLACES_IN_THE_PAIR = [
    ["pair"],
    *(
        ["pair", side, *below]
        for side in ("trained_with", "serve_with")
        for below in ([], ["personas"], ["personas", "written_by"], ["personas", "written_by", "prompts"])
    ),
]


@pytest.mark.parametrize("place", [[], *PLACES_IN_THE_PAIR, ["vote"], ["probes", 0], ["probes", 0, "logprobs"]])
@pytest.mark.parametrize("key", ["unheard", "line\nbreak", "\u2028", "", "\x1b[31m"])
def test_an_unknown_key_is_refused_by_its_place(place: list[str | int], key: str) -> None:
    line = assert_refused_in_one_line(json.dumps(changed(*place, key, to=1)).encode())
    assert ".".join(map(str, place)) in line
    assert "unknown key" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("side", ["trained_with", "serve_with"])
@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["strategy"], "unheard", "unknown strategy 'unheard' version 1"),
        (["strategy"], "R", "unknown strategy 'R'"),
        (["strategy"], "a\nb", r"unknown strategy 'a\\nb'"),
        (["strategy"], None, "strategy"),
        (["version"], 2, "versions here: 1"),
        (["version"], "1", "version"),
        (["version"], True, "version"),
        (["version"], 1.5, "version"),
        (["template"], "{query}", "once each"),
        (["template"], "{persona}\n{persona}{query}", "once each"),
        (["turns"], "first", "turns"),
        (["seed"], 7.5, "seed"),
        (["seed"], "7", "seed"),
        (["system_prompt"], ["be brief"], "system_prompt"),
        (["chat_template_sha256"], DIGEST.upper(), "chat_template_sha256"),
        (["chat_template_sha256"], DIGEST[:-1], "chat_template_sha256"),
        (["chat_template_sha256"], DIGEST + "\n", "chat_template_sha256"),
        (["chat_template_sha256"], "", "chat_template_sha256"),
        (["chat_template_kwargs"], None, "chat_template_kwargs"),
        (["personas"], None, "needs personas"),
        (["personas", "source"], "module", "source"),
        (["personas", "file"], None, "a pool needs file and sha256"),
        (["personas", "sha256"], None, "a pool needs file and sha256"),
        (["personas", "sha256"], "g" * 64, "sha256"),
        (["personas", "domains"], "taxonomy/2", "domains"),
        (["personas"], {"source": "taxonomy"}, "the taxonomy needs sha256"),
        (["personas", "written_by", "model"], None, "model"),
        (["personas", "written_by", "prompts", "sha256"], DIGEST + "0", "sha256"),
    ],
)
def test_a_side_that_cannot_be_read_fully_is_refused_by_its_place(
    side: str, path: list[str], value: Any, reason: str
) -> None:
    with pytest.raises(ManifestError, match=rf"pair\.{side}.*{reason}"):
        parse(changed("pair", side, *path, to=value))
    assert_refused_in_one_line(json.dumps(changed("pair", side, *path, to=value)).encode())


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/etc/x",
        "a/b",
        "a/../b",
        "./a",
        ".hidden",
        "a\\b",
        "C:x",
        "~",
        "a\n",
        "a\x00",
        "",
        " ",
        "a b",
        "\u00e9",
        "a//",
        "x" * 129,
    ],
)
@pytest.mark.parametrize("path", [["personas", "file"], ["personas", "written_by", "prompts", "folder"]])
def test_a_file_name_never_leaves_the_folder(path: list[str], name: str) -> None:
    assert_refused_in_one_line(json.dumps(changed("pair", "serve_with", *path, to=name)).encode())


def test_only_a_folder_may_end_with_a_slash() -> None:
    assert_refused_in_one_line(json.dumps(changed("pair", "serve_with", "personas", "file", to="a/")).encode())
    assert parse(changed("pair", "serve_with", "personas", "written_by", "prompts", "folder", to="a/"))


def test_a_plain_side_that_names_a_pool_names_it_fully() -> None:
    side = {"strategy": "none", "personas": {"source": "pool"}}
    with pytest.raises(ManifestError, match="a pool needs file and sha256"):
        parse({**MINIMAL, "pair": {"trained_with": side, "serve_with": side}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["origin"], "guessed"),
        (["pair"], None),
        (["pair", "serve_with"], []),
        (["vote", "n"], 0),
        (["vote", "n"], 8.5),
        (["vote", "top_p"], 1.5),
        (["vote", "temperature"], -1),
        (["vote", "answer"], "essay"),
        (["probes"], {}),
        (["probes", 0, "prompt_token_ids"], ["1"]),
        (["evaluation", 0, "items"], 0),
        (["evaluation", 0, "ci95"], [0.1]),
        (["provenance"], []),
    ],
)
def test_a_wrong_value_elsewhere_is_refused_by_its_place(path: list[str | int], value: Any) -> None:
    line = assert_refused_in_one_line(json.dumps(changed(*path, to=value)).encode())
    assert ".".join(map(str, path)) in line


def test_many_problems_are_counted_and_the_first_is_told() -> None:
    document = changed("pair", "serve_with", "seed", to="7")
    document["pair"]["serve_with"]["extra"] = 1
    assert "and 1 more" in assert_refused_in_one_line(json.dumps(document).encode())


def test_evaluation_and_provenance_are_free_to_hold_more() -> None:
    assert parse(changed("evaluation", 0, "hardware", to="8 GPUs"))
    assert parse(changed("provenance", "unheard", to={"a": [1]}))


# ---- whatever else a file may hold


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in below for place in places(inner, (*path, key)))]


PLACES = places(DOCUMENT)[1:]
ODD_VALUES = JSON_VALUES | st.sampled_from(
    ["random", "none", "mixed", "pool", "taxonomy", "writer", "{persona}{query}", DIGEST, "../x", 10**400, -1, 1e308]
)


def assert_read_or_refused(data: bytes) -> None:
    try:
        manifest = parse_manifest(data)
    except ManifestError as refusal:
        assert len(str(refusal).splitlines()) == 1  # noqa: PT017 both outcomes are good
        return
    assert manifest.pair_id == recomputed_pair_id(data)
    for side in (manifest.pair.trained_with, manifest.pair.serve_with):
        recipe_of(side, None)
    try:
        check_pair_rule(manifest.pair)
    except OneSidedPair as refusal:
        assert len(str(refusal).splitlines()) == 1  # noqa: PT017


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_mutated_manifest_is_read_or_refused_with_a_manifest_error(data: st.DataObject) -> None:
    document = deepcopy(DOCUMENT)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(PLACES))
        parent: Any = document
        for step in path[:-1]:
            try:
                parent = parent[step]
            except (LookupError, TypeError):  # an earlier mutation took it away
                break
        else:
            _mutate(data, parent, path[-1])
    assert_read_or_refused(json.dumps(document).encode())


def _mutate(data: st.DataObject, parent: Any, key: str | int) -> None:
    kind = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if isinstance(parent, dict):
        if kind == "remove":
            parent.pop(key, None)
        else:
            parent[key if kind == "replace" else data.draw(st.text(max_size=6))] = data.draw(ODD_VALUES)
    elif isinstance(parent, list):
        parent[:] = [] if kind == "remove" else [*parent, data.draw(ODD_VALUES)]


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=12))
def test_a_manifest_with_torn_bytes_is_read_or_refused_with_a_manifest_error(
    start: int, n_removed: int, inserted: bytes
) -> None:
    whole = json.dumps(DOCUMENT).encode()
    start %= len(whole)
    assert_read_or_refused(whole[:start] + inserted + whole[start + n_removed :])


# ---- the pair rule

NAMES = strategy_names()


@pytest.mark.parametrize(("trained", "served"), [*product(NAMES, NAMES)])
def test_both_sides_carry_a_persona_or_neither_but_mixed_may_be_served_plain(trained: str, served: str) -> None:
    personas = Personas(source="taxonomy", sha256=taxonomy_pool().sha256)
    pair = Pair(
        trained_with=Side(strategy=trained, personas=personas), serve_with=Side(strategy=served, personas=personas)
    )
    holds = (trained == "none") == (served == "none") or (trained, served) == ("mixed", "none")
    if holds:
        check_pair_rule(pair)
        return
    with pytest.raises(OneSidedPair) as refusal:
        check_pair_rule(pair)
    assert repr(trained) in str(refusal.value)
    assert repr(served) in str(refusal.value)
    assert refusal.value.code == "one_sided_pair"


def test_all_eight_strategies_are_in_the_table() -> None:
    assert len(NAMES) == 8
