"""Bundles: one file that holds what a folder held, and nothing else is believed."""

import base64
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy import bundle as bundle_module
from its_proxy.bundle import MAX_BUNDLE_BYTES, bundle_of, read_bundle
from its_proxy.checkpoint import (
    Checkpoint,
    check_weights,
    folder_digest,
    open_checkpoint,
    read_manifest,
    source_at,
)
from its_proxy.codesign.errors import DigestMismatch, ManifestError, ProbeMismatch, UnknownSchema
from its_proxy.codesign.personas import Persona, pool_jsonl
from its_proxy.codesign.strategies import rewrite
from its_proxy.codesign.taxonomy import GENERAL, NAMES
from its_proxy.source import MAX_PROMPT_FILES, Files
from tests.serving import manifest, write_checkpoint

ODD = 'día ☃ 𝄞 "quotes" \\ \r\n\t \x00\x1f\x7f\x85\xa0\u2028\u2029\ufeff {persona}'
POOL = pool_jsonl([Persona(f"You know {domain}. {ODD}", domain) for domain in (*NAMES, GENERAL)])


def pooled(folder: Path, data: bytes = POOL, prompts: dict[str, bytes] | None = None) -> Checkpoint:
    """A checkpoint whose personas come from a file, and with what these were written with."""
    document = manifest("random", probes=[])
    personas: dict[str, Any] = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256(data).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "its-personas.jsonl").write_bytes(data)
    if prompts is not None:
        (folder / "its-persona-prompts").mkdir()
        for name, prompt in prompts.items():
            (folder / "its-persona-prompts" / name).write_bytes(prompt)
        named = {"folder": "its-persona-prompts/", "sha256": folder_digest(folder / "its-persona-prompts")}
        personas["written_by"] = {"model": "m", "prompts": named}
    for side in document["pair"].values():
        side["personas"] = personas
    return open_checkpoint(write_checkpoint(folder, document))


def bundled(folder: Path, checkpoint: Checkpoint) -> Path:
    path = folder / "bundle.json"
    path.write_bytes(bundle_of(checkpoint.source, checkpoint.manifest))
    return path


def document_in(folder: Path) -> dict[str, Any]:
    """A good bundle, to be made worse."""
    document = json.loads(bundle_of(pooled(folder).source, pooled(folder).manifest))
    assert set(document["files"]) == {"its.json", "its-personas.jsonl"}
    return document


def refusal(folder: Path, document: Any) -> ManifestError:
    path = folder / "bundle.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    with pytest.raises(ManifestError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((str(path), "its.json: "))
    return caught.value


# -- there and back ----------------------------------------------------------------------------------------------------


PROMPTS = {"one.txt": b"Write a persona.\r\n", "two with spaces.bin": bytes(range(256)), "empty": b""}


