"""docs/stability.md: its table of error codes is the code's, with the statuses that clients get."""

import re
from pathlib import Path

import pytest

from its_proxy.codesign.errors import ItsError
from its_proxy.protocol.envelope import error_reply
from its_proxy.server.app import _HTTP_ERRORS
from its_proxy.server.http.connection import _REFUSALS

ROOT = Path(__file__).parents[2]
TABLE, _, AFTER = (
    (ROOT / "docs/stability.md").read_text("utf-8").partition("## Error codes")[2].partition("\n\n`config")
)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| `")]
STATUSES = {code: status for codes, status, _ in ROWS for code in re.findall(r"`(\w+)`", codes)}
NOT_FOR_CLIENTS = set(re.findall(r"`(\w+)`", "`config" + AFTER))


def kinds(parent: type[ItsError] = ItsError) -> list[type[ItsError]]:
    return [parent, *(kind for child in parent.__subclasses__() for kind in kinds(child))]


def codes() -> set[str]:
    """Every code that the errors have, that a place in the code gives one, and that HTTP's own refusals carry."""
    literals = {
        code
        for path in (ROOT / "its_proxy").rglob("*.py")
        for code in re.findall(r'\bcode="([a-z_]+)"', path.read_text("utf-8"))
    }
    of_http = {code for refusals in (_HTTP_ERRORS, _REFUSALS) for code, _ in refusals.values()}
    return {vars(kind)["code"] for kind in kinds() if "code" in vars(kind)} | literals | of_http | {"model_mismatch"}


def test_every_code_stands_in_the_table_and_no_other():
    assert STATUSES.keys() | NOT_FOR_CLIENTS == {code for code in codes() if not code.startswith("import")} | {
        "rate_limit_exceeded",
        "server_full",
    }


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.__init__ is ItsError.__init__], ids=str)
def test_a_code_has_the_status_that_the_table_says(kind):
    if kind.code not in NOT_FOR_CLIENTS:
        assert str(error_reply(kind("it failed")).status) in STATUSES[kind.code]


@pytest.mark.parametrize("refusals", [_HTTP_ERRORS, _REFUSALS], ids=["server", "connection"])
def test_https_own_refusals_have_theirs(refusals):
    for status, (code, _) in refusals.items():
        assert str(status) in STATUSES[code]
