import json
from hashlib import sha256

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.sft.arm import read_arm
from tests.training.sft.conftest import prepare_folder


@pytest.fixture
def folder(tmp_path):
    return prepare_folder(tmp_path / "data", n=4)


def changed(folder, change):
    path = folder / "dataset.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rewritten(folder, arm, change):
    """The arm's rows changed, and dataset.json told so but for the ids."""
    path = folder / "arms" / f"{arm}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    changed(folder, lambda document: document["arms"][arm].update(sha256=sha256(data).hexdigest()))


def test_matched_arms_differ_only_in_the_user_s_words_and_the_persona(folder):
    none, random = read_arm(folder, "none"), read_arm(folder, "random")
    assert none.ids_sha256 == random.ids_sha256
    for plain, rewritten_row in zip(none.rows, random.rows, strict=True):
        same = {key for key in plain if plain[key] == rewritten_row[key]}
        assert set(plain) - same == {"messages", "persona"}
        assert plain["messages"][-1] == rewritten_row["messages"][-1]
    assert random.side.strategy == "random"
    assert random.provenance["licenses"] == {"dataset": "apache-2.0"}


def test_an_arm_with_other_ids_is_refused_even_where_it_is_not_trained(folder):
    changed(folder, lambda document: document["arms"]["none"].update(ids_sha256="0" * 64))
    with pytest.raises(ConfigError, match="arms 'random' and 'none' hold different rows"):
        read_arm(folder, "random")


def test_rows_that_are_not_those_of_dataset_json_are_refused(folder):
    rewritten(folder, "random", lambda rows: rows.reverse())
    with pytest.raises(ConfigError, match=r"holds other rows than dataset.json says"):
        read_arm(folder, "random")
    (folder / "arms" / "random.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"is not the file that dataset.json names"):
        read_arm(folder, "random")
    (folder / "arms" / "random.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"random.jsonl: No such file"):
        read_arm(folder, "random")


def test_a_system_message_that_the_manifest_would_not_have_served_is_refused(folder):
    def add_system(rows):
        rows[2]["messages"].insert(0, {"role": "system", "content": "Be brief."})

    rewritten(folder, "random", add_system)
    with pytest.raises(ConfigError, match=r"has another system message than dataset.json names"):
        read_arm(folder, "random")


def test_an_arm_that_was_not_prepared_is_named_with_those_that_were(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"has no arm 'similar' \(it has: none, random\)"):
        read_arm(folder, "similar")
    with pytest.raises(ConfigError, match=r"dataset.json: No such file"):
        read_arm(tmp_path / "absent", "none")


def test_the_pool_goes_with_the_arm_and_another_pool_is_refused(folder):
    pool = b'{"domain": "cooking", "text": "You cook."}\n'
    (folder / "its-personas.jsonl").write_bytes(pool)
    personas = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256(pool).hexdigest()}
    changed(folder, lambda document: document["arms"]["random"]["side"].update(personas=personas))
    arm = read_arm(folder, "random")
    assert arm.files == {"its-personas.jsonl": pool}
    (folder / "its-personas.jsonl").write_bytes(pool + pool)
    with pytest.raises(ConfigError, match=r"is not the pool that dataset.json names"):
        read_arm(folder, "random")


def test_arguments_of_the_template_that_training_does_not_take_are_refused(folder):
    kwargs = {"enable_thinking": False}
    changed(folder, lambda document: document["arms"]["random"]["side"].update(chat_template_kwargs=kwargs))
    with pytest.raises(ConfigError, match="chat_template_kwargs are not trained with"):
        read_arm(folder, "random")