def test_every_file_comes_back_byte_for_byte(tmp_path):
    checkpoint = pooled(tmp_path / "a", prompts=PROMPTS)
    again = open_checkpoint(bundled(tmp_path, checkpoint))
    assert again.pair_id == checkpoint.pair_id
    assert again.manifest == checkpoint.manifest
    assert (again.serve, again.trained) == (checkpoint.serve, checkpoint.trained)
    assert isinstance(again.source, Files)
    assert again.source.contents == {
        "its.json": (tmp_path / "a" / "its.json").read_bytes(),
        "its-personas.jsonl": POOL,
        **{f"its-persona-prompts/{name}": data for name, data in PROMPTS.items()},
    }
    query = [{"role": "user", "content": "How many eggs?"}]
    assert rewrite(again.serve, query) == rewrite(checkpoint.serve, query)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_whatever_bytes_a_file_holds_survive(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bundle")
    source = bundled(folder, pooled(folder / "a", prompts={"one": data}))
    assert read_bundle(source).contents["its-persona-prompts/one"] == data


def test_a_bundle_of_a_bundle_is_the_same(tmp_path):
    path = bundled(tmp_path, pooled(tmp_path / "a", prompts=PROMPTS))
    again = open_checkpoint(path)
    assert bundle_of(again.source, again.manifest) == path.read_bytes()


def test_no_byte_of_it_is_one_that_yaml_would_change(tmp_path):
    """Other than what ends a line of the JSON itself."""
    text = bundled(tmp_path, pooled(tmp_path / "a")).read_text(encoding="utf-8")
    assert "☃" in text, "readable where that is safe"
    assert all(character.isprintable() or character in "\n\xa0" for character in text)


def test_a_manifest_without_further_files_is_a_bundle_of_one(tmp_path):
    path = bundled(tmp_path, open_checkpoint(write_checkpoint(tmp_path / "a", manifest("similar"))))
    assert list(read_bundle(path).contents) == ["its.json"]


def test_a_bundle_is_smaller_than_twice_its_files(tmp_path):
    path = bundled(tmp_path, pooled(tmp_path / "a"))
    assert path.stat().st_size < 2 * sum(file.stat().st_size for file in (tmp_path / "a").iterdir())


def test_a_bundle_has_no_weights(tmp_path):
    checkpoint = open_checkpoint(bundled(tmp_path, pooled(tmp_path / "a")))
    assert checkpoint.folder is None
    with pytest.raises(ManifestError, match="holds no weights"):
        check_weights(checkpoint)


def test_a_pool_that_went_missing_meanwhile_is_not_bundled(tmp_path):
    checkpoint = pooled(tmp_path / "a")
    (tmp_path / "a" / "its-personas.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"its-personas\.jsonl is missing"):
        bundle_of(checkpoint.source, checkpoint.manifest)


# -- what is no bundle -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"files": {}}', b"7"])
def test_what_is_no_bundle_is_refused(tmp_path, data):
    assert "is not a bundle" in str(refusal(tmp_path, data))


def test_a_manifest_by_itself_is_told_apart(tmp_path):
    folder = write_checkpoint(tmp_path, manifest())
    copied = (folder / "its.json").rename(folder / "copy.json")
    with pytest.raises(ManifestError, match=r"copy\.json is not a bundle \(its-proxy manifest bundle"):
        open_checkpoint(copied)


def test_the_path_of_a_manifest_stands_for_its_folder(tmp_path):
    folder = write_checkpoint(tmp_path, manifest())
    assert open_checkpoint(folder / "its.json").folder == folder


@pytest.mark.parametrize("version", [2, 0, "1", True, None, 1.5, [1], "x" * 5000])
def test_another_version_is_refused_naming_who_reads_it(tmp_path, version):
    error = refusal(tmp_path, {**document_in(tmp_path / "a"), "its_bundle": version})
    assert isinstance(error, UnknownSchema)
    assert "this its-proxy reads 1" in str(error)
    assert len(str(error)) < 400


def test_duplicate_keys_are_refused_at_every_depth(tmp_path):
    good = json.dumps(document_in(tmp_path / "a"))
    entry = json.dumps({"sha256": sha256(b"").hexdigest(), "text": ""})
    for text in (
        good.replace("{", '{"its_bundle": 1, ', 1),
        good.replace('"files": {', f'"files": {{"its.json": {entry}, ', 1),
        good.replace('"text":', '"text": "x", "text":', 1),
    ):
        assert "duplicate key" in str(refusal(tmp_path, text.encode()))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(more=1),
        lambda d: d["files"]["its.json"].update(mode="0777"),
        lambda d: d.pop("pair_id"),
        lambda d: d.pop("files"),
        lambda d: d.update(files=[]),
        lambda d: d.update(pair_id="x"),
        lambda d: d["files"].update({"its.json": "text"}),
        lambda d: d["files"]["its.json"].update(text=7),
        lambda d: d["files"]["its.json"].pop("sha256"),
        lambda d: d["files"]["its.json"].update(base64="eA=="),
        lambda d: d["files"]["its.json"].pop("text"),
        lambda d: d["files"]["its.json"].update(base64="%%%", text=None),
        lambda d: d["files"]["its.json"].update(base64="é", text=None),
        lambda d: d["files"].update({str(k): d["files"]["its.json"] for k in range(MAX_PROMPT_FILES + 4)}),
        lambda d: d["files"].pop("its.json"),
        lambda d: d["files"].pop("its-personas.jsonl"),
        lambda d: d["files"].update({"stranger.txt": d["files"]["its.json"]}),
        lambda d: d["files"].update({"config.json": d["files"]["its.json"]}),
        lambda d: d.update({"\n": 1}),
    ],
)
def test_keys_that_are_missing_strange_or_of_another_kind_are_refused(tmp_path, change):
    document = document_in(tmp_path / "a")
    change(document)
    refusal(tmp_path, document)


