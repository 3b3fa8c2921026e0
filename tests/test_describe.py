"""What a manifest says in words, and what two of them differ in."""

import copy
from pathlib import Path
from typing import Any

import pytest

from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.describe import SAMPLE_QUERY, Change, difference, document_of, page
from tests.scripted_model import recorded
from tests.serving import manifest, write_checkpoint


@pytest.fixture
def opened(tmp_path):
    def open_document(document: dict[str, Any]) -> Checkpoint:
        folder = Path(tmp_path, str(len(list(tmp_path.iterdir()))))
        return open_checkpoint(write_checkpoint(folder, document), allow_one_sided=True)

    return open_document


def rows_of(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    return {heading: dict(rows) for heading, rows in page(checkpoint)}


# -- one manifest ------------------------------------------------------------------------------------------------------


def test_equal_sides_are_told_once(opened):
    assert "trained with, and served with" in rows_of(opened(manifest("random")))
    sections = rows_of(opened(manifest("mixed", served="none")))
    assert sections["trained with"]["strategy"] == "mixed, version 1 (context)"
    assert sections["served with"]["strategy"] == "none, version 1 (none)"
    assert "template" not in sections["served with"], "a plain side has none to speak of"


def test_a_one_sided_pair_is_called_so(opened):
    checkpoint = opened(manifest("none", served="random"))
    assert "one side only" in rows_of(checkpoint)[str(checkpoint.source)]["one-sided"]


def test_probes_are_counted_with_their_references(opened):
    probes = rows_of(opened(recorded(noise=0.0125)))["probes"]
    assert probes["log-probabilities"] == "1 probes, of this, base, demo-sibling"
    assert probes["noise"] == "0.0125 nats a token at most"
    assert probes["reply texts"] == "1"
    assert rows_of(opened(manifest("random")))["probes"]["log-probabilities"] == "none"
    assert "cannot be compared" in rows_of(opened(manifest("random", probes=[])))["probes"][""]


def test_measurements_keep_their_interval_and_conditions(opened):
    row = {"benchmark": "gsm8k", "split": "test", "items": 9, "metric": "maj@8", "value": 0.5}
    more = {"ci95": [0.25, 0.75], "asked": "random", "run": {"file": "f", "sha256": "0" * 64}}
    evaluation = rows_of(opened(manifest("random", evaluation=[{**row, **more}])))["evaluation"]
    assert evaluation == {"maj@8": "0.5 [0.25, 0.75] on 9 items of gsm8k, test; asked random"}
    assert rows_of(opened(manifest("random", evaluation=[row])))["evaluation"] == {
        "maj@8": "0.5 on 9 items of gsm8k, test"
    }


def test_long_values_are_shortened_and_stay_on_their_line(opened):
    provenance = rows_of(opened(manifest(provenance={"note": "a\nb" + "x" * 500})))["provenance"]
    assert provenance["note"].startswith("a\\nbxxx")
    assert provenance["note"].endswith("(504 characters)")
    assert len(provenance["note"]) < 100


def test_a_live_writer_and_what_wrote_a_pool_are_named(opened):
    document = manifest("similar")
    for side in document["pair"].values():
        side["personas"] = {"source": "writer", "written_by": {"model": "qwen", "date": "2026-01-01"}}
    rows = rows_of(opened(document))["trained with, and served with"]
    assert (rows["personas"], rows["written by"]) == ("asked of a live writer", "qwen, 2026-01-01")


def test_the_document_is_the_file_with_its_pair_id(opened):
    document = recorded()
    checkpoint = opened(document)
    assert document_of(checkpoint.manifest) == {"pair_id": checkpoint.pair_id, **document}


# -- two manifests -----------------------------------------------------------------------------------------------------


def test_equal_manifests_differ_in_nothing(opened):
    found = difference(opened(recorded()), opened(recorded()))
    assert (found.is_pair_equal, found.changes, found.sample, found.is_rewritten_alike) == (True, (), None, True)


def test_advice_and_probes_may_differ_within_a_pair(opened):
    other = recorded(vote={"n": 4, "answer": "boxed", "temperature": 0.8, "max_tokens": 256, "stop": "exact"})
    other["probes"] = []
    found = difference(opened(recorded()), opened(other))
    assert found.is_pair_equal
    assert found.sample is None
    changes = {change.key: change for change in found.changes}
    assert (changes["vote.n"].one, changes["vote.n"].other) == ("8", "4")
    assert (changes["vote.top_p"].one, changes["vote.top_p"].other) == ("0.95", None)
    assert changes["probes"].other == "[]"
    assert not any(change.is_pair for change in found.changes)


def test_another_strategy_is_another_pair_and_shows_in_a_query(opened):
    found = difference(opened(manifest("random")), opened(manifest("similar")))
    assert not found.is_pair_equal
    assert not found.is_rewritten_alike
    assert found.sample is not None
    assert all(text.endswith(f"\n\n{SAMPLE_QUERY}") for text in found.sample)
    keys = [change.key for change in found.changes if change.is_pair]
    assert keys == ["pair.trained_with.strategy", "pair.serve_with.strategy"]


def test_pairs_may_differ_in_what_no_query_shows(opened):
    document = manifest("random")
    document["pair"]["trained_with"]["strategy"] = "similar"
    found = difference(opened(manifest("random")), opened(document))
    assert (found.is_pair_equal, found.is_rewritten_alike) == (False, True)


def test_a_default_that_is_spelled_out_is_told_from_one_that_is_not(opened):
    """The pair id is over what is written, so such pairs differ, though they mean the same."""
    document = manifest("random")
    document["pair"]["serve_with"]["turns"] = "all"
    found = difference(opened(manifest("random")), opened(document))
    assert [change for change in found.changes if change.is_pair] == [Change("pair.serve_with.turns", None, "all")]
    assert found.is_rewritten_alike
    assert not found.is_pair_equal


def test_a_side_without_personas_is_told_as_a_whole(opened):
    found = difference(opened(manifest("none")), opened(manifest("random")))
    personas = next(change for change in found.changes if change.key == "pair.serve_with.personas")
    assert personas.one == "null"
    assert personas.other is not None
    assert personas.other.startswith('{"source": "taxonomy"')


def test_alike_changes_of_many_probes_are_one_and_tell_where_lists_part(opened):
    one = recorded()
    one["probes"][0]["completion_token_ids"] = list(range(100, 200))
    one["probes"] *= 3
    other = copy.deepcopy(one)
    for probe in other["probes"]:
        probe["completion_token_ids"] = [*range(100, 199), 7]
        probe["dtype"] = "bfloat16"
    assert difference(opened(one), opened(other)).changes == (
        Change("probes[0].completion_token_ids", "100 values, 199 at 99", "100 values, 7 at 99", n_more=2),
        Change("probes[0].dtype", None, "bfloat16", n_more=2),
    )


def test_a_probe_more_is_told(opened):
    other = recorded()
    other["probes"] *= 2
    [change] = difference(opened(recorded()), opened(other)).changes
    assert (change.key, change.one) == ("probes[1]", None)


def test_true_and_1_are_not_the_same(opened):
    found = difference(opened(manifest(provenance={"x": True})), opened(manifest(provenance={"x": 1})))
    assert found.changes == (Change("provenance.x", "true", "1"),)


def test_a_query_that_a_live_writer_would_rewrite_cannot_be_shown(opened):
    document = manifest("similar", probes=[])
    for side in document["pair"].values():
        side["personas"] = {"source": "writer"}
    found = difference(opened(manifest("random")), opened(document))
    assert found.sample is not None
    assert "needs a live persona writer" in found.sample[1]
