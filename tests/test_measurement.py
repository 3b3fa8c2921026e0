"""What one candidates file tells, with gold answers and without."""

import json

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.measurement import as_markdown, measure
from its_proxy.statistics import wilson
from tests.rows import random_rows, row

ROWS = [
    row("a", "1", "1", "1", "1", greedy="1", finished_s=[1.0, 2.0, 3.0, 4.0], pair_id="f" * 64),
    row("b", "1", "1", "1", "2", greedy="1", finished_s=[1.0, 2.0, 3.0, 6.0], pair_id="f" * 64),
    row("c", "2", "2", "1", None, greedy="2", finished_s=[2.0, 2.0, 3.0, 2.0], pair_id="f" * 64),
    row("d", None, None, None, None, greedy="1", finished_s=[1.0, 1.0, 1.0, 1.0], pair_id="f" * 64),
]


def figures(rows, *metrics):
    return {figure.name: figure for figure in measure(rows, metrics).figures}


class TestLabelled:
    def test_every_figure_of_a_small_file(self):
        found = figures(ROWS)
        values = {name: figure.value.value for name, figure in found.items()}
        assert values == pytest.approx(
            {
                "greedy": 0.75,
                "avg@4": (4 + 3 + 1 + 0) / 16,
                "pass@1": (4 + 3 + 1 + 0) / 16,
                "pass@2": (1 + 1 + 0.5 + 0) / 4,
                "pass@4": 0.75,
                "maj@3": (1 + 1 + 0 + 0) / 4,
                "maj@4": 0.5,
                "maj@4 among answered": 2 / 3,
                "agreement": (1 + 0.75 + 0.5 + 0) / 4,
                "candidates without an answer": 5 / 16,
                "items without an answer": 0.25,
                "tokens an item": 40,
                "time to the last candidate": (4 + 6 + 3 + 1) / 4,
                "time to the first candidate": (1 + 1 + 2 + 1) / 4,
            }
        )
        assert found["maj@4"].value == wilson(2, 4)
        assert found["maj@4 among answered"].n == 3
        assert found["pass@1"].value.low < 0.5 < found["pass@1"].value.high

    def test_agreement_is_set_against_accuracy(self):
        bins = measure(ROWS).calibration
        assert [(b.low, b.n_items, b.agreement) for b in bins] == [(0.5, 1, 0.5), (0.75, 1, 0.75), (1.0, 1, 1.0)]
        assert [b.accuracy for b in bins] == [wilson(0, 1), wilson(1, 1), wilson(1, 1)]

    def test_only_the_metrics_asked_for(self):
        assert list(figures(ROWS, "maj@4", "greedy"))[:2] == ["maj@4", "greedy"]
        assert "pass@1" not in figures(ROWS, "maj@4")

    def test_without_greedy_replies_there_is_no_greedy_figure(self):
        assert "greedy" not in figures([row("a", "1", "1")])

    def test_the_time_to_the_first_token_where_it_was_streamed(self):
        streamed = ROWS[0].candidates[0].model_copy(update={"first_token_s": 0.25})
        rows = [ROWS[0].model_copy(update={"candidates": (streamed, *ROWS[0].candidates[1:])})]
        assert figures(rows)["time to the first token"].value.value == 0.25


class TestUnlabelled:
    ROWS = (row("a", "1", "1", gold=None), row("b", "1", None, gold=None))

    def test_agreement_silence_and_cost_are_all_that_can_be_told(self):
        measurement = measure(self.ROWS)
        assert [figure.name for figure in measurement.figures] == [
            "agreement",
            "candidates without an answer",
            "items without an answer",
            "tokens an item",
        ]
        assert (measurement.is_labelled, measurement.calibration) == (False, ())

    def test_a_metric_that_needs_gold_is_refused(self):
        with pytest.raises(ConfigError, match="maj@2: items without a gold answer"):
            measure(self.ROWS, ["maj@2"])


class TestDocuments:
    def test_json_holds_every_figure_with_its_interval(self):
        document = json.loads(json.dumps(measure(ROWS).document(), allow_nan=False))
        (majority,) = [figure for figure in document["figures"] if figure["name"] == "maj@4"]
        assert majority["value"] == 0.5
        assert majority["ci95"] == pytest.approx(list(wilson(2, 4)[1:]))
        assert document["pair_ids"] == ["f" * 64]
        assert document["calibration"][2]["accuracy"]["value"] == 1.0

    def test_the_page_names_its_conditions(self):
        page = as_markdown(measure(ROWS))
        assert "| maj@4 | 50.0 [15.0, 85.0] | 4 items |" in page
        assert "| tokens an item | 40.0 [40.0, 40.0] tokens | 4 items |" in page
        assert "| all agree | 1 | 100.0 | 100.0 [20.7, 100.0] |" in page
        assert "4 items, 4 candidates each, temperature 0.8; asked: none; pair ffffffff; seed None." in page

    def test_equal_rows_give_equal_pages(self):
        rows = random_rows(30, 8)
        assert as_markdown(measure(rows)) == as_markdown(measure(rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([row("a", "1"), row("b", "1", "1")], "of 2"),
        ([row("a", "1"), row("b", "1", strategy="random")], "of 2"),
    ],
)
def test_rows_that_are_not_one_measurement_are_refused(rows, message):
    with pytest.raises(ConfigError, match=message):
        measure(rows)
