from concurrent.futures import ThreadPoolExecutor

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.files import build, check_writable, is_built


def write_weights(folder):
    (folder / "weights").write_text("w")


def test_a_finished_folder_is_known_by_its_inputs(tmp_path):
    folder = tmp_path / "seen" / "base"
    assert not is_built(folder, {"seed": 7})
    build(folder, {"seed": 7}, write_weights)
    assert is_built(folder, {"seed": 7})
    assert (folder / "weights").read_text() == "w"


def test_a_folder_of_another_recipe_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "base"
    build(folder, {"seed": 7}, write_weights)
    with pytest.raises(ConfigError, match="another recipe"):
        is_built(folder, {"seed": 8})
    assert (folder / "weights").exists()


def test_an_interrupted_stage_leaves_no_folder_and_does_not_disturb_the_next_run(tmp_path):
    folder = tmp_path / "base"

    def interrupted(work):
        write_weights(work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folder, {"seed": 7}, interrupted)
    assert not folder.exists()
    build(folder, {"seed": 7}, write_weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_a_file_where_a_folder_should_be_is_one_clear_line(tmp_path):
    (tmp_path / "seen").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot write"):
        build(tmp_path / "seen" / "base", {}, write_weights)


def test_processes_of_one_run_may_look_at_its_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: check_writable(tmp_path / "runs", "--out"), range(400)))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--out: cannot write"):
        check_writable(tmp_path / "file", "--out")
