import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from its_proxy.checkpoint import check_weights, folder_digest, open_checkpoint, read_manifest
from its_proxy.codesign.errors import DigestMismatch, ManifestError, OneSidedPair, ProbeMismatch, UnknownSchema
from its_proxy.codesign.personas import Persona, pool_jsonl, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_proxy.codesign.taxonomy import GENERAL, NAMES
from its_proxy.source import MAX_PROMPT_BYTES, read_file
from tests.serving import PROBE_QUERY, manifest, write_checkpoint

POOL = pool_jsonl([Persona(f"You know {domain} well.", domain) for domain in (*NAMES, GENERAL)])


def pooled(strategy: str = "random", data: bytes = POOL, **personas: Any) -> dict[str, Any]:
    """A manifest whose personas come from a file; its probe is left out."""
    document = manifest(strategy, probes=[])
    source = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256(data).hexdigest(), **personas}
    for side in document["pair"].values():
        side["personas"] = source
    return document


def refusal(folder: Path) -> ManifestError:
    """The one line that refuses this folder; fails when it is opened."""
    with pytest.raises(ManifestError) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def point_to(folder: Path, pointer: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "its": pointer}))


# -- what opens --------------------------------------------------------------------------------------------------------


def test_a_folder_with_only_a_manifest_is_enough(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("random")))
    assert checkpoint.serve.strategy.name == "random"
    assert checkpoint.pair_id == checkpoint.manifest.pair_id
    assert not checkpoint.is_one_sided


def test_an_adapter_folder_needs_no_pointer(tmp_path):
    write_checkpoint(tmp_path, manifest("similar"))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert open_checkpoint(tmp_path).serve.strategy.name == "similar"


def test_a_folder_without_a_manifest_is_passed_through_or_refused_with_a_hint(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert read_manifest(tmp_path) is None
    assert "holds no its.json" in str(refusal(tmp_path))


def test_a_pool_is_opened_and_drawn_from(tmp_path):
    (tmp_path / "its-personas.jsonl").write_bytes(POOL)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, pooled("similar")))
    messages = rewrite(checkpoint.serve, [{"role": "user", "content": "How many eggs?"}]).messages
    assert messages[0]["content"].startswith("You know ")
    assert checkpoint.trained.pool == checkpoint.serve.pool


def test_both_sides_and_all_models_that_were_trained_with_one_pool_hold_it_once(tmp_path):
    folders = [write_checkpoint(tmp_path / name, pooled(name)) for name in ("similar", "random")]
    for folder in folders:
        (folder / "its-personas.jsonl").write_bytes(POOL)
    one, other = map(open_checkpoint, folders)
    assert one.trained.pool is one.serve.pool is other.serve.pool


def test_a_writer_needs_no_file_and_its_probes_cannot_be_repeated(tmp_path):
    document = manifest("similar")
    for side in document["pair"].values():
        side["personas"] = {"source": "writer"}
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    assert checkpoint.serve.pool is None


def test_a_one_sided_pair_is_refused_unless_allowed_and_then_marked(tmp_path):
    write_checkpoint(tmp_path, manifest("none", served="random"))
    assert isinstance(refusal(tmp_path), OneSidedPair)
    assert open_checkpoint(tmp_path, allow_one_sided=True).is_one_sided


def test_mixed_may_be_served_plain(tmp_path):
    write_checkpoint(tmp_path, manifest("mixed", served="none"))
    assert not open_checkpoint(tmp_path).is_one_sided


# -- the pointer -------------------------------------------------------------------------------------------------------


def test_a_pointer_to_this_pair_is_believed(tmp_path):
    pair_id = open_checkpoint(write_checkpoint(tmp_path, manifest())).pair_id
    point_to(tmp_path, {"schema_version": 1, "pair_id": pair_id})
    assert open_checkpoint(tmp_path).pair_id == pair_id


