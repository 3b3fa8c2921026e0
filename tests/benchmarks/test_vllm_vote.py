"""The pages of `make results-vllm` say what was measured, and an interrupted measurement goes on."""

from pathlib import Path

import pytest

from benchmarks.vllm_vote import gauge, tokens
from benchmarks.vllm_vote.kept import Kept
from benchmarks.vllm_vote.tables import quantile
from its_proxy.candidates import Item

ITEMS = [Item(id=f"item-{number}", query="?", gold="5") for number in range(40)]


def asked(way: str, item: Item, **fields: object) -> dict[str, object]:
    """One request that cost 200 tokens."""
    record = {"way": way, "id": item.id, "gold": item.gold, "answer": "5", "stopped": "decided", "n_requests": 1}
    costs = {"n_generated": 200, "n_received": 200, "n_started": 8, "n_aborted": 0, "n_cancelled": 0, "told": 0}
    return {**record, **costs, "seconds": 0.5, **fields}


def cells(page: str, *starts: str) -> list[str]:
    """The cells of the one table line that begins with these."""
    (line,) = [line for line in page.splitlines() if line.startswith("| " + " | ".join(starts) + " |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "tokens.jsonl")


@pytest.fixture
def crowds(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "crowds.jsonl")


def test_a_line_cut_by_a_kill_is_measured_again(tmp_path):
    file = tmp_path / "kept.jsonl"
    Kept(file).add({"number": 1})
    file.write_bytes(file.read_bytes() + b'{"number": 2, "se')
    kept = Kept(file)
    kept.add({"number": 2})
    assert Kept(file).records == kept.records == [{"number": 1}, {"number": 2}]


def test_what_has_been_measured_is_not_asked_again(kept, crowds):
    before, crowds_before = tokens.waiting(kept, ITEMS), tokens.waiting_crowds(crowds, ITEMS)
    (item, way), (crowd, crowd_way) = before[7], crowds_before[0]
    kept.add(asked(way, item))
    crowds.add(asked(crowd_way, crowd[0]))
    assert tokens.waiting(kept, ITEMS) == [pair for pair in before if pair != (item, way)]
    assert tokens.waiting_crowds(crowds, ITEMS) == crowds_before[1:]


def test_savings_and_agreement_are_those_of_the_same_items(kept, crowds):
    for number, item in enumerate(ITEMS):
        for way in tokens.VOTES:
            is_early = way == "beta, first wave"
            kept.add(asked(way, item, n_generated=100) if is_early else asked(way, item))
        if number % 4 == 0:
            kept.records[-1]["answer"] = "6"
    page = tokens.report(kept, crowds)
    _, _, saved, _, _, same, right, lost, _ = cells(page, "beta, first wave")
    assert saved == "50.0 [50.0, 50.0]"
    assert same.startswith("75.0 ")
    assert right.startswith("75.0 ")
    assert lost.startswith("-25.0 ")
    assert cells(page, "exact")[2] == "0.0 [0.0, 0.0]"


def test_the_bias_is_over_requests_that_cancelled_something(kept, crowds):
    for item in ITEMS:
        for way in tokens.VOTES:
            kept.add(asked(way, item))
        told = {"n_cancelled": 2, "n_received": 150, "told": 60}
        kept.add(asked("no answer", item, **(told if item is not ITEMS[0] else {})))
    crowds.add(asked("exact", ITEMS[0], n_requests=16, n_generated=3200, n_received=3000, n_cancelled=8, told=150))
    page = tokens.report(kept, crowds)
    assert cells(page, "alone", "no answer")[2:] == ["39", "78", "0", "1950", "2340", "20.0 [20.0, 20.0]"]
    assert cells(page, "crowd", "exact")[2:] == ["16", "8", "0", "200", "150", "-25.0 [-25.0, -25.0]"]


def test_ways_that_were_not_asked_the_same_items_are_not_compared(kept, crowds):
    for way in tokens.VOTES:
        kept.add(asked(way, ITEMS[0]))
    kept.add(asked("exact", ITEMS[1]))
    assert tokens.report(kept, crowds) == "Not measured."


def test_a_round_with_nothing_to_cut_off_does_not_count(tmp_path):
    kept = Kept(tmp_path / "gauge.jsonl")
    for end in gauge.ENDS:
        kept.add({"end": end, "number": 0, "idle_s": 5.0, "look_s": 0.01, "n_cut": 0})
        kept.add({"end": end, "number": 1, "idle_s": 0.05, "look_s": 0.01, "n_cut": 3})
    assert gauge.report(kept, 2) == "Not measured."
    assert cells(gauge.report(kept, 1), "deadline")[2:6] == ["1", "2", "3", "1 of 1"]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.91, 10), (1.0, 10)])
def test_a_quantile_is_a_value_that_was_seen(share, value):
    assert quantile([3, 1, 2, 10, 9, 8, 7, 6, 5, 4], share) == value
