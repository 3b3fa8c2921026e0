"""SECURITY.md tells the defaults that are in force."""

import re
from pathlib import Path

import pytest

from its_proxy.settings import KeySettings, LimitSettings, Settings, VoteSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
ROWS = {
    cells[-1]: cells[1]
    for line in PAGE.partition("## Defaults")[2].partition("\n## ")[0].splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 3 and cells[-1].startswith("`")
}
DEFAULTS = Settings()


@pytest.mark.parametrize(
    ("setting", "default"),
    [
        ("`host`", DEFAULTS.host),
        ("`header_s`", f"{DEFAULTS.header_s:g} s"),
        ("`body_s`", f"{DEFAULTS.body_s:g} s"),
        ("`write_idle_s`", f"{DEFAULTS.write_idle_s:g} s"),
        ("`max_body_bytes`", f"{DEFAULTS.max_body_bytes // 2**20} MiB"),
        ("`max_n`", f"{DEFAULTS.max_n}"),
        ("`max_request_tokens`", f"{DEFAULTS.max_request_tokens:,}"),
        ("`limits.queue`, `limits.queue_s`", f"{LimitSettings().queue}, for {LimitSettings().queue_s:g} s"),
        ("`vote.deadline_s`", f"{VoteSettings().deadline_s:g} s"),
    ],
)
def test_a_default_is_the_one_in_force(setting, default):
    assert re.search(rf"(?<![\d.,]){re.escape(default)}(?![\d.])", ROWS[setting])


def test_rights_and_switches_are_those_in_force():
    rights = KeySettings(name="team", sha256="0" * 64).rights
    assert all((f"`{right}`" in ROWS["`keys[].rights`"].partition(";")[0]) == (right in rights)
               for right in ("force", "explain", "candidates", "front"))  # fmt: skip
    assert (DEFAULTS.keys, DEFAULTS.strategies, DEFAULTS.hub, DEFAULTS.traces) == ((), (), False, False)


def test_every_page_that_it_names_is_there():
    for name in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / name).exists(), name
