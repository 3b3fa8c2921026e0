"""docs/performance.md says what was measured, and no more."""

import pytest

from benchmarks.speed import page as pages
from benchmarks.speed.goals import GOALS, ratio
from benchmarks.speed.page import PAGE, page
from benchmarks.speed.pictures import draw_all
from benchmarks.speed.results import FOLDER, read_results, save

RESULTS = read_results(FOLDER)


def seen(cpu_ms: list[float], **figures: list[float]) -> dict[str, list[float]]:
    rest = {"per_second": [100.0], "p50": [1.0], "first_p50": [1.0], "gap_p99": [0.0], "gap_max": [0.0]}
    return {"cpu_ms": cpu_ms, **rest, "answered": [50.0], "failed": [0.0], **figures}


def rates(**figures: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    by_name = {name.replace("_", "-"): by_target for name, by_target in figures.items()}
    return {"figures": by_name, "conditions": {}, "command": "x", "date": "2026-01-01"}


def test_the_page_is_that_of_the_results(tmp_path):
    names = draw_all(RESULTS, tmp_path)
    assert PAGE.read_text() == page(RESULTS, names), "make bench, or python -m benchmarks.speed.page"
    for name in names:
        assert (FOLDER / name).read_text() == (tmp_path / name).read_text(), "python -m benchmarks.speed.page"


def test_what_was_not_measured_is_said():
    text = page({}, [])
    assert text.count("Not measured.") >= 8
    assert "not measured |" in text
    assert "{{" not in text


@pytest.mark.parametrize(
    ("ours", "verdict"), [([0.03], "holds"), ([0.05], "**floor only**"), ([0.2, 0.2, 0.001], "**does not hold**")]
)
def test_a_goal_holds_by_the_median(ours, verdict):
    results = {"rates": rates(json_64={"nginx": seen([0.01]), "its-proxy": seen(ours)})}
    assert GOALS[0].row(results)[""] == verdict


def test_a_lost_stream_breaks_the_goal_of_the_paced_ones():
    by_target = {name: seen([1.0], gap_p99=[55.0]) for name in ("direct", "nginx", "its-proxy")}
    [goal] = [goal for goal in GOALS if "paced" in goal.what]
    assert goal.row({"rates": rates(paced_50ms=by_target)})[""] == "holds"
    by_target["its-proxy"]["failed"] = [1.0]
    assert goal.row({"rates": rates(paced_50ms=by_target)})[""] == "**does not hold**"


def test_a_ratio_tells_its_single_rounds():
    results = {"rates": rates(json_64={"nginx": seen([1.0, 1.0, 2.0]), "its-proxy": seen([3.0, 2.0, 2.0])})}
    assert str(ratio(results, "json-64", "its-proxy", "nginx")) == "2.00 (1.00 to 3.00)"


def test_a_target_that_was_left_out_has_its_line():
    results = {"rates": {**rates(json_64={"nginx": seen([1.0])}), "missing": {"optillm": "out of reach"}}}
    assert "- optillm: left out, out of reach" in page(results, [])


def test_results_are_written_as_they_are_read(tmp_path):
    save(tmp_path, "draws", "x", {"cores": 2}, {"random": [1.5, 2.0]})
    assert read_results(tmp_path)["draws"]["figures"] == {"random": [1.5, 2.0]}
    assert '"random": [1.5, 2.0]' in (tmp_path / "draws.json").read_text()


def test_the_words_name_every_part():
    text = pages.TEXTS.read_text()
    assert all(part in text for part in ("{{goals}}", "{{cpu}}", "{{missing}}", "{{conditions}}"))
