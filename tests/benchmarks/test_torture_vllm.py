"""What the torture of the handshake says of its own results; the servers themselves are `make torture-vllm`'s."""

from dataclasses import replace

import pytest

from benchmarks.torture_vllm import files
from benchmarks.torture_vllm.book import Book, Row
from benchmarks.torture_vllm.bounds import upper_bound
from benchmarks.torture_vllm.case import VERIFIED, Case, Found, World
from benchmarks.torture_vllm.report import write_report
from benchmarks.torture_vllm.starts import starts
from benchmarks.torture_vllm.workshop import DEMO, Workshop, edit_weights, manifest_of, perturbed, point_to_pair


async def never(world: World) -> Found:
    raise AssertionError("nothing is asked here")


def case(name: str, kind="mismatch", right=frozenset({"mismatch"})) -> Case:
    return Case(name, kind, "weights", right, never)


def row(name: str, state: str, kind="mismatch", right=("mismatch",)) -> Row:
    return Row(name, kind, "weights", "a server", right, state, "said so", {}, 1.0, "2026-11-21T00:00:00")


@pytest.mark.parametrize(
    ("n_failures", "n", "bound"), [(0, 1, 0.95), (0, 10, 0.2589), (0, 60, 0.0487), (1, 20, 0.2161)]
)
def test_the_bound_is_the_rate_at_which_so_few_failures_happen_one_time_in_twenty(n_failures, n, bound):
    assert upper_bound(n_failures, n) == pytest.approx(bound, abs=1e-4)


def test_all_failures_bound_nothing():
    assert upper_bound(3, 3) == 1.0


def test_a_book_continues_and_forgets_what_other_code_has_judged(tmp_path):
    book, lenient = Book(tmp_path / "rows.jsonl"), Book(tmp_path / "rows.jsonl", any_code=True)
    for one in (row("a", "mismatch"), replace(row("b", "mismatch"), code="older"),
                replace(row("c", "verified"), code="older")):  # fmt: skip
        book.add(one)
    cases = [case("a"), case("b"), case("c")]
    assert [case.name for case in book.missing(cases)] == ["b", "c"]
    assert [case.name for case in lenient.missing(cases)] == ["c"]  # not right, so tried again in any case


def test_a_report_counts_what_was_missed_and_says_it_is_not_whole(tmp_path):
    cases = [case("a"), case("b"), case("c"), case("d", "honest", VERIFIED)]
    rows = [row("a", "mismatch"), row("b", "verified"), row("d", "unverified", "honest", ("verified",))]
    assert not write_report(tmp_path, rows, cases, ["the bases"])
    page = (tmp_path / "vllm-handshake.md").read_text()
    assert "**1 of 2 distinct mismatches caught**: 1 found to be a mismatch." in page
    assert "**1 false alarms in 1 examinations of 1 honest servers.**" in page
    assert "- **b**: verified, not mismatch. said so" in page
    assert "- Not tried: c" in page
    assert "- Left out for want of `--bases`: the bases" in page
    assert write_report(tmp_path, rows[:1], cases[:1], [])


def test_every_case_of_the_matrix_has_a_name_of_its_own_and_there_are_enough():
    cases = [*files.cases(), *(case for start in starts() for case in start.cases)]
    assert len({case.name for case in cases}) == len(cases)
    assert len([case for case in cases if case.kind == "mismatch"]) >= 25
    assert len([case for case in cases if case.kind == "honest"]) >= 40
    assert len([start for start in starts() if any(case.kind == "honest" for case in start.cases)]) >= 10


@pytest.mark.parametrize("tried", files.cases(), ids=lambda tried: tried.name)
async def test_files_that_do_not_hold_together_are_refused(tried, tmp_path):
    found = await tried.ask(World(Workshop(tmp_path, None)))
    assert found.state in tried.right
    assert str(tmp_path) not in found.said


def test_a_variant_is_made_once_and_anew_when_its_source_changes(tmp_path):
    made = []
    shop = Workshop(tmp_path, None)
    first = shop.variant("copy", lambda folder: made.append(folder))
    assert shop.variant("copy", lambda folder: made.append(folder)) == first
    assert len(made) == 1
    assert manifest_of(first) == manifest_of(DEMO / "demo-random")
    shop.variant("copy", lambda folder: made.append(folder), DEMO / "demo-none")
    assert len(made) == 2
    point_to_pair(first)
    assert manifest_of(first) == manifest_of(DEMO / "demo-none")


def test_perturbed_weights_lie_as_far_from_their_own_as_they_are_said_to(tmp_path):
    from safetensors.torch import load_file

    own = load_file(DEMO / "demo-random" / "model.safetensors")
    folder = Workshop(tmp_path, None).variant("noisy", lambda folder: edit_weights(folder, perturbed(0.1, seed=3)))
    noisy = load_file(folder / "model.safetensors")
    assert noisy.keys() == own.keys()
    for name, tensor in own.items():
        assert noisy[name].dtype == tensor.dtype
        if tensor.ndim == 2:
            distance = (noisy[name].float() - tensor.float()).std() / tensor.float().std()
            assert float(distance) == pytest.approx(0.1, rel=0.1)
