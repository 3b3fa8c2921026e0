import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from its_proxy.codesign.errors import ConfigError
from its_proxy.dotted import Key, dotted
from its_proxy.yaml_file import read_yaml


def read(folder: Path, text: str) -> tuple[dict[str, Any], dict[Key, str]]:
    file = folder / "its.yaml"
    file.write_text(text, encoding="utf-8")
    return read_yaml(file)


def refusal(folder: Path, text: str) -> str:
    """The one line that refuses this file; fails when the file is accepted."""
    with pytest.raises(ConfigError) as refused:
        read(folder, text)
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_every_value_comes_with_the_line_that_says_it(tmp_path):
    values, lines = read(tmp_path, "port: 1\nmodels:\n  llama:\n    vote: {n: 8}\nkeys:\n  - {env: A}\n")
    assert values == {"port": 1, "models": {"llama": {"vote": {"n": 8}}}, "keys": [{"env": "A"}]}
    assert lines["port",] == "its.yaml:1"
    assert lines["models", "llama", "vote", "n"] == "its.yaml:4"
    assert lines["keys", 0, "env"] == "its.yaml:6"


def test_an_empty_file_has_no_values(tmp_path):
    assert read(tmp_path, "") == ({}, {})
    assert read(tmp_path, "# only a word\n") == ({}, {})


def test_of_two_merged_mappings_the_first_wins_as_in_safe_load(tmp_path):
    text = "a: &a {k: 1}\nb: &b {k: 2, l: 3}\nc: {<<: [*a, *b], m: 4}\n"
    values, lines = read(tmp_path, text)
    assert values == yaml.safe_load(text)
    assert values["c"] == {"k": 1, "l": 3, "m": 4}
    assert lines["c", "l"] == "its.yaml:2"


def test_a_key_is_written_as_a_person_reads_it():
    assert dotted(("models", "llama", "vote", "n")) == "models.llama.vote.n"
    assert dotted(("keys", 0, "env")) == "keys[0].env"
    assert dotted(("models", "org/llama 3")) == "models['org/llama 3']"


# -- files that are no settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("port: 1\nhost: [a\n", "its.yaml:3:1: not a settings file: expected ',' or ']'"),
        ("port: 1\n\thost: a\n", "its.yaml:2:1: not a settings file: found character '\\t'"),
        ("vote: *other\n", "its.yaml:1:7: not a settings file: found undefined alias"),
        ("port: 1\nport: 2\n", "its.yaml:2:1: not a settings file: port is set twice, first in line 1"),
        ("vote:\n  n: 1\n  n: 2\n", "its.yaml:3:3: not a settings file: vote.n is set twice, first in line 2"),
        ("models:\n  a: {}\n  'a': {}\n", "its.yaml:3:3: not a settings file: models.a is set twice"),
        ("models:\n  7: {}\n", "its.yaml:2:3: not a settings file: a key that is not text; put it in quotes"),
        ("models:\n  [a, b]: {}\n", "its.yaml:2:3: not a settings file: a key that is not text"),
        ("models: {a: {<<: b}}\n", "its.yaml:1:18: not a settings file: '<<' takes a mapping"),
        ("port: !!python/object/apply:os.system ['true']\n", "its.yaml:1:7: not a settings file: "),
        ("port: !mine 8\n", "its.yaml:1:7: not a settings file: could not determine a constructor"),
        ("port: 1\n---\nport: 2\n", "its.yaml:2:1: not a settings file: but found another document"),
        ("- port\n", "its.yaml:1: should be a mapping of settings"),
        ("port\n", "its.yaml:1: should be a mapping of settings"),
        ("port: 1\nhost: \x07\n", "its.yaml:2: not YAML: a character that YAML does not allow"),
        ("models: &m {a: *m}\n", "its.yaml:1:9: not a settings file: nested deeper than 20 levels"),
        ("max_n: 2020-13-45\n", "its.yaml:1:8: not a settings file: an unreadable value"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused_with_line_and_column(tmp_path, text, beginning):
    assert refusal(tmp_path, text).startswith(beginning)


def test_a_file_that_is_missing_a_folder_not_utf8_or_too_large_is_refused(tmp_path):
    file = tmp_path / "its.yaml"
    with pytest.raises(ConfigError, match=r"its\.yaml: cannot be read: No such file"):
        read_yaml(file)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    file.write_bytes(b"port: 1\nhost: \xff\n")
    with pytest.raises(ConfigError, match=r"its\.yaml:2: not UTF-8"):
        read_yaml(file)
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match=r"its\.yaml: larger than 1,048,576 bytes"):
        read_yaml(file)


NAMES = st.text("abc", min_size=1)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(st.characters(codec="ascii"), max_size=9))
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, PLAIN, max_size=4))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_plain_file_reads_as_safe_load_reads_it(tmp_path_factory, values):
    text = yaml.safe_dump(values)
    read_values, lines = read(tmp_path_factory.getbasetemp(), text)
    assert read_values == yaml.safe_load(text) == values
    assert all(re.fullmatch(r"its\.yaml:[0-9]+", line) for line in lines.values())


def billion_laughs(open_: str, close: str) -> str:
    lines = [f"a0: &a0 {open_}lol: 1{close}" if open_ == "{" else "a0: &a0 [lol]"]
    for level in range(1, 30):
        parts = ", ".join(f"k{k}: *a{level - 1}" if open_ == "{" else f"*a{level - 1}" for k in range(9))
        lines.append(f"a{level}: &a{level} {open_}{parts}{close}")
    return "\n".join(lines)


def merge_bomb() -> str:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}" for level in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        billion_laughs("[", "]"),
        billion_laughs("{", "}"),
        merge_bomb(),
        "a: &a 1\nstrategies: [" + "*a," * 1001 + "]",
        "strategies: " + "[" * 100_000,
        "strategies: " + "{a: " * 100_000,
        "port: " + "1:" * 20_000 + "1",
    ],
    ids=["lists", "mappings", "merges", "aliases", "brackets", "braces", "sexagesimal"],
)
def test_a_yaml_bomb_is_refused_within_100_ms(tmp_path, text):
    file = tmp_path / "its.yaml"
    file.write_text(text)
    spent = []
    for _ in range(3):  # The best of three: a busy machine is not the file's fault.
        start = time.process_time()
        with pytest.raises(ConfigError, match=r"nested deeper|more than"):
            read_yaml(file)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.1


def test_a_file_may_hold_ten_thousand_keys(tmp_path):
    file = tmp_path / "its.yaml"
    file.write_text("keys:\n" + "".join(f"- {{name: team {n}, sha256: {n:064x}}}\n" for n in range(10_000)))
    values, _ = read_yaml(file)
    assert len(values["keys"]) == 10_000
    file.write_text("strategies: [" + "a, " * 60_000 + "]")
    with pytest.raises(ConfigError, match="more than 60,000 values"):
        read_yaml(file)
