"""`make results-votes` carries out each way as its paper or the proxy does, and its page says what was recorded."""

import json
from collections.abc import Sequence

import pytest

from benchmarks.cheaper_votes import chat, frontier, halves, page, walls
from benchmarks.cheaper_votes.recorded import WORKLOADS, pack, read
from benchmarks.cheaper_votes.replayed import Clock, Run, replayed
from benchmarks.cheaper_votes.ways import Way, adaptive_consistency, esc, served, short
from benchmarks.vllm_vote.kept import Kept
from its_proxy.candidates import Item, Row
from tests.sampling.candidates import box, sampled

RESULTS = json.loads((page.ROOT / "docs/results/cheaper-votes.json").read_text())
PAGE = (page.ROOT / "docs/cheaper-votes.md").read_text()


def row(answers: str, tokens: int | Sequence[int] = 10, gold: str = "5", name: str = "item") -> Row:
    """A candidate a character: its answer, `-` for none."""
    lengths = [tokens] * len(answers) if isinstance(tokens, int) else tokens
    candidates = [
        {"index": index, "seed": 7 + index, "text": None, "answer": None if answer == "-" else answer,
         "finish_reason": "stop", "completion_tokens": length}
        for index, (answer, length) in enumerate(zip(answers, lengths, strict=True))
    ]  # fmt: skip
    return Row.model_validate(
        {"id": name, "query": "", "gold": gold, "model": "m", "strategy": None, "candidates": candidates,
         "greedy": candidates[0], "date": "2026-11-28T00:00:00+00:00"}
    )  # fmt: skip


def told(run: Run) -> tuple[str | None, float, float, int]:
    return run.answer and run.answer.text, run.n_tokens, run.time, run.n_started


# --- one way over one item -------------------------------------------------------------------


def test_the_full_vote_costs_every_token_and_lasts_as_long_as_its_longest_candidate():
    assert told(replayed(served(3, "none"), row("566", [10, 20, 40]))) == ("6", 70, 40, 3)


def test_what_is_cut_off_has_cost_what_it_had_generated():
    assert told(replayed(served(3, "exact", 3), row("555", [10, 20, 40]))) == ("5", 50, 20, 3)


def test_a_first_wave_that_agrees_is_all_that_is_started():
    assert told(replayed(served(16, "beta", 4), row("5" * 16))) == ("5", 40, 10, 4)


def test_a_wave_that_disagrees_is_followed_by_one_of_its_size():
    assert told(replayed(served(16, "beta", 4), row("5556" + "5" * 12))) == ("5", 80, 20, 8)
    assert told(replayed(served(16, "exact", 9), row("555555566" + "5" * 7))) == ("5", 160, 20, 16)


def test_it_may_be_topped_up_by_the_fewest_that_could_decide_or_by_all_the_rest():
    assert told(replayed(served(16, "beta", 4, "fewest"), row("5556" + "5" * 12))) == ("5", 70, 20, 7)
    assert told(replayed(served(16, "exact", 9, "fewest"), row("555555566" + "5" * 7))) == ("5", 110, 20, 11)
    assert told(replayed(served(16, "beta", 4, "rest"), row("5556" + "5" * 12))) == ("5", 160, 20, 16)


def test_a_top_up_does_not_wait_for_the_end_of_the_wave():
    early = row("6555555555555555", [4, 6] + [10] * 14)
    assert told(replayed(served(16, "beta", 4), early)) == ("5", 70, 16, 8)


def test_a_batch_may_slow_down_every_token_of_it():
    assert told(replayed(served(4, "none"), row("5555"), Clock(first=2, step=1, more=0.5))) == ("5", 40, 36, 4)