@pytest.mark.parametrize(
    "name",
    [
        "../its.json",
        "/etc/passwd",
        "a/../b",
        "a/b/c",
        "a//b",
        "a/",
        ".hidden",
        "a\\b",
        "",
        "x" * 500,
        "a/\n",
        "\0",
        "~",
    ],
)
def test_names_with_a_path_in_them_are_refused(tmp_path, name):
    document = document_in(tmp_path / "a")
    document["files"][name] = document["files"]["its.json"]
    refusal(tmp_path, document)


@pytest.mark.parametrize("name", ["its.json", "its-personas.jsonl"])
def test_a_file_with_another_digest_is_refused(tmp_path, name):
    document = document_in(tmp_path / "a")
    document["files"][name]["text"] += " "
    error = refusal(tmp_path, document)
    assert isinstance(error, DigestMismatch)
    assert f"{name} is not the file that was bundled" in str(error)


def test_a_swapped_pool_with_a_fitting_digest_is_still_not_the_pairs(tmp_path):
    document = document_in(tmp_path / "a")
    data = POOL.replace(b"You know", b"They know")
    document["files"]["its-personas.jsonl"] = {"sha256": sha256(data).hexdigest(), "text": data.decode()}
    (tmp_path / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(DigestMismatch, match="the pair names"):
        open_checkpoint(tmp_path / "bundle.json")


def test_a_manifest_of_another_pair_is_refused(tmp_path):
    document = document_in(tmp_path / "a")
    document["pair_id"] = "0" * 64
    assert "another pair than 00000000" in str(refusal(tmp_path, document))


def test_an_edited_probe_is_refused_as_in_a_folder(tmp_path):
    edited = manifest("random")
    edited["probes"][0]["query"] = "How many are 5 eggs?"
    data = json.dumps(edited).encode()
    pair_id = open_checkpoint(write_checkpoint(tmp_path / "a", manifest("random"))).pair_id
    entry = {"sha256": sha256(data).hexdigest(), "base64": base64.b64encode(data).decode()}
    (tmp_path / "b.json").write_text(json.dumps({"its_bundle": 1, "pair_id": pair_id, "files": {"its.json": entry}}))
    with pytest.raises(ProbeMismatch):
        open_checkpoint(tmp_path / "b.json")


def test_a_huge_file_is_refused_before_it_is_read_whole(tmp_path):
    with (tmp_path / "bundle.json").open("wb") as file:
        file.truncate(MAX_BUNDLE_BYTES + 1)
    with pytest.raises(ManifestError, match="is larger than"):
        read_bundle(tmp_path / "bundle.json")


def test_a_pool_at_its_limit_fits(tmp_path):
    assert bundle_module.MAX_POOL_BYTES * 4 // 3 + bundle_module.MAX_MANIFEST_BYTES < MAX_BUNDLE_BYTES


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="neither a folder nor a bundle"):
        source_at(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="is not there"):
        source_at(tmp_path / "gone")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ManifestError, match="is not there"):
        source_at(tmp_path / "link")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.text() | st.sampled_from(["its_bundle", "files", "pair_id", "its.json", "text", "sha256"]), inner
            )
        ),
        max_leaves=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_json_a_file_holds_is_refused_in_one_line(tmp_path_factory, document):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-bundle"
    folder.mkdir(exist_ok=True)
    refusal(folder, document)


def test_a_bundle_has_a_manifest_to_look_at_before_it_is_opened(tmp_path):
    path = bundled(tmp_path, pooled(tmp_path / "a"))
    manifest_read = read_manifest(path)
    assert manifest_read is not None
    assert manifest_read.pair_id == open_checkpoint(path).pair_id
