"""The documentation site, as far as it tells without being built: `make docs` builds it, strictly."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from deploy.docs_links import on_page_markdown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def listed(entry: object) -> list[str]:
    """The pages below an entry of the navigation."""
    if isinstance(entry, dict | list):
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in listed(part)]
    return [str(entry)]


def test_every_page_stands_in_the_navigation_once():
    assert sorted(listed(SITE["nav"])) == PAGES


def test_nothing_in_it_comes_from_elsewhere():
    assert SITE["theme"]["font"] is False
    assert SITE["plugins"] == ["search"]
    assert not re.search(r"https?://", (DOCS / "site.css").read_text("utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_to_is_there(name):
    text = re.sub(r"^```.*?^```", "", (DOCS / name).read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        assert target.startswith("https://") or (DOCS / name).parent.joinpath(target).exists(), target


def shown(markdown: str, source: str = "docs/index.md") -> str:
    file = SimpleNamespace(abs_src_path=str(ROOT / source), src_uri=source)
    return on_page_markdown(markdown, page=SimpleNamespace(file=file))


def test_a_link_out_of_the_site_becomes_its_text():
    assert shown("[SECURITY.md](../SECURITY.md)") == "`SECURITY.md`"
    assert shown("the [tests](../../tests/command.py#L3).", "docs/results/demo.md") == "the tests (`tests/command.py`)."


def test_links_within_the_site_and_pictures_stay():
    for markdown in ("[manifest](../reference/manifest.md)", "[idea](idea.md)", "![a](../images/a.png)"):
        assert shown(markdown, "docs/results/demo.md") == markdown


def test_a_link_to_nothing_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        shown("[gone](../gone.py)")
    assert "'../gone.py', which is not in the checkout" in caplog.text