@pytest.mark.parametrize("pair_id", ["0" * 64, "", None, 7, ["x"]])
def test_a_pointer_to_another_pair_is_refused(tmp_path, pair_id):
    write_checkpoint(tmp_path, manifest())
    point_to(tmp_path, {"schema_version": 1, "pair_id": pair_id})
    assert isinstance(refusal(tmp_path), DigestMismatch)


def test_a_pointer_without_its_manifest_is_refused_with_a_hint(tmp_path):
    point_to(tmp_path, {"schema_version": 1, "pair_id": "0" * 64})
    with pytest.raises(ManifestError, match=r"config\.json points to a pair, but its\.json is missing \(copy"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("pointer", ["x", 7, [], True])
def test_a_pointer_that_is_none_is_refused(tmp_path, pointer):
    write_checkpoint(tmp_path, manifest())
    point_to(tmp_path, pointer)
    assert "its is not an object" in str(refusal(tmp_path))


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b""])
def test_a_config_that_is_not_json_is_refused(tmp_path, data):
    write_checkpoint(tmp_path, manifest())
    (tmp_path / "config.json").write_bytes(data)
    assert "config.json is not JSON" in str(refusal(tmp_path))


def test_a_config_that_says_nothing_of_a_pair_is_fine(tmp_path):
    write_checkpoint(tmp_path, manifest())
    for text in ("{}", "[]", '{"its": null}'):
        (tmp_path / "config.json").write_text(text)
        open_checkpoint(tmp_path)


# -- what was edited ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 1}'])
def test_a_malformed_manifest_is_refused(tmp_path, text):
    (tmp_path / "its.json").write_text(text)
    assert "its.json" in str(refusal(tmp_path))


def test_a_newer_manifest_is_refused_naming_who_reads_it(tmp_path):
    write_checkpoint(tmp_path, manifest(schema_version=2))
    error = refusal(tmp_path)
    assert isinstance(error, UnknownSchema)
    assert "this its-proxy reads 1" in str(error)


def test_a_pool_with_another_digest_is_refused_before_it_is_read(tmp_path):
    write_checkpoint(tmp_path, pooled())
    (tmp_path / "its-personas.jsonl").write_bytes(b"not even JSON")
    error = refusal(tmp_path)
    assert isinstance(error, DigestMismatch)
    assert "its-personas.jsonl has digest" in str(error)


def test_a_missing_pool_is_refused_with_a_hint(tmp_path):
    write_checkpoint(tmp_path, pooled())
    assert "its-personas.jsonl is missing" in str(refusal(tmp_path))


def test_a_pool_that_lacks_domains_is_refused_where_the_strategy_needs_them(tmp_path):
    data = pool_jsonl([Persona("You know cooking.", "cooking")])
    (tmp_path / "its-personas.jsonl").write_bytes(data)
    assert "needs personas of every domain" in str(refusal(write_checkpoint(tmp_path, pooled("similar", data))))
    open_checkpoint(write_checkpoint(tmp_path, pooled("random", data)))


def test_template_personas_of_another_version_are_refused(tmp_path):
    document = manifest("random")
    for side in document["pair"].values():
        side["personas"] = {**side["personas"], "sha256": "0" * 64}
    error = refusal(write_checkpoint(tmp_path, document))
    assert isinstance(error, DigestMismatch)
    assert "template personas" in str(error)


@pytest.mark.parametrize("field", ["messages", "query"])
def test_an_edited_probe_is_refused(tmp_path, field):
    document = manifest("random")
    edited: dict[str, Any] = {"messages": [{"role": "user", "content": PROBE_QUERY}], "query": "How many are 5 eggs?"}
    document["probes"][0][field] = edited[field]
    error = refusal(write_checkpoint(tmp_path, document))
    assert isinstance(error, ProbeMismatch)
    assert "probe 0" in str(error)


