"""Named metrics: one value an item, and the same words as lm-eval and inspect use."""

from itertools import combinations

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.metrics import Metric, read_metric, value, values
from tests.rows import random_rows, row


class TestNames:
    @pytest.mark.parametrize(
        ("written", "metric"),
        [
            ("greedy", Metric("greedy")),
            ("pass@1", Metric("pass", 1)),
            ("MAJ@16", Metric("maj", 16)),
            (" avg@8 ", Metric("avg", 8)),
        ],
    )
    def test_they_are_read_and_written(self, written, metric):
        assert read_metric(written) == metric
        assert metric.name == written.strip().lower()

    @pytest.mark.parametrize("written", ["", "maj", "maj@0", "maj@-1", "maj@1.5", "best@8", "maj@8x", "pass@1,maj@8"])
    def test_what_is_none_is_refused(self, written):
        with pytest.raises(ConfigError, match="no metric"):
            read_metric(written)


class TestValues:
    ROW = row("a", "1", "2", "1", None, greedy="2")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("greedy", 0.0),
            ("pass@1", 0.5),
            ("pass@2", 1 - 1 / 6),
            ("pass@4", 1.0),
            ("avg@1", 1.0),
            ("avg@2", 0.5),
            ("avg@3", 2 / 3),
            ("maj@4", 1.0),
        ],
    )
    def test_every_metric_of_one_item(self, name, expected):
        assert value(self.ROW, read_metric(name)) == pytest.approx(expected)

    def test_maj_below_n_is_the_mean_over_all_sets(self):
        sets = list(combinations(self.ROW.candidates, 3))
        expected = sum(self.ROW.is_right(self.ROW.vote(drawn).answer) for drawn in sets) / len(sets)
        assert 0 < expected < 1
        assert value(self.ROW, read_metric("maj@3")) == pytest.approx(expected)

    def test_many_sets_are_sampled_and_agree_with_all_of_them_on_average(self):
        rows = random_rows(60, 9)
        expected = [
            sum(row.is_right(row.vote(drawn).answer) for drawn in combinations(row.candidates, 4)) / 126 for row in rows
        ]
        sampled = values(rows, read_metric("maj@4"))
        assert sampled == values(rows, read_metric("maj@4"))
        assert sampled != expected
        assert sum(sampled) / 60 == pytest.approx(sum(expected) / 60, abs=0.02)

    def test_maj_of_one_is_pass_of_one(self):
        rows = random_rows(50, 6)
        assert values(rows, Metric("maj", 1)) == pytest.approx(values(rows, Metric("pass", 1)))

    def test_maj_of_all_is_the_vote(self):
        rows = random_rows(50, 6)
        assert values(rows, Metric("maj", 6)) == [float(row.is_right(row.vote().answer)) for row in rows]


class TestRefusals:
    def test_more_candidates_than_there_are(self):
        with pytest.raises(ConfigError, match=r"maj@8: item a has 2 candidates \(evaluate with --n 8\)"):
            value(row("a", "1", "1"), read_metric("maj@8"))

    def test_a_greedy_reply_that_was_not_asked_for(self):
        with pytest.raises(ConfigError, match="item a was not asked greedily"):
            value(row("a", "1"), read_metric("greedy"))

    def test_an_item_without_a_gold_answer(self):
        with pytest.raises(ConfigError, match="pass@1: item a has no gold answer"):
            value(row("a", "1", gold=None), read_metric("pass@1"))


@pytest.mark.parametrize(
    ("name", "exact"), [("greedy", True), ("maj@8", True), ("pass@8", True), ("maj@4", False), ("avg@8", False)]
)
def test_what_is_right_or_wrong_is_known_from_the_name(name, exact):
    assert read_metric(name).is_right_or_wrong(8) is exact
