"""Strategies by name and version, ours and those of installed packages."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from its_proxy.codesign import strategies
from its_proxy.codesign.errors import ManifestError
from its_proxy.codesign.strategies import (
    ENTRY_POINT_GROUP,
    Strategy,
    load_strategies,
    name_from_input,
    register,
    rewrite,
    strategy_named,
    strategy_names,
)
from tests.codesign.strategies.rewriting import NAMES, WITH_PERSONA, recipe, user


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(strategies._registry)
    yield
    strategies._registry.clear()
    strategies._registry.update(before)


def test_our_own_strategies_are_there_in_order() -> None:
    assert strategy_names()[: len(NAMES)] == NAMES
    assert {strategy_named(name).family for name in WITH_PERSONA} == {"context"}
    assert strategy_named("none").family == "none"


@pytest.mark.usefixtures("registry")
def test_a_name_and_version_that_are_taken_are_refused() -> None:
    taken = strategy_named("random")
    register(taken)  # the same one again is no harm
    with pytest.raises(ManifestError, match="'random' version 1 is registered twice"):
        register(Strategy("random", 1, "context", strategy_named("fixed").steps))
    assert strategy_named("random") is taken


@pytest.mark.usefixtures("registry")
def test_a_new_version_stands_beside_the_old_one() -> None:
    register(Strategy("random", 2, "context", strategy_named("fixed").steps))
    assert strategy_named("random", 2).steps is strategy_named("fixed").steps
    assert strategy_named("random").version == 1
    assert strategy_names()[: len(NAMES)] == NAMES
    with pytest.raises(ManifestError, match="versions here: 1, 2"):
        strategy_named("random", 3)


@pytest.mark.parametrize("name", ["", "Random", "N", "rando", "random\n"])
def test_an_unknown_name_is_told_what_is_known(name: str) -> None:
    with pytest.raises(ManifestError) as refusal:
        strategy_named(name)
    assert all(known in str(refusal.value) for known in NAMES)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("N", "none"), ("S", "similar"), ("U", "dissimilar"), ("D", "dissimilar"), ("R", "random"), ("mixed", "mixed"),
     ("n", "n"), ("X", "X")],
)  # fmt: skip
def test_the_papers_letters_are_read_on_input(typed: str, name: str) -> None:
    assert name_from_input(typed) == name


EXTRA_MODULE = """
from its_proxy.codesign.personas import Persona
from its_proxy.codesign.strategies import Strategy

def _shout(situation):
    text = yield from _ask(situation)
    return Persona(text, "music")

def _ask(situation):
    if False:
        yield
    return f"SHOUT {situation.draw.number('loud') % 10}"

shout = Strategy("shout", 1, "loud", _shout)
taken = Strategy("random", 1, "loud", _shout)
number = 7
"""
ENTRY_POINTS = f"""[{ENTRY_POINT_GROUP}]
shout = its_extra_strategies:shout
taken = its_extra_strategies:taken
number = its_extra_strategies:number
absent = its_extra_strategies:absent
broken = its_extra_broken:shout
"""


@pytest.fixture
def extra_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> Iterator[None]:
    """An installed package that offers strategies by entry points."""
    (tmp_path / "its_extra_strategies.py").write_text(EXTRA_MODULE)
    (tmp_path / "its_extra_broken.py").write_text("raise RuntimeError('two\\nlines')")
    info = tmp_path / "its_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: its-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for module in ("its_extra_strategies", "its_extra_broken"):
        sys.modules.pop(module, None)


@pytest.mark.usefixtures("extra_package")
def test_an_installed_packages_strategy_is_loaded_by_its_name() -> None:
    load_strategies([])
    assert "its_extra_strategies" not in sys.modules  # listed by nobody, imported by nobody
    load_strategies(["shout"])
    load_strategies(["shout"])  # settings may be read again
    assert strategy_named("shout").family == "loud"
    rewritten = rewrite(recipe("shout", pool=None), [user("3 eggs")])
    assert rewritten.messages[0]["content"].startswith("SHOUT ")
    assert rewritten.messages[0]["content"].endswith("\n\n3 eggs")


@pytest.mark.usefixtures("extra_package")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unheard", "offered: absent, broken, number, shout, taken"),
        ("taken", "registered twice"),
        ("number", "not a Strategy"),
        ("absent", "cannot be loaded"),
        ("broken", "cannot be loaded"),
    ],
)
def test_a_strategy_that_cannot_be_had_is_refused_in_one_line(name: str, reason: str) -> None:
    before = strategy_names()
    with pytest.raises(ManifestError, match=reason) as refusal:
        load_strategies([name])
    assert "\n" not in str(refusal.value)
    assert strategy_names() == before