def test_a_probe_that_cannot_be_rewritten_is_refused(tmp_path):
    document = manifest("random")
    document["probes"][0]["query"] = "  "
    assert isinstance(refusal(write_checkpoint(tmp_path, document)), ProbeMismatch)


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 8), ("template", "{query}\n\n{persona}"), ("strategy", "similar")]
)
def test_an_edited_pair_shows_in_its_probes(tmp_path, field, value):
    document = manifest("random")
    document["pair"]["serve_with"][field] = value
    assert isinstance(refusal(write_checkpoint(tmp_path, document)), ProbeMismatch)


def test_an_edited_chat_template_is_refused_and_a_missing_one_is_not(tmp_path):
    document = manifest()
    for side in document["pair"].values():
        side["chat_template_sha256"] = sha256(b"{{ messages }}").hexdigest()
    write_checkpoint(tmp_path, document)
    open_checkpoint(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}")
    open_checkpoint(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }} ")
    error = refusal(tmp_path)
    assert isinstance(error, DigestMismatch)
    assert "is not the template that the pair names" in str(error)


# -- the prompts that wrote a pool -------------------------------------------------------------------------------------


def prompted(folder: Path) -> Path:
    prompts = folder / "its-persona-prompts"
    prompts.mkdir(parents=True)
    (prompts / "one.txt").write_text("Write a persona.")
    (folder / "its-personas.jsonl").write_bytes(POOL)
    written_by = {"model": "m", "prompts": {"folder": "its-persona-prompts/", "sha256": folder_digest(prompts)}}
    write_checkpoint(folder, pooled(written_by=written_by))
    return prompts


def test_the_prompts_are_part_of_the_pair(tmp_path):
    prompts = prompted(tmp_path)
    open_checkpoint(tmp_path)
    (prompts / "one.txt").write_text("Write a persona!")
    assert isinstance(refusal(tmp_path), DigestMismatch)
    (prompts / "one.txt").write_text("Write a persona.")
    open_checkpoint(tmp_path)
    (prompts / "two.txt").write_text("")
    assert isinstance(refusal(tmp_path), DigestMismatch)


def test_a_missing_or_linked_prompts_folder_is_refused(tmp_path):
    prompts = prompted(tmp_path / "a")
    prompts.rename(tmp_path / "elsewhere")
    assert "its-persona-prompts" in str(refusal(tmp_path / "a"))
    prompts.symlink_to(tmp_path / "elsewhere")
    assert "its-persona-prompts" in str(refusal(tmp_path / "a"))


def test_odd_things_among_the_prompts_are_refused(tmp_path):
    prompts = prompted(tmp_path / "a")
    (tmp_path / "secret").write_text("secret")
    (prompts / "link").symlink_to(tmp_path / "secret")
    assert "cannot be opened" in str(refusal(tmp_path / "a"))
    (prompts / "link").unlink()
    os.mkfifo(prompts / "pipe")
    assert "not a regular file" in str(refusal(tmp_path / "a"))
    (prompts / "pipe").unlink()
    (prompts / "folder").mkdir()
    assert "not a regular file" in str(refusal(tmp_path / "a"))
    (prompts / "folder").rmdir()
    (prompts / "big").write_bytes(b" " * (MAX_PROMPT_BYTES + 1))
    assert "is larger than" in str(refusal(tmp_path / "a"))
    (prompts / "big").unlink()
    for number in range(300):
        (prompts / f"{number}.txt").touch()
    assert "more than 256 files" in str(refusal(tmp_path / "a"))


# -- files that are none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["its.json", "config.json", "its-personas.jsonl"])
def test_links_pipes_folders_and_huge_files_are_refused_without_waiting(tmp_path, name):
    folder = write_checkpoint(tmp_path / "a", pooled())
    (folder / "its-personas.jsonl").write_bytes(POOL)
    (folder / "config.json").write_text("{}")
    open_checkpoint(folder)
    file = folder / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert f"{name} cannot be opened" in str(refusal(folder))
    file.unlink()
    os.mkfifo(file)
    assert f"{name} is not a regular file" in str(refusal(folder))
    file.unlink()
    file.mkdir()
    assert f"{name} is not a regular file" in str(refusal(folder))
    file.rmdir()
    with file.open("wb") as stream:
        stream.truncate(65 * 2**20)
    assert f"{name} is larger than" in str(refusal(folder))