@pytest.mark.parametrize("stop", ["none", "exact", "beta"])
@pytest.mark.parametrize("answers", ["5555555555555555", "5556666655555566", "5-6758-555-66556", "6756-855-655-655"])
@pytest.mark.parametrize("first", [4, 9, 16])
async def test_a_replay_starts_what_the_proxy_starts_and_answers_as_it_does(stop, answers, first):
    lines = [{**box(answer), "choices": [{**box(answer)["choices"][0]}]} for answer in answers]
    for line, answer in zip(lines, answers, strict=True):
        if answer == "-":
            line["choices"][0]["message"] = {"role": "assistant", "content": "let me think"}
    outcome = await sampled(lines, stop=stop, n_first=None if stop == "none" else first)
    run = replayed(served(16, stop, first), row(answers))
    assert (run.n_started, run.answer) == (len(outcome.candidates), outcome.vote.answer)


# --- the published rules ---------------------------------------------------------------------


def test_adaptive_consistency_asks_one_after_the_other_until_it_is_sure():
    assert told(replayed(adaptive_consistency(16), row("5" * 16))) == ("5", 40, 40, 4)
    assert told(replayed(adaptive_consistency(16), row("5655555" + "6" * 9))) == ("5", 70, 70, 7)


def test_esc_stops_at_a_unanimous_window_and_counts_those_before_it():
    assert told(replayed(esc(4, 16), row("5" * 16))) == ("5", 40, 10, 4)
    assert told(replayed(esc(4, 16), row("5655" + "5555" + "6" * 8))) == ("5", 80, 20, 8)
    assert told(replayed(esc(4, 8), row("666-" + "5556"))) == ("6", 80, 20, 8)


def test_the_first_to_finish_decide_and_the_shortest_breaks_a_tie():
    tokens = [40, 10, 30, 20, 90, 90, 90, 90]
    assert told(replayed(short(3, 8), row("76655555", tokens))) == ("6", 10 + 20 + 30 * 6, 30, 8)
    assert told(replayed(short(3, 8), row("78656666", tokens))) == ("8", 10 + 20 + 30 * 6, 30, 8)


# --- many items ------------------------------------------------------------------------------


def rows_of(*answers: str) -> list[Row]:
    return [row(answer, name=f"item-{number}") for number, answer in enumerate(answers)]


def points_of(rows: Sequence[Row], *ways: Way) -> dict[str, frontier.Point]:
    all_runs = [frontier.run_way(way, rows) for way in (served(16, "none"), *ways)]
    return {point.name: point for point in frontier.points(all_runs, frontier.greedy_of(rows))}


def test_a_way_is_judged_beside_the_full_vote_of_the_same_items():
    rows = rows_of(*["5" * 16] * 30, *["6" * 4 + "5" * 12] * 10)
    found = points_of(rows, served(16, "beta", 4), served(8, "none"))
    cheap, half, full = found["n=16 beta, first 4"], found["n=8"], found["n=16"]
    assert half.saved == (0.5, 0.5, 0.5)
    assert (half.p95_ratio.value, full.per_right.value) == (1.0, 16 * 0.75)
    assert cheap.saved.low > 0.5
    # In the recorded order every fourth item begins with four wrong candidates.
    assert cheap.minus_full_once.value == -0.25
    assert cheap.minus_full_once.high < 0
    assert not cheap.is_equal
    assert full.is_equal


def test_lengths_differ_by_a_factor_of_mean_one():
    many = row("5" * 2000, 100)
    lengths = frontier.stretched(many, 0.3)
    assert abs(sum(lengths) / 200_000 - 1) < 0.02
    assert frontier.stretched(many, 0.3) == lengths
    assert frontier.stretched(many, 0) is None


def test_advice_from_one_half_is_judged_on_the_other():
    alike, unlike = rows_of(*["5" * 8] * 20), rows_of(*["56666666", "65555555"] * 10)
    sure = halves.check(alike, (1, 2, 4, 8), n_splits=3)
    assert sure.advised == {"n=1 none": 3}
    assert (sure.n_include_zero, sure.mean_lost, sure.mean_saved) == (3, 0, 1 - 1 / 8)
    # Of half the items the first candidate alone is right, of the others all but the first.
    unsure = halves.check(unlike, (1, 2, 4, 8), n_splits=3)
    assert unsure.n_items_each == 10
    assert unsure.widest > 0.5


# --- before a real vLLM ----------------------------------------------------------------------


