"""npm's packages are installed outside of the checkout, once, or there is one line that says why not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UNAVAILABLE = 69


@pytest.fixture
def folder(tmp_path):
    """A package that asks for nothing, whose lock is whole."""
    path = tmp_path / "package"
    path.mkdir()
    (path / "package.json").write_text('{"private": true}')
    (path / "package-lock.json").write_text('{"lockfileVersion": 3, "packages": {"": {}}}')
    return path


def script_named(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


def provide(folder: Path, tmp_path: Path, npm: str | None) -> subprocess.CompletedProcess[str]:
    """The script with a cache of its own, and with `npm` as what its npm does; None where there is none."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    if npm is not None:
        script_named(programs, "node", "exit 0")
        script_named(programs, "npm", npm)
    return subprocess.run(
        [sys.executable, ROOT / "deploy/npm_packages.py", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(programs), "ITS_CACHE": str(tmp_path / "cache")},
    )


def test_a_machine_without_node_is_told(folder, tmp_path):
    done = provide(folder, tmp_path, None)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (UNAVAILABLE, "node is not installed", "")


def test_it_installs_once_and_never_into_the_checkout(folder, tmp_path):
    first = provide(folder, tmp_path, "PATH=/usr/bin:/bin mkdir node_modules")
    again = provide(folder, tmp_path, "exit 1")
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert (Path(first.stdout.strip()) / "node_modules").is_dir()
    assert sorted(path.name for path in folder.iterdir()) == ["package-lock.json", "package.json"]


def test_a_registry_out_of_reach_is_no_failure(folder, tmp_path):
    done = provide(folder, tmp_path, "echo 'npm error code ECONNREFUSED' >&2; exit 1")
    assert (done.returncode, done.stdout.strip()) == (UNAVAILABLE, "npm ci: npm error code ECONNREFUSED")


def test_anything_else_is_a_failure_and_is_begun_anew(folder, tmp_path):
    broken = provide(folder, tmp_path, "echo 'npm error code EUSAGE' >&2; exit 1")
    assert (broken.returncode, broken.stderr.strip()) == (1, "its-proxy: npm ci fails: npm error code EUSAGE")
    assert provide(folder, tmp_path, "PATH=/usr/bin:/bin mkdir node_modules").returncode == 0
