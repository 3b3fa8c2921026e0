"""The Grafana dashboard: what Grafana needs to take it from a file, and what a reader needs to follow it."""

import json
from itertools import combinations
from pathlib import Path

DASHBOARD = json.loads((Path(__file__).resolve().parents[2] / "deploy/grafana/its-proxy.json").read_text("utf-8"))
PANELS = DASHBOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]


def test_it_may_be_provided_beside_others_and_finds_its_source_by_itself():
    assert (DASHBOARD["uid"], "id" in DASHBOARD) == ("its-proxy", False)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for panel in SHOWN:
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
        assert one["x"] + one["w"] <= 24


def test_every_series_of_a_panel_with_several_has_a_legend():
    for panel in SHOWN:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        if len(panel["targets"]) > 1:
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
