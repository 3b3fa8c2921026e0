"""docs/clients.md: its tables are of the last run of `make results-clients`; `make test-clients` runs its code."""

import json

from tests.clients.page import PAGE, RESULTS, with_tables


def test_the_tables_are_those_of_the_run():
    page = PAGE.read_text("utf-8")
    assert with_tables(page, json.loads(RESULTS.read_text("utf-8"))) == page, "write them anew: make results-clients"


def test_nothing_failed():
    results = json.loads(RESULTS.read_text("utf-8"))
    failed = [
        (which, name, cell)
        for which, run in results.items()
        for name, client in run["clients"].items()
        for cell, verdict in client["cells"].items()
        if verdict == "failed"
    ]
    assert failed == []
    assert len(results["pinned"]["clients"]) >= 10
