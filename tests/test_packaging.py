"""What `pip install` promises: light base dependencies, and pins that stand in their declared ranges."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import its_proxy

CHECKOUT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "vllm", "litellm", "openai"}


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def base(pyproject: dict) -> set[str]:
    return {canonicalize_name(Requirement(item).name) for item in pyproject["project"]["dependencies"]}


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    lines = [line for line in (CHECKOUT / "constraints.txt").read_text("utf-8").splitlines() if line[:1] != "#"]
    assert all(line.count("==") == 1 for line in lines), "a pin is NAME==VERSION, without a place to take it from"
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def direct_requirements(pyproject: dict) -> list[Requirement]:
    project = pyproject["project"]
    groups = [project["dependencies"], pyproject["build-system"]["requires"]]
    # What these need is pinned for the environments that they have to themselves, by deploy/*-constraints.txt.
    extras = [wanted for extra, wanted in project["optional-dependencies"].items() if extra not in ("eval", "litellm")]
    groups += [*extras, *pyproject["dependency-groups"].values()]
    return [Requirement(item) for group in groups for item in group if not item.startswith("its-proxy[")]


def test_every_direct_dependency_is_pinned_within_its_range(pyproject: dict, pins: dict[str, Version]) -> None:
    for requirement in direct_requirements(pyproject):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} has no line in constraints.txt"
        assert pin in requirement.specifier, f"constraints.txt has {requirement.name}=={pin}, pyproject {requirement}"


def test_torch_is_pinned_without_a_local_build(pins: dict[str, Version]) -> None:
    assert pins["torch"].local is None


def test_serving_installs_light(base: set[str]) -> None:
    assert base.isdisjoint(HEAVY)


def test_the_extras_are_those_that_this_version_offers(pyproject: dict) -> None:
    extras = {"embedded", "train", "client", "eval", "hub", "litellm", "math", "otel"}
    assert set(pyproject["project"]["optional-dependencies"]) == extras


def test_without_extras_every_module_imports_but_the_client_and_the_inspect_task(base: set[str]) -> None:
    """In a fresh process; whatever third-party package is loaded then must come with the base dependencies."""
    code = """
import importlib, pathlib, sys, its_proxy
root = pathlib.Path(its_proxy.__path__[0])
for file in sorted(root.rglob("*.py")):
    name = ".".join(("its_proxy", *file.relative_to(root).with_suffix("").parts))
    if not name.startswith(("its_proxy.client", "its_proxy.inspect_task", "its_proxy.__main__")):
        importlib.import_module(name.removesuffix(".__init__"))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    brought_by = packages_distributions()
    loaded = {canonicalize_name(name) for module in done.stdout.split() for name in brought_by.get(module, [])}
    assert loaded - closure_of(base) - {"its-proxy", "setuptools"} == set()  # setuptools: its .pth loads at each start


def closure_of(names: set[str]) -> set[str]:
    """Distributions that come along with these, as installed here."""
    reached, waiting = set(), sorted(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            needs = (Requirement(line) for line in requires(name) or [])
            waiting += [canonicalize_name(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return reached


def test_the_version_is_one_that_an_index_accepts() -> None:
    assert str(Version(its_proxy.__version__)) == its_proxy.__version__


def test_every_package_of_the_wheel_says_that_it_is_typed(pyproject: dict) -> None:
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [package for package in packages if not (CHECKOUT / package / "py.typed").is_file()] == []


def test_it_claims_no_python_older_than_it_asks_for(pyproject: dict) -> None:
    asked = Requirement(f"python{pyproject['project']['requires-python']}").specifier
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(pyproject["project"]["classifiers"]))
    assert claimed
    assert all(version in asked for version in claimed)


def test_types_and_lint_are_those_of_the_oldest_python_that_is_claimed(pyproject: dict) -> None:
    classifiers = "\n".join(pyproject["project"]["classifiers"])
    oldest = min(re.findall(r"Python :: (3\.\d+)", classifiers), key=Version)
    assert pyproject["project"]["requires-python"] == f">={oldest}"
    assert pyproject["tool"]["mypy"]["python_version"] == oldest
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