def test_a_folder_that_is_a_mounted_config_map_is_pointed_to_the_bundle(tmp_path):
    write_checkpoint(tmp_path / "..data", manifest())
    (tmp_path / "its.json").symlink_to("..data/its.json")
    assert "a mounted ConfigMap takes a bundle" in str(refusal(tmp_path))


def test_a_file_at_its_limit_is_read_whole(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert read_file(tmp_path, "f", 3) == b"abc"
    with pytest.raises(ManifestError, match="larger than 2 bytes"):
        read_file(tmp_path, "f", 2)
    assert read_file(tmp_path, "other", 3) is None


PIECES = ["..", ".", "/", "\\", "etc", "passwd", "its.json", "~", "\0", "%2e%2e", "%2f", "\u2024\u2024", "\u2215", "C:"]
PIECES += ["secret.txt", "file:", "//", "proc/self/environ", " ", "$HOME", "`id`", "|id", "\u202e", "-", "*", "\n", "a"]


def payloads(n: int) -> list[str]:
    rng = random.Random(7)
    fixed = ["../secret.txt", "/etc/passwd", "a/../../secret.txt", "..", ".", "", "prompts/../../secret.txt"]
    return fixed + ["".join(rng.choices(PIECES, k=rng.randint(1, 5))) for _ in range(n - len(fixed))]


OPENED: list[str] = []
_is_watching = False


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    # A number is a descriptor that was opened before.
    if _is_watching and event in ("open", "os.listdir", "os.scandir", "os.chdir") and not isinstance(arguments[0], int):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_on_audit)  # an audit hook cannot be removed again; this one sleeps unless asked


@contextmanager
def watched() -> Iterator[list[str]]:
    """The paths that are opened or listed meanwhile."""
    global _is_watching
    OPENED.clear()
    _is_watching = True
    try:
        yield OPENED
    finally:
        _is_watching = False


def test_the_watch_sees_what_is_opened(tmp_path):
    (tmp_path / "f").touch()
    with watched() as opened:
        read_file(tmp_path, "f", 1)
    assert opened == [str(tmp_path / "f")]


def test_500_odd_names_never_open_anything_outside_the_folder(tmp_path):
    (tmp_path / "secret.txt").write_bytes(POOL)
    folder = tmp_path / "checkpoint"
    n_refused = 0
    for name in payloads(500):
        for document in (pooled(file=name), _with_prompts(name), _with_weights(name)):
            write_checkpoint(folder, document)
            (folder / "its-personas.jsonl").write_bytes(POOL)
            with watched() as opened, suppress(ManifestError):
                check_weights(open_checkpoint(folder))
                n_refused -= 1
            n_refused += 1
            assert opened
            assert {os.path.dirname(os.path.normpath(path)) for path in opened} == {str(folder)}, (name, opened)
    assert n_refused == 3 * 500


def _with_prompts(name: str) -> dict[str, Any]:
    return pooled(written_by={"model": "m", "prompts": {"folder": name, "sha256": "0" * 64}})


def _with_weights(name: str) -> dict[str, Any]:
    return manifest(provenance={"weights_sha256": {name: "0" * 64}})


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=100, deadline=None)
def test_whatever_its_json_holds_is_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "its.json").write_bytes(data)
    refusal(folder)


def test_a_probe_is_rewritten_as_training_rewrote_it(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, manifest("dissimilar")))
    recipe = Recipe(strategy_named("dissimilar"), pool=taxonomy_pool(), seed=7)
    wanted = rewrite(recipe, [{"role": "user", "content": PROBE_QUERY}]).messages
    assert checkpoint.manifest.probes[0].messages == wanted
