"""docs/reference/ and the JSON Schemas beside it: what the code says, and what files of settings and manifests pass."""

import json
import re
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from deploy.docs_reference import MANIFEST_PARTS, SETTINGS_PARTS, files, lines_of, page
from its_proxy.codesign.errors import ConfigError
from its_proxy.settings import load_settings
from tests.serving import manifest

ROOT = Path(__file__).parents[2]
FILES = files()


def schema(name: str) -> jsonschema_rs.Validator:
    document = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text("utf-8"))
    jsonschema_rs.meta.validate(document)
    return jsonschema_rs.validator_for(document)


SETTINGS, MANIFEST = schema("settings"), schema("manifest")


def files_of_settings() -> dict[str, dict]:
    found = {
        str(path.relative_to(ROOT)): yaml.safe_load(path.read_text("utf-8"))
        for path in (ROOT / "deploy").rglob("its.yaml")
    }
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for n, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)):
            document = yaml.safe_load(block)
            if isinstance(document, dict) and {"upstreams", "models", "vote"} & document.keys():
                found[f"{path.relative_to(ROOT)} {n}"] = document
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_what_the_code_says(path):
    assert path.read_text("utf-8") == FILES[path], "make schema writes it anew"


@pytest.mark.parametrize("part", [*SETTINGS_PARTS, *MANIFEST_PARTS], ids=lambda part: part.model.__name__)
def test_every_key_has_a_line(part):
    assert {key for key, line in lines_of(part.model).items() if not line} - {"name"} == set()


@pytest.mark.parametrize(("name", "document"), files_of_settings().items(), ids=lambda part: part)
def test_every_file_of_settings_passes_its_schema(name, document):
    SETTINGS.validate(document)


def test_the_pages_example_is_read(tmp_path):
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/reference/configuration.md").read_text(), re.M | re.S)
    (tmp_path / "its.yaml").write_text(block)
    assert load_settings(tmp_path / "its.yaml", {}, {}).aliases[0].models == {"qwen-random": 95, "qwen-similar": 5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"prot": 8080},
        {"port": "8080"},
        {"models": [{"name": "llama"}]},
        {"models": {"llama": {"name": "llama"}}},
        {"vote": {"stop": "exactly"}},
        {"upstreams": {"gpu": {}}},
    ],
    ids=str,
)
def test_what_the_settings_refuse_the_schema_refuses(tmp_path, wrong):
    (tmp_path / "its.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(ConfigError):
        load_settings(tmp_path / "its.yaml", {}, {})
    assert not SETTINGS.is_valid(wrong)


@pytest.mark.parametrize("section", ["upstreams", "models", "ensembles", "aliases", "keys", "strategies", "roots"])
def test_a_section_may_be_left_empty(tmp_path, section):
    (tmp_path / "its.yaml").write_text(f"{section}:\n")
    assert not getattr(load_settings(tmp_path / "its.yaml", {}, {}), section)
    SETTINGS.validate({section: None})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "its_proxy/demo").glob("*/its.json")), ids=lambda path: path.parent.name
)
def test_the_demos_manifests_pass_their_schema(path):
    MANIFEST.validate(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"code": "x"}, {"pair": {}}, {"origin": "guessed"}], ids=str)
def test_what_is_no_manifest_does_not_pass(change):
    MANIFEST.validate(manifest("random"))
    assert not MANIFEST.is_valid(manifest("random") | change)


def test_a_page_without_its_markers_is_not_written(tmp_path):
    (tmp_path / "page.md").write_text("# A page\n")
    with pytest.raises(SystemExit, match=r"the markers .* are gone"):
        page(tmp_path / "page.md", "tables")
