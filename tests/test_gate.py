"""The gate: its verdict on a known truth, what it refuses to compare, and how it tells."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from random import Random
from xml.etree import ElementTree

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.gate import decide
from its_proxy.gate_page import advice, as_junit, as_markdown, sentence
from its_proxy.metrics import read_metric
from its_proxy.statistics import Estimate, score_interval
from tests.rows import row

GREEDY, MAJORITY = read_metric("greedy"), read_metric("maj@3")


def greedily(n_right: int, n: int = 200, **fields):
    """Items of which the first are right; the others wrong."""
    return [row(f"{k}", "1", "1", "1", greedy="1" if k < n_right else "2", **fields) for k in range(n)]


def crossed(n_won: int, n_lost: int, n: int):
    """New rows and old ones: the new checkpoint alone is right on some items, the old one alone on others."""
    answers = [("1", "2")] * n_won + [("2", "1")] * n_lost + [("1", "1")] * (n - n_won - n_lost)
    return tuple([row(f"{k}", "1", "1", "1", greedy=pair[side]) for k, pair in enumerate(answers)] for side in (0, 1))


class TestDecisions:
    @pytest.mark.parametrize(
        ("n_won", "n_lost", "n", "decision"),
        [
            (0, 0, 500, "pass"),
            (30, 30, 3000, "pass"),
            (60, 10, 500, "pass"),
            (10, 60, 500, "fail"),
            (0, 0, 30, "undecided"),
            (30, 30, 500, "undecided"),
            (30, 45, 1000, "undecided"),
        ],
    )
    def test_pass_fail_or_undecided(self, n_won, n_lost, n, decision):
        verdict = decide(*crossed(n_won, n_lost, n), GREEDY, 0.02)
        assert verdict.decision == decision
        assert (len(verdict.won), len(verdict.lost)) == (n_won, n_lost)
        assert verdict.difference.value == pytest.approx((n_won - n_lost) / n)

    def test_a_wider_margin_passes_what_a_narrow_one_leaves_open(self):
        new, old = crossed(30, 30, 500)
        assert decide(new, old, GREEDY, 0.05).decision == "pass"

    def test_items_are_paired_by_id(self):
        new, old = crossed(60, 10, 500)
        assert decide(new, old[::-1], GREEDY, 0.02) == decide(new, old, GREEDY, 0.02)

    def test_other_pairs_strategies_and_seeds_may_be_compared(self):
        new = greedily(150, strategy="random", pair_id="a" * 64, asked={"seed": 1})
        verdict = decide(new, greedily(150), GREEDY, 0.05)
        assert verdict.decision == "pass"
        assert (verdict.new.strategy, verdict.new.seed, verdict.old.strategy) == ("random", 1, "none")

    def test_graded_metrics_are_compared_as_they_are(self):
        new = [row(f"{k}", "1", "1", "2", "2") for k in range(400)]
        old = [row(f"{k}", "1", "1", "1", "2") for k in range(400)]
        verdict = decide(new, old, read_metric("pass@1"), 0.02)
        assert (verdict.decision, verdict.difference.value) == ("fail", -0.25)


class TestItemsNeeded:
    def test_undecided_says_how_many_items_would_decide(self):
        new, old = crossed(30, 30, 500)
        verdict = decide(new, old, GREEDY, 0.02)
        assert verdict.n_if_equal == verdict.n_if_as_seen
        assert 2_000 < verdict.n_if_equal < 3_000
        assert "needed for a decision in 80 of 100 gates: 2," in advice(verdict)

    def test_so_many_items_do_decide(self):
        random, n_decided = Random(4), 0
        n = decide(*crossed(30, 30, 500), GREEDY, 0.02).n_if_equal
        for _ in range(200):
            draws = Counter(random.choices([1.0, -1.0, 0.0], weights=[0.06, 0.06, 0.88], k=n))
            n_decided += interval(draws[1.0], draws[-1.0], draws[0.0]).low > -0.02
        assert 0.7 < n_decided / 200 < 0.9

    def test_fewer_items_than_there_are_are_no_advice(self):
        # Equal ones would have been told apart by 1,000 items; at the 1.5 points that were seen it takes more.
        verdict = decide(*crossed(10, 25, 1000), GREEDY, 0.02)
        assert verdict.decision == "undecided"
        assert verdict.n_if_equal is None
        assert verdict.n_if_as_seen > 1000
        assert "if both" not in advice(verdict)

    def test_a_difference_at_the_margin_is_never_decided(self):
        verdict = decide(*crossed(0, 20, 1000), GREEDY, 0.02)
        assert (verdict.decision, verdict.n_if_equal, verdict.n_if_as_seen) == ("undecided", None, None)
        assert "more items than can be told" in advice(verdict)


@cache
def interval(n_won: int, n_lost: int, n_equal: int) -> Estimate:
    return score_interval([1.0] * n_won + [-1.0] * n_lost + [0.0] * n_equal)


def rates(draw: Callable[[Random, int], list[float]], n: int, margin: float, n_gates: int) -> dict[str, float]:
    """How often gates on a known truth pass and fail; `draw` gives the differences of n items."""
    random, found = Random(n), Counter[str]()
    for _ in range(n_gates):
        seen = Counter(draw(random, n))
        if seen.keys() <= {1.0, -1.0, 0.0}:
            estimate = interval(seen[1.0], seen[-1.0], seen[0.0])
        else:
            estimate = score_interval(list(seen.elements()))
        found["pass" if estimate.low > -margin else "fail" if estimate.high < -margin else "undecided"] += 1
    return {decision: found[decision] / n_gates for decision in ("pass", "fail", "undecided")}


def right_or_wrong(p_won: float, p_lost: float) -> Callable[[Random, int], list[float]]:
    return lambda random, n: random.choices((1.0, -1.0, 0.0), (p_won, p_lost, 1 - p_won - p_lost), k=n)


def graded(loss: float, k: int = 8) -> Callable[[Random, int], list[float]]:
    """Shares right of k candidates each, on items of any difficulty."""

    def n_right(random: Random, share: float) -> int:
        return sum(random.random() < share for _ in range(k))

    def draw(random: Random, n: int) -> list[float]:
        olds = [random.uniform(loss, 1) for _ in range(n)]
        return [(n_right(random, old - loss) - n_right(random, old)) / k for old in olds]

    return draw


class TestOperatingCharacteristics:
    """What the verdict promises, on simulated truth."""

    @pytest.mark.parametrize(("n", "n_gates"), [(30, 4000), (100, 2000), (500, 800)])
    @pytest.mark.parametrize("p_won", [0.0, 0.02, 0.1])
    @pytest.mark.parametrize("margin", [0.02, 0.05])
    def test_worse_by_just_the_margin_passes_in_at_most_one_of_forty(self, n, n_gates, p_won, margin):
        found = rates(right_or_wrong(p_won, p_won + margin), n, margin, n_gates)
        # 2.5% and what so many gates may deviate by (3 standard errors).
        assert found["pass"] <= 0.025 + 3 * (0.025 * 0.975 / n_gates) ** 0.5

    @pytest.mark.parametrize("n", [30, 100])
    def test_so_with_a_graded_metric(self, n):
        found = rates(graded(0.05), n, 0.05, 200)
        assert found["pass"] <= 0.025 + 3 * (0.025 * 0.975 / 200) ** 0.5

    def test_worse_than_the_margin_fails_or_is_undecided(self):
        found = rates(right_or_wrong(0.05, 0.15), 500, 0.02, 300)
        assert found["fail"] > 0.95
        assert found["pass"] == 0

    def test_equal_passes_or_is_undecided(self):
        found = rates(right_or_wrong(0.03, 0.03), 1000, 0.02, 300)
        assert found["pass"] > 0.6
        assert found["fail"] == 0

    def test_better_passes(self):
        assert rates(right_or_wrong(0.15, 0.05), 500, 0.02, 300)["pass"] > 0.99


class TestRefusals:
    @pytest.mark.parametrize(
        ("new", "message"),
        [
            ([], "NEW holds 0, --against 3, 0 in both"),
            (greedily(1, 2), "NEW holds 2, --against 3, 2 in both"),
            (greedily(1, 4), "NEW holds 4, --against 3, 3 in both"),
            ([row("x", "1", "1", "1"), *greedily(1, 2)], "NEW holds 3, --against 3, 2 in both"),
            (greedily(1, 3, query="!"), "item 0 has another query"),
            (greedily(1, 3, gold="5"), "item 0 has another query or another gold answer"),
        ],
    )
    def test_other_items(self, new, message):
        with pytest.raises(ConfigError, match=message):
            decide(new, greedily(3, 3), MAJORITY, 0.02)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"temperature": 1.0}, r"temperature 1.0 \| 0.8"),
            ({"forced": True, "strategy": "random"}, r"forced strategy random \| none"),
        ],
    )
    def test_other_ways_of_asking_unless_allowed(self, fields, message):
        new, old = greedily(3, 3, **fields), greedily(3, 3)
        with pytest.raises(ConfigError, match=rf"asked in different ways: {message} \(--allow-other-ways"):
            decide(new, old, MAJORITY, 0.02)
        verdict = decide(new, old, MAJORITY, 0.02, allow_other_ways=True)
        assert len(verdict.remarks) == 1
        assert f"Asked in different ways: {verdict.remarks[0]}." in as_markdown(verdict)

    def test_another_n_is_another_way(self):
        new = [row("a", "1", "1", "1", "1")]
        with pytest.raises(ConfigError, match=r"n 4 \| 3"):
            decide(new, [row("a", "1", "1", "1")], MAJORITY, 0.02)

    def test_greedy_replies_do_not_depend_on_n_and_temperature(self):
        new = [row("a", "1", "1", greedy="1", temperature=1.0)]
        assert decide(new, [row("a", "1", greedy="1")], GREEDY, 0.02).decision == "undecided"

    def test_rows_of_several_kinds_in_one_file(self):
        mixed = [row("a", "1", "1", "1"), row("b", "1", "1", "1", model="other")]
        with pytest.raises(ConfigError, match="NEW holds rows of several kinds: model"):
            decide(mixed, mixed, MAJORITY, 0.02)

    @pytest.mark.parametrize("margin", [0.0, -0.02, 1.5, float("nan")])
    def test_a_margin_that_is_none(self, margin):
        with pytest.raises(ConfigError, match="--margin"):
            decide(greedily(3, 3), greedily(3, 3), GREEDY, margin)


class TestPages:
    VERDICTS = tuple(decide(*crossed(*cell), GREEDY, 0.02) for cell in ((60, 10, 500), (10, 60, 500), (30, 30, 500)))

    def test_a_line_for_each_verdict(self):
        assert [sentence(verdict) for verdict in self.VERDICTS] == [
            "PASS: NEW is at most 2 points worse: greedy new - old +10.0 [+7.0, +13.4] points",
            "FAIL: NEW is more than 2 points worse: greedy new - old -10.0 [-13.4, -7.0] points",
            "UNDECIDED: whether NEW is more than 2 points worse cannot be told: "
            "greedy new - old +0.0 [-3.1, +3.1] points",
        ]

    @pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.decision)
    def test_junit_holds_one_test_that_tells_the_verdict(self, verdict):
        suites = ElementTree.fromstring(as_junit(verdict))
        (suite,) = suites
        (case,) = suite
        told = {"pass": [], "fail": ["failure"], "undecided": ["skipped"]}[verdict.decision]
        assert [child.tag for child in case] == [*told, "system-out"]
        for counted in (suites, suite):
            assert counted.get("tests") == "1"
            assert counted.get("failures") == str(int(verdict.decision == "fail"))
            assert counted.get("skipped") == str(int(verdict.decision == "undecided"))
        if told:
            assert sentence(verdict) in case[0].get("message")

    def test_the_page_names_method_items_and_what_was_lost(self):
        page = as_markdown(self.VERDICTS[1])
        assert page.startswith("## Gate: fail\n\nFAIL: ")
        assert "| new | tiny |  | none | 3 | 0.8 |  | " in page
        assert "500 items; better on 10, worse on 60. Method: paired score interval" in page
        assert "Worse on: 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 50 more." in page

    def test_names_that_xml_cannot_hold_do_not_break_it(self):
        new = [row("a\x00<&", "1", "1", "1", model='x\x1b"<', greedy="2")]
        old = [row("a\x00<&", "1", "1", "1", greedy="1")]
        case = ElementTree.fromstring(as_junit(decide(new, old, GREEDY, 0.02)))[0][0]
        assert case.get("classname") == 'x\ufffd"<'
