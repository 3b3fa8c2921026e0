"""What pages write in a line, `its: {...}` and `vote: {...}`, is what its-proxy understands."""

import re
from pathlib import Path

import pytest
import yaml

from its_proxy.protocol.its import read_its
from its_proxy.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written(name: str) -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        text = " ".join(path.read_text("utf-8").split())
        found += [(path.name, one) for one in re.findall(rf"`{name}: (\{{[^`]*\}})`", text)]
    return found


@pytest.mark.parametrize(("page", "wish"), written("its"))
def test_a_wish_is_one_that_a_request_may_hold(page, wish):
    if "..." not in wish:
        read_its(yaml.safe_load(wish))


@pytest.mark.parametrize(("page", "wish"), written("vote"))
def test_a_vote_is_one_that_settings_may_hold(tmp_path, page, wish):
    (tmp_path / "its.yaml").write_text(f"vote: {wish}\n")
    load_settings(tmp_path / "its.yaml", {}, {})


def test_there_is_something_to_understand():
    assert len(written("its")) > 10
    assert len(written("vote")) > 3
