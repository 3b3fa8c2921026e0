"""The environments of tools that cannot share ours: whole pins, and one clear line where one cannot be had."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
UNAVAILABLE = 69


@dataclass(frozen=True)
class Pinned:
    """What one of the scripts promises."""

    name: str
    program: str

    @property
    def variable(self) -> str:
        return f"ITS_{self.name.upper()}"

    def pins(self) -> dict[str, str]:
        lines = (ROOT / "deploy" / f"{self.name}-constraints.txt").read_text("utf-8").splitlines()
        return dict(line.split("==") for line in lines if line[:1] != "#")


BESIDE_ITS_PROXY = [
    Pinned("eval", "inspect"),
    Pinned("litellm", "litellm"),
    Pinned("fuzz", "schemathesis"),
    Pinned("browser", "playwright"),
]
APART = [Pinned("audit", "pip-audit"), Pinned("check", "promtool"), Pinned("docs", "mkdocs")]
"""Those that share no code with its-proxy."""

EVERY = pytest.mark.parametrize("pinned", [*BESIDE_ITS_PROXY, *APART])


def prepare(pinned: Pinned, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with a cache of its own, pip asking no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "ITS_"))}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    ours = {"ITS_CACHE": str(cache), "ITS_CHROMIUM": sys.executable}
    command = [sys.executable, ROOT / "deploy" / f"{pinned.name}_environment.py"]
    return subprocess.run(command, capture_output=True, text=True, env=kept | pip | ours | variables)


@pytest.mark.parametrize("pinned", BESIDE_ITS_PROXY)
def test_its_pins_hold_what_its_proxy_and_the_extra_need(pinned):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [
        Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"].get(pinned.name, []))
    ]
    found = {name.lower().replace("_", "-"): version for name, version in pinned.pins().items()}
    for requirement in needed:
        assert requirement.specifier.contains(Version(found[requirement.name.lower()])), requirement


@EVERY
def test_a_ready_environment_is_taken_as_it_is(pinned, tmp_path):
    (tmp_path / "ready/bin").mkdir(parents=True)
    (tmp_path / "ready/bin" / pinned.program).touch()
    done = prepare(pinned, tmp_path / "cache", **{pinned.variable: str(tmp_path / "ready")})
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/ready\n")
    assert not (tmp_path / "cache").exists()


@EVERY
def test_a_folder_that_is_no_environment_is_refused(pinned, tmp_path):
    done = prepare(pinned, tmp_path / "cache", **{pinned.variable: str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"its-proxy: {pinned.variable} names {tmp_path}, which holds no bin/{pinned.program}\n"


@pytest.mark.parametrize("pinned", BESIDE_ITS_PROXY[:2])
def test_without_an_index_it_is_unavailable_and_says_why(pinned, tmp_path):
    done = prepare(pinned, tmp_path / "cache")
    assert done.returncode == UNAVAILABLE, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert re.search("Could not find a version|the pins are of Python", done.stdout)
    assert not list((tmp_path / "cache").glob("*/complete"))


def test_without_a_browser_there_is_no_environment_for_one(tmp_path):
    done = prepare(Pinned("browser", "playwright"), tmp_path / "cache", ITS_CHROMIUM=str(tmp_path / "chromium"))
    assert done.returncode == UNAVAILABLE
    assert done.stdout == f"no {tmp_path}/chromium here (Debian: apt install chromium)\n"
    assert not (tmp_path / "cache").exists()
