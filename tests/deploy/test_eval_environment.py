"""The environment with inspect-ai: whole pins, and one clear line where it cannot be had."""

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
UNAVAILABLE = 69


def prepare(cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with a cache of its own, pip asking no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "ITS_"))}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    command = [sys.executable, ROOT / "deploy" / "eval_environment.py"]
    return subprocess.run(
        command, capture_output=True, text=True, env=kept | pip | {"ITS_CACHE": str(cache)} | variables
    )


def pins() -> dict[str, str]:
    lines = (ROOT / "deploy" / "eval-constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line[:1] != "#")


def test_its_pins_hold_what_its_proxy_and_its_eval_extra_need():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["eval"])]
    found = {name.lower().replace("_", "-"): version for name, version in pins().items()}
    for requirement in needed:
        assert requirement.specifier.contains(Version(found[requirement.name.lower()])), requirement


def test_a_ready_environment_is_taken_as_it_is(tmp_path):
    (tmp_path / "ready/bin").mkdir(parents=True)
    (tmp_path / "ready/bin/inspect").touch()
    done = prepare(tmp_path / "cache", ITS_EVAL=str(tmp_path / "ready"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/ready\n")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_no_environment_is_refused(tmp_path):
    done = prepare(tmp_path / "cache", ITS_EVAL=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"its-proxy: ITS_EVAL names {tmp_path}, which holds no bin/inspect\n"


def test_without_an_index_it_is_unavailable_and_says_why(tmp_path):
    done = prepare(tmp_path / "cache")
    assert done.returncode == UNAVAILABLE, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert re.search("Could not find a version|the pins are of Python", done.stdout)
    assert not list((tmp_path / "cache").glob("eval-*/complete"))