def asked(way: str, item: int, **fields: object) -> dict[str, object]:
    record = {"way": way, "id": f"item-{item}", "gold": "5", "answer": "5", "seconds": 1.0, "n_generated": 160}
    return {**record, "n_started": 16, **fields}


def test_wall_times_are_of_the_items_that_every_way_was_asked():
    records = [asked(way, item) for item in range(20) for way in walls.ASKED if way != walls.GREEDY]
    assert walls.found(records) is None
    records += [asked(walls.GREEDY, item, n_generated=10, seconds=0.1) for item in range(19)]
    records[0] = asked(frontier.FULL, 0, answer="6.0", seconds=2.0)
    found, clock = walls.found(records)
    full, half = (
        next(point for point in found if point.name == name) for name in (frontier.FULL, "n=8 exact, first 8")
    )
    assert (full.p50, full.n_tokens) == (1.0, 160)
    assert full.accuracy.value == pytest.approx(18 / 19)
    assert (half.saved.value, half.per_right.value) == (0, 16)
    assert clock.step > 0 or clock.more > 0


def test_crowds_that_were_asked_are_not_asked_again(tmp_path):
    items = [Item(id=f"item-{number}", query="?", gold="5") for number in range(20)]
    kept = Kept(tmp_path / "crowd.jsonl")
    turns = walls.waiting(kept, items, 8)
    assert [start for start, _ in turns] == [start for start in (0, 8, 16) for _ in walls.ASKED]
    firsts = [turns[number * len(walls.ASKED)][1] for number in range(3)]
    assert firsts == list(walls.ASKED)[:3], "each way comes first in its turn"
    start, way = turns[4]
    kept.add(asked(way, start))
    assert walls.waiting(kept, items, 8) == [turn for turn in turns if turn != (start, way)]


def test_chat_is_compared_with_one_plain_call_of_the_same_seed():
    records = [
        {"number": number, "way": way, "answer": None, "n_started": 1, "n_generated": 50 if way == chat.PLAIN else 60}
        for number in range(40)
        for way in chat.WAYS
    ]
    by_way = {cost.way: cost for cost in chat.costs(records[:-1])}
    assert by_way["n=8, first 5"].ratio == pytest.approx((1.2, 1.2, 1.2))
    assert by_way[chat.PLAIN].n_requests == 39
    assert chat.costs([]) == []


# --- what lies in the repository -------------------------------------------------------------


def test_packed_rows_vote_as_before(tmp_path):
    rows = rows_of("556-", "5555", "-6-6")
    pack(rows, tmp_path / "packed.jsonl.gz")
    again = read(tmp_path / "packed.jsonl.gz")
    assert [one.candidates for one in again] == [one.candidates for one in rows]
    assert [one.greedy for one in again] == [one.greedy for one in rows]
    assert [one.vote() for one in again] == [one.vote() for one in rows]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_published_figures_come_out_of_the_recorded_candidates(workload):
    replay = RESULTS["replays"][workload.name]
    rows = read(workload.file, replay["n_items"])
    full, half = frontier.run_way(served(16, "none"), rows), frontier.run_way(served(8, "exact", 5), rows)
    points = {point.name: point for point in frontier.points([full, half], frontier.greedy_of(rows))}
    for published in replay["points"]:
        if published["name"] in points:
            computed = points.pop(published["name"])
            assert published["accuracy"] == pytest.approx(list(computed.accuracy))
            assert published["minus_full"] == pytest.approx(list(computed.minus_full), abs=1e-4)
            assert published["saved"] == pytest.approx(list(computed.saved))
    assert not points


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_exact_answers_as_the_full_vote_on_recorded_candidates(workload):
    for one in read(workload.file, 100):
        full = replayed(served(16, "none"), one)
        for first in (3, 9, 16):
            early = replayed(served(16, "exact", first), one)
            assert early.answer.form == full.answer.form if full.answer else early.answer is None
            assert early.n_tokens <= full.n_tokens


def test_the_page_is_written_from_the_results():
    assert page.page(RESULTS) == PAGE
