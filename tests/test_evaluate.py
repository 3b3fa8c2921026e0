"""Measuring saved candidates: scores and paired comparisons."""

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.evaluate import as_markdown, compare, replay, score
from tests.rows import random_rows, row


class TestScore:
    def test_every_number_of_a_small_file(self):
        rows = [
            row("a", "1", "1", "1", "2", greedy="1", tokens=[10, 20, 30, 40]),
            row("b", "2", "1.0", "1", None, greedy="1"),
            row("c", "2", "2", "1", None, greedy="1"),
            row("d", None, None, None, None, greedy="3"),
        ]
        result = score(rows)
        assert (result.n_items, result.k, result.strategy, result.temperature) == (4, 4, "none", 0.8)
        assert result.pass_at_1.value == pytest.approx((3 + 2 + 1 + 0) / 16)
        assert result.majority.value == 0.5
        assert result.greedy.value == 0.75
        assert result.majority_minus_pass.value == pytest.approx(0.5 - 6 / 16)
        assert result.majority_minus_greedy.value == -0.25
        assert result.pass_at_k == 0.75
        assert result.no_answer_rate == 6 / 16
        assert result.tokens_per_item == (100 + 3 * 40) / 4
        assert result.tokens_per_candidate == (100 + 3 * 40) / 16
        assert result.majority.low < 0.5 < result.majority.high

    def test_agreement_tells_right_votes_from_wrong_ones(self):
        rows = [row(f"sure {number}", "1", "1", "1") for number in range(10)]
        rows += [row(f"unsure {number}", "2", "2", "1") for number in range(10)]
        result = score(rows)
        assert (result.agreed_half.value, result.other_half.value) == (1.0, 0.0)

    def test_halves_of_equal_agreement_do_not_follow_the_order_of_the_file(self):
        rows = [row(f"easy {number}", "1", "1") for number in range(50)]
        rows += [row(f"hard {number}", "2", "2") for number in range(50)]
        assert 0.3 < score(rows).agreed_half.value < 0.7

    def test_without_greedy_replies_there_is_no_greedy_number(self):
        result = score([row("a", "1", greedy="1"), row("b", "1")])
        assert (result.greedy, result.majority_minus_greedy) == (None, None)

    def test_one_item_has_no_halves(self):
        assert score([row("a", "1")]).agreed_half is None

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([row("a", "1"), row("b", "1", "1")], "2 numbers of candidates"),
            ([row("a", "1"), row("b", "1", strategy="random")], "2 ways of asking"),
            ([], "0 numbers"),
            ([row("a", "1", gold=None)], "item a has no gold answer"),
        ],
    )
    def test_rows_of_two_kinds_are_not_one_score(self, rows, message):
        with pytest.raises(ConfigError, match=message):
            score(rows)


class TestCompare:
    def test_items_are_paired_by_id_and_not_by_place(self):
        first = [row("a", "1", greedy="1"), row("b", "1", greedy="1"), row("c", "2", greedy="2")]
        second = [row("c", "2", greedy="2"), row("b", "1", greedy="1"), row("a", "2", greedy="1")]
        result = compare(first, second)
        assert result.pass_at_1.value == result.majority.value == pytest.approx(1 / 3)
        assert result.greedy.value == 0
        assert result.n_items == 3

    def test_pairing_makes_equal_files_equal_for_sure(self):
        rows = random_rows(50, 4)
        assert compare(rows, rows).majority == (0, 0, 0)

    @pytest.mark.parametrize("second", [[row("a", "1")], [row("a", "1"), row("c", "1")], []])
    def test_other_items_are_refused(self, second):
        with pytest.raises(ConfigError, match="the same items"):
            compare([row("a", "1"), row("b", "1")], second)


class TestMarkdown:
    def test_scores_become_one_table(self):
        lines = as_markdown([score(random_rows(20, 4)), score(random_rows(20, 4, seed=1))]).splitlines()
        assert len(lines) == 4
        assert lines[0].startswith("| model | asked | T | items | pass@1 | maj@4 | greedy |")
        assert lines[2].startswith("| tiny | none | 0.8 | 20 | ")
        assert len({line.count("|") for line in lines}) == 1

    def test_comparisons_and_replays_too(self):
        rows = random_rows(20, 4)
        assert "| tiny asked none | tiny asked none | 20 | 0.0 [0.0, 0.0] |" in as_markdown([compare(rows, rows)])
        assert "| exact | shortest first | 20 | 100.00% |" in as_markdown([replay(rows)])
