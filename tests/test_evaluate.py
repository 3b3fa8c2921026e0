"""Measuring saved candidates: scores, paired comparisons, and stop rules replayed on them."""

from random import Random

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.evaluate import Row, as_markdown, compare, replay, score


def row(
    item: str,
    *answers: str | None,
    gold: str = "1",
    tokens: list[int | None] | None = None,
    greedy: str | None = None,
    strategy: str = "none",
    finish_reason: str | None = "stop",
) -> Row:
    def candidate(index: int, answer: str | None, n_tokens: int | None) -> dict[str, object]:
        return {
            "index": index,
            "text": "",
            "finish_reason": finish_reason,
            "completion_tokens": n_tokens,
            "answer": answer,
        }

    return Row.model_validate(
        {
            "id": item,
            "query": "?",
            "gold": gold,
            "model": "tiny",
            "strategy": strategy,
            "temperature": 0.8,
            "candidates": [
                candidate(index, *pair)
                for index, pair in enumerate(zip(answers, tokens or [10] * len(answers), strict=True))
            ],
            "greedy": candidate(0, greedy, 10) if greedy is not None else None,
        }
    )


def random_rows(n_items: int, k: int, seed: int = 0) -> list[Row]:
    random = Random(seed)
    return [
        row(
            str(item),
            *random.choices(["1", "2", "3", "x", None], weights=[random.random() * 6, 1, 1, 1, 0.5], k=k),
            tokens=[random.randint(5, 60) for _ in range(k)],
            greedy=random.choice(["1", "2"]),
        )
        for item in range(n_items)
    ]


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


class TestReplay:
    def test_a_cancelled_candidate_costs_what_it_had_generated_by_then(self):
        # Two equal answers of 10 and 20 tokens decide among three at step 20; the third had made 20 of 50.
        result = replay([row("a", "1", "1", "2", tokens=[10, 20, 50])])
        assert result.tokens_saved == pytest.approx(30 / 80)
        assert result.calls_saved == pytest.approx(1 / 3)
        assert result.same_answer == 1

    def test_nothing_is_saved_where_the_last_candidate_decides(self):
        result = replay([row("a", "1", "2", tokens=[10, 20])])
        assert (result.tokens_saved, result.calls_saved) == (0, 0)

    def test_the_rule_none_saves_nothing(self):
        result = replay([row("a", "1", "1", "1", tokens=[10, 20, 30])], "none")
        assert (result.tokens_saved, result.calls_saved, result.same_answer) == (0, 0, 1)

    @pytest.mark.parametrize("order", ["tokens", 0, 1, 2])
    @pytest.mark.parametrize("min_agreement", [None, 0.5])
    def test_exact_keeps_every_answer_whatever_the_order(self, order, min_agreement):
        result = replay(random_rows(200, 8), order=order, min_agreement=min_agreement)
        assert result.same_answer == 1
        assert 0 < result.tokens_saved < 1
        assert 0 < result.calls_saved < 1

    def test_a_rule_that_errs_is_found_out(self, monkeypatch):
        from its_proxy.voting import stop

        monkeypatch.setitem(stop.RULES, "first", lambda ballots, abstained, pending, min_agreement: bool(ballots))
        assert replay([row("a", "2", "1", "1", tokens=[1, 2, 3]), row("b", "1", "1", "1")], "first").same_answer == 0.5

    def test_a_lost_candidate_has_cost_nothing(self):
        lost = row("a", "1", "1", None, tokens=[10, 10, None])
        rows = [
            lost.model_copy(
                update={
                    "candidates": (*lost.candidates[:2], lost.candidates[2].model_copy(update={"finish_reason": None}))
                }
            )
        ]
        assert replay(rows).same_answer == 1

    def test_unknown_tokens_are_not_invented(self):
        with pytest.raises(ConfigError, match="item a, candidate 1: its generated tokens are not known"):
            replay([row("a", "1", "1", tokens=[10, None])])


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
