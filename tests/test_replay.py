"""Saved candidates that arrive again: what another n or stop rule would have answered, cost and taken."""

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.evaluate import as_markdown
from its_proxy.replay import default_order, read_order, replay, sweep
from its_proxy.replay_picture import draw
from its_proxy.statistics import wilson
from its_proxy.voting.stop import RULES
from tests.rows import random_rows, row


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


class TestSweep:
    def test_a_table_over_n_and_rules(self):
        # The first two agree; the third, which is right, would only come with n = 3, and is outvoted.
        rows = [row("a", "2", "2", "1", tokens=[10, 20, 30])]
        settings = {(s.n, s.rule): s for s in sweep(rows, [1, 3], ["exact", "none"], "tokens")}
        assert settings.keys() == {(1, "exact"), (1, "none"), (3, "exact"), (3, "none")}
        assert [settings[1, "none"].n_tokens, settings[3, "none"].n_tokens, settings[3, "exact"].n_tokens] == [
            10,
            60,
            50,
        ]
        assert (settings[3, "exact"].n_calls, settings[3, "none"].n_calls) == (2, 3)
        assert {setting.accuracy for setting in settings.values()} == {wilson(0, 1)}
        assert {setting.same_answer.value for setting in settings.values()} == {1.0}

    def test_arrival_goes_by_the_recorded_times(self):
        rows = [row("a", "1", "2", "2", tokens=[10, 10, 40], finished_s=[3.0, 1.0, 2.0])]
        assert default_order(rows) == "arrival"
        (setting,) = sweep(rows, [3], ["exact"])
        # The second and third decide at 2 s; of the first, two thirds of its 10 tokens were there by then.
        assert (setting.n_calls, setting.seconds) == (2, 2.0)
        assert setting.n_tokens == pytest.approx(10 * 2 / 3 + 10 + 40)

    def test_a_streamed_candidate_has_no_tokens_before_its_first(self):
        timed = row("a", "1", "1", "2", finished_s=[2.0, 2.0, 6.0])
        late = timed.candidates[2].model_copy(update={"first_token_s": 4.0})
        (setting,) = sweep([timed.model_copy(update={"candidates": (*timed.candidates[:2], late)})], [3], ["exact"])
        assert setting.n_tokens == 20

    def test_times_of_an_older_file_are_not_invented(self):
        rows = [row("a", "1", "1")]
        assert default_order(rows) == "tokens"
        (setting,) = sweep(rows, [2], ["none"])
        assert setting.seconds is None
        with pytest.raises(
            ConfigError, match=r"item a, candidate 0: it is not known when it finished .*--order tokens"
        ):
            sweep(rows, [2], ["none"], "arrival")

    def test_the_smallest_n_that_is_good_enough_is_marked(self):
        # n = 1 is right on a third, n = 3 on all but one, n = 5 on all of 120 items.
        rows = [
            row(f"{k}", "1" if k % 3 == 0 else "2", "1" if k else "2", "1" if k else "2", "1", "1") for k in range(120)
        ]
        settings = sweep(rows, [1, 3, 5], ["none"], "tokens")
        assert [round(120 * s.accuracy.value) for s in settings] == [40, 119, 120]
        assert [s.is_chosen for s in settings] == [False, True, False]
        assert "smallest n" in as_markdown(settings).splitlines()[3]

    def test_what_loses_item_by_item_is_not_marked_for_lying_in_the_best_ones_interval(self):
        # Of 100 items one candidate gets 85 and three get 90, never another: 85 lies in the interval of 90 of 100.
        rows = [row(f"{k}", *("2" * 3 if k < 10 else "211" if k < 15 else "111")) for k in range(100)]
        one, three = sweep(rows, [1, 3], ["none"], "tokens")
        assert one.accuracy.value > three.accuracy.low
        assert (one.is_chosen, three.is_chosen) == (False, True)

    def test_few_items_do_not_excuse_a_loss(self):
        # Two of 20 items more: no interval tells that from chance, and yet it is all that is known.
        rows = [row(f"{k}", *("211" if k < 2 else "111")) for k in range(20)]
        assert [s.is_chosen for s in sweep(rows, [1, 3], ["none"], "tokens")] == [False, True]

    def test_of_equal_n_the_cheapest_rule_is_marked(self):
        settings = sweep(random_rows(100, 8), [8], ["none", "exact"], "tokens")
        assert [(s.rule, s.is_chosen) for s in settings] == [("none", False), ("exact", True)]

    def test_unlabelled_items_are_judged_by_the_full_votes_answer(self):
        rows = [row(f"{k}", "1", "1", "2", gold=None) for k in range(40)]
        settings = sweep(rows, [1, 3], ["none"])
        assert [s.accuracy for s in settings] == [None, None]
        assert settings[0].is_chosen

    def test_exact_has_the_accuracy_of_none_at_every_n(self):
        rows = random_rows(200, 8)
        settings = {(s.n, s.rule): s for s in sweep(rows, [1, 2, 4, 8], list(RULES), 3)}
        for n in (1, 2, 4, 8):
            assert settings[n, "exact"].accuracy == settings[n, "none"].accuracy
            assert settings[n, "exact"].n_tokens <= settings[n, "none"].n_tokens
        assert settings[8, "beta"].n_calls < settings[8, "exact"].n_calls < settings[8, "none"].n_calls

    @pytest.mark.parametrize("sizes", [[9], [0, 1]])
    def test_more_candidates_than_there_are_is_refused(self, sizes):
        with pytest.raises(ConfigError, match=rf"--n {sizes[0]}: the items hold 2"):
            sweep([row("a", "1", "1")], sizes, ["none"])

    def test_no_rows_are_refused(self):
        with pytest.raises(ConfigError, match="no rows"):
            sweep([], [1], ["none"])


class TestOrder:
    def test_what_is_written(self):
        assert [read_order(written) for written in ("arrival", "tokens", "7")] == ["arrival", "tokens", 7]

    def test_anything_else_is_refused(self):
        with pytest.raises(ConfigError, match="--order fast: arrival, tokens or a seed"):
            read_order("fast")


class TestPicture:
    @pytest.mark.parametrize(("name", "head"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
    def test_it_is_drawn_to_the_same_bytes_each_time(self, tmp_path, name, head):
        pytest.importorskip("matplotlib")
        settings = sweep(random_rows(30, 4), [1, 2, 4], ["exact", "none"])
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            draw(settings, tmp_path / folder / name, title="demo")
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first.startswith(head)
        assert first == second

    def test_another_format_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"\.svg or \.png"):
            draw(sweep(random_rows(3, 2), [1], ["none"]), tmp_path / "a.gif", title="demo")
