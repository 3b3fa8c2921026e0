"""Wheel and sdist, built as they would be published, installed into new environments, used outside of the checkout."""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_string
from pathlib import Path
from time import monotonic, sleep
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CONSTRAINTS = CHECKOUT / "constraints.txt"
PACKAGES = {"its_proxy", "its_training", "its_litellm", "its_vllm"}
KATEX = "its_proxy/server/third_party/katex"


def built(target: str, source: Path, folder: Path) -> Path:
    """By the pinned build backend alone: nothing is asked of an index."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return built("wheel", CHECKOUT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return built("sdist", CHECKOUT, tmp_path_factory.mktemp("sdist"))


def outside(folder: Path) -> dict[str, str]:
    """An environment that knows nothing of the checkout."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "LANG"))}
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), **kept}


def environment(folder: Path, *installs: tuple[str, ...]) -> Path:
    """A new virtual environment; where its commands are."""
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    for arguments in installs:
        command = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-input", *arguments]
        done = subprocess.run(command, cwd=folder, env=outside(folder), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / "venv/bin"


@pytest.fixture(scope="module")
def light(tmp_path_factory, wheel) -> Path:
    """What `pip install its-proxy` brings."""
    folder = tmp_path_factory.mktemp("light")
    return environment(folder, ("--only-binary", ":all:", "--constraint", str(CONSTRAINTS), str(wheel)))


def run(commands: Path, *arguments: object, code: int = 0) -> str:
    folder = commands.parent.parent
    command = [str(commands / str(arguments[0])), *map(str, arguments[1:])]
    done = subprocess.run(command, cwd=folder, env=outside(folder), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(commands: Path, *arguments: object) -> Iterator[str]:
    """The address of a server that was started with them."""
    folder = commands.parent.parent
    command = [str(commands / "its-proxy"), "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, cwd=folder, env=outside(folder), stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = ""
            for line in server.stderr:
                said += line
                if (announced := re.search(r"^its-proxy serves .* at (http\S+)$", line)) is not None:
                    break
            else:
                raise AssertionError(said)
            yield announced[1]
        finally:
            server.terminate()
            server.communicate()


def until_ready(url: str, within_s: float = 60) -> None:
    """Until every handshake of a server that has just been started has a verdict."""
    ends_at = monotonic() + within_s
    while monotonic() < ends_at:
        with suppress(HTTPError), urlopen(f"{url.removesuffix('/v1')}/readyz", timeout=5):
            return
        sleep(0.2)
    raise AssertionError("it never was ready")


class TestFiles:
    def test_the_wheel_holds_the_packages_the_demo_and_the_licence_and_no_more(self, wheel):
        names = zipfile.ZipFile(wheel).namelist()
        tops = {name.partition("/")[0] for name in names}
        assert {name for name in tops if not name.endswith(".dist-info")} == PACKAGES
        for package in PACKAGES:
            assert f"{package}/py.typed" in names
        for model in ("none", "similar", "dissimilar", "random"):
            assert f"its_proxy/demo/demo-{model}/model.safetensors" in names
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
        assert {"its_proxy/server/playground/index.html", f"{KATEX}/katex.min.js"} <= set(names)
        assert any(name.endswith(f".dist-info/licenses/{KATEX}/LICENSE") for name in names)
        assert not [name for name in names if "__pycache__" in name or "/test" in name]
        assert wheel.stat().st_size < 10 * 2**20

    def test_a_wheel_of_the_sdist_is_the_same_wheel(self, wheel, sdist, tmp_path):
        with tarfile.open(sdist) as archive:
            archive.extractall(tmp_path, filter="data")
        [source] = tmp_path.iterdir()
        again = built("wheel", source, tmp_path / "again")
        one, other = (
            {name: file.read(name) for name in file.namelist()} for file in map(zipfile.ZipFile, (wheel, again))
        )
        assert one == other

    def test_the_sdist_holds_its_tests_and_nothing_that_a_run_left(self, sdist):
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert {"tests/test_packaging.py", "constraints.txt", "Makefile", "LICENSE", "docs/operating.md"} <= names
        assert not [name for name in names if re.match(r"\.venv|grid-run|runs/|demo-run|.*__pycache__", name)]

    def test_its_metadata_says_what_it_is(self, wheel):
        file = zipfile.ZipFile(wheel)
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        told = message_from_string(file.read(name).decode())
        assert (told["Name"], told["License-Expression"], told["Requires-Python"]) == (
            "its-proxy",
            "Apache-2.0 AND MIT AND OFL-1.1",
            ">=3.11",
        )
        assert told["Description-Content-Type"] == "text/markdown"
        assert "Typing :: Typed" in told.get_all("Classifier", [])
        assert not [c for c in told.get_all("Classifier", []) if c.startswith("License ::")], "the expression says it"


class TestInstalledLight:
    def test_nothing_heavy_came_along_and_nothing_is_missing(self, light):
        run(light, "python", "-m", "pip", "check")
        listed = {
            entry["name"].lower() for entry in json.loads(run(light, "python", "-m", "pip", "list", "--format=json"))
        }
        assert "its-proxy" in listed
        assert listed.isdisjoint({"torch", "transformers", "openai", "litellm", "vllm", "numpy"})

    def test_both_commands_are_there(self, light):
        assert run(light, "its-proxy", "--version").startswith("its-proxy, version ")
        assert "prepare" in run(light, "its-train", "--help")
        assert json.loads(run(light, "its-proxy", "config", "--json"))["version"] == 1

    def test_the_demo_needs_an_extra_and_says_which(self, light):
        folder = light.parent.parent
        command = [str(light / "its-proxy"), "serve", "--port", "0"]
        done = subprocess.run(command, cwd=folder, env=outside(folder), capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert "its-proxy[embedded]" in done.stderr
        assert "Traceback" not in done.stderr

    def test_an_upstream_is_served(self, light):
        with serving(light, "--upstream", "http://127.0.0.1:9/v1", "--model", "gone") as url:
            told = json.loads(run(light, "its-proxy", "models", "--url", url, "--json"))
        assert [card["id"] for card in told["data"]] == ["gone"]

    def test_its_types_are_seen_by_those_who_use_it(self, light, tmp_path):
        user = tmp_path / "user.py"
        user.write_text("from its_proxy.voting.tally import majority_vote\nmajority_vote(1)\n")
        command = [sys.executable, "-m", "mypy", "--python-executable", str(light / "python"), str(user)]
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
        done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True)
        assert 'incompatible type "int"; expected "Sequence[Ballot]"' in done.stdout


@pytest.mark.timeout(1200)
def test_with_the_extra_the_packaged_demo_answers(tmp_path, wheel):
    pins = CONSTRAINTS.read_text("utf-8").splitlines()
    torch = next(line for line in pins if line.startswith("torch=="))
    index = os.environ.get("TORCH_INDEX")
    # Alone and first, as deploy/environment.py does it: only so its build can be chosen.
    commands = environment(
        tmp_path,
        (torch, *(("--index-url", index) if index else ())),
        ("--only-binary", ":all:", "--constraint", str(CONSTRAINTS), f"{wheel}[embedded]"),
    )
    with serving(commands) as url:
        until_ready(url)
        told = json.loads(run(commands, "its-proxy", "ask", "--demo", "--json", "--url", url))
        card = json.loads(run(commands, "its-proxy", "models", "--url", url, "--json"))["data"][0]
    assert told["its"]["handshake"] == "verified"
    assert sum(told["its"]["votes"].values()) + sum(told["its"]["abstained"].values()) > 0
    assert card["its"]["handshake"] == "verified"
