import json
from hashlib import sha256

import pytest

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import ConfigError, DigestMismatch, ManifestError
from its_proxy.codesign.manifest import FILE_NAME
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.handshake import examine
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_training.files import file_sha256
from its_training.record.measured import read_measurement
from its_training.record.models import load_model
from its_training.record.opened import Arm
from its_training.record.probes import Reference, score_probes
from its_training.record.record import Request, record
from tests.training.record.conftest import DEMO

POOL = Pool.of(taxonomy_pool().personas[::7])
QUERIES = [f"A farmer keeps {n} goats. Then the farmer buys {n + 3} more. How many goats are there?" for n in range(30)]


def prepared(folder, strategy="random"):
    """A prepared arm whose personas come from a pool, as `its-train prepare` leaves it."""
    (folder / "arms").mkdir(parents=True)
    (folder / "its-personas.jsonl").write_bytes(pool := pool_bytes())
    personas = {"source": "pool", "file": "its-personas.jsonl", "sha256": sha256(pool).hexdigest()}
    side = {"strategy": strategy, "version": 1, "personas": personas, "seed": 11, "chat_template_sha256": None}
    rows = [{"id": str(n), "query": query, "messages": []} for n, query in enumerate(QUERIES)]
    (folder / "arms" / "random.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arm = {"file": "arms/random.jsonl", "rows": 30, "sha256": "5" * 64, "ids_sha256": "6" * 64, "side": side}
    source = {"dataset": "openai/gsm8k", "revision": "main", "license": "mit"}
    document = {"schema_version": 1, "name": "goats", "source": source, "arms": {"random": arm}}
    (folder / "dataset.json").write_text(json.dumps(document))
    return Arm(folder, "random")


def pool_bytes():
    rows = ({"text": persona.text, "domain": persona.domain} for persona in POOL.personas)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def request(checkpoint, **fields):
    fields = {"base": DEMO / "demo-none", "siblings": (Reference("similar", DEMO / "demo-similar"),), **fields}
    return Request(checkpoint, **{"n_probes": 2, **fields})


def candidates(path, queries, **fields):
    rows = []
    for number, query in enumerate(queries):
        one = {"index": 0, "text": "\\boxed{4}", "answer": "4", "finish_reason": "stop", "completion_tokens": 5}
        row = {"id": str(number), "query": query, "gold": "4", "model": "this", "strategy": "random",
               "asked": {"seed": 3}, "candidates": [one], "temperature": 0.8, **fields}  # fmt: skip
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows))
    return path


def test_recording_again_keeps_the_pair_and_replaces_the_probes(copy):
    folder = copy("random")
    before = open_checkpoint(folder).manifest
    recorded = record(request(folder))
    manifest = open_checkpoint(folder).manifest
    assert recorded.manifest == manifest
    assert manifest.pair_id == before.pair_id
    assert [set(probe.logprobs.siblings) for probe in manifest.probes] == [{"similar"}] * 2
    assert (manifest.evaluation, manifest.vote) == (before.evaluation, before.vote)
    assert manifest.provenance["recipe"] == before.provenance["recipe"]
    assert manifest.provenance["record"]["power"] == recorded.power.document()
    check_weights(open_checkpoint(folder))


def test_a_checkpoint_that_another_tool_trained_gets_the_pair_of_its_arm(copy, tmp_path):
    folder, arm = copy("random", sealed=False), prepared(tmp_path / "data")
    recorded = record(request(folder, arm=arm))
    checkpoint = open_checkpoint(folder)
    side = checkpoint.manifest.pair.serve_with
    assert (side.strategy, side.seed, side.personas.source) == ("random", 11, "pool")
    assert side.chat_template_sha256 == file_sha256(folder / "chat_template.jinja")
    assert (folder / "its-personas.jsonl").read_bytes() == pool_bytes()
    texts = {persona.text for persona in POOL.personas}
    for probe in checkpoint.manifest.probes:
        persona, query = probe.messages[0]["content"].split("\n\n")
        assert persona in texts
        assert query == probe.query
        assert query in QUERIES
    provenance = recorded.manifest.provenance
    assert provenance["dataset"] == {"dataset": "openai/gsm8k", "revision": "main"}
    assert (provenance["ids_sha256"], provenance["licenses"]) == ("6" * 64, {"dataset": "mit"})
    assert (provenance["base_model"], recorded.manifest.vote) == ("demo-none", None)


def test_what_training_sealed_outweighs_what_the_data_say(copy, tmp_path):
    folder, arm = copy("random", sealed=False), prepared(tmp_path / "data")
    first = record(request(folder, arm=arm, n_probes=1)).manifest
    document = json.loads((folder / "its.json").read_text())
    document["provenance"]["licenses"] = {"dataset": "mit", "base": "apache-2.0"}
    (folder / "its.json").write_text(json.dumps(document))
    second = record(request(folder, arm=arm, n_probes=1)).manifest
    assert second.pair_id == first.pair_id
    assert second.provenance["licenses"] == {"dataset": "mit", "base": "apache-2.0"}


def test_more_probes_are_taken_where_an_arm_cannot_be_told_apart(copy, tmp_path):
    """A sibling that is a copy of the checkpoint itself: no number of probes has power, and it is said so."""
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(QUERIES))
    twin = (Reference("twin", DEMO / "demo-random"),)
    recorded = record(request(copy("random"), siblings=twin, queries=queries))
    assert len(recorded.manifest.probes) == 16
    assert recorded.remarks == ("2 probes do not tell every reference apart: 16 were taken",)
    assert "No power: twin cannot be told from this checkpoint" in recorded.power.verdict
    assert recorded.manifest.provenance["record"]["queries"] == "queries.txt"


async def test_the_handshake_verifies_what_was_recorded(copy):
    folder = copy("random")
    record(request(folder))
    upstream = EmbeddedUpstream("embedded", {"this": folder})
    try:
        report = await examine(open_checkpoint(folder), upstream, "this", is_local=True)
    finally:
        await upstream.close()
    assert report.verdict.state == "verified"
    assert {check.name: check.state for check in report.checks}["reply"] == "ok"


def test_evaluation_rows_are_those_of_the_candidates_with_their_conditions(copy, tmp_path):
    run = candidates(tmp_path / "run.jsonl", ["1 + 3?", "2 + 2?"])
    measured = (read_measurement(f"sums:test={run}"),)
    manifest = record(request(copy("random"), measurements=measured)).manifest
    assert [row.metric for row in manifest.evaluation] == ["pass@1", "maj@1", "agreement"]
    row = manifest.evaluation[1]
    assert (row.benchmark, row.split, row.items, row.value) == ("sums", "test", 2, 1.0)
    assert row.ci95 == (0.3424, 1.0)
    assert row.model_extra["run"] == {"file": "run.jsonl", "sha256": file_sha256(run)}
    assert row.model_extra["seeds"] == {"persona": 7, "sampling": 3}


@pytest.mark.parametrize(("fields", "said"), [
    ({"gold": None}, r"run\.jsonl: 1 of 1 items have no gold answer"),
    ({"pair_id": "0" * 64}, r"run\.jsonl holds candidates of pair 00000000, this checkpoint's is 3837bb5f"),
])  # fmt: skip
def test_candidates_that_score_something_else_are_refused(copy, tmp_path, fields, said):
    run = candidates(tmp_path / "run.jsonl", ["1 + 3?"], **fields)
    with pytest.raises(ConfigError, match=said):
        record(request(copy("random"), measurements=(read_measurement(f"sums:test={run}"),)))


def test_a_sibling_that_was_trained_on_other_rows_is_told(copy):
    sibling = copy("similar", "sibling")
    document = json.loads((sibling / "its.json").read_text())
    document["provenance"]["ids_sha256"] = "7" * 64
    (sibling / "its.json").write_text(json.dumps(document))
    siblings = (Reference("similar", sibling), Reference("dissimilar", DEMO / "demo-dissimilar"))
    recorded = record(request(copy("random"), siblings=siblings, n_probes=1))
    assert "similar was trained on other rows: no matched arm of this checkpoint" in recorded.remarks
    assert not any("dissimilar" in remark for remark in recorded.remarks)


def test_what_is_scored_is_not_probed_with(copy, tmp_path):
    folder = copy("random")
    query = open_checkpoint(folder).manifest.probes[0].query
    measured = (read_measurement(f"sums:test={candidates(tmp_path / 'run.jsonl', [query])}"),)
    with pytest.raises(ConfigError, match=r"1 of the probe queries are test items of run\.jsonl"):
        record(request(folder, measurements=measured))


def test_out_takes_the_manifest_alone_and_leaves_the_checkpoint_as_it_was(copy, tmp_path):
    folder, arm = copy("random", sealed=False), prepared(tmp_path / "data")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    recorded = record(request(folder, arm=arm, out=tmp_path / "manifest"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.name for path in (tmp_path / "manifest").iterdir()} == {FILE_NAME, "its-personas.jsonl"}
    assert open_checkpoint(tmp_path / "manifest").pair_id == recorded.manifest.pair_id
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*file/x: Not a directory"):
        record(request(folder, arm=arm, out=tmp_path / "file" / "x"))
    with pytest.raises(ConfigError, match="is a checkpoint itself"):
        record(request(folder, arm=arm, out=copy("none", "other")))


def test_weights_that_changed_since_they_were_sealed_are_refused(copy):
    folder = copy("random")
    (folder / "model.safetensors").write_bytes((DEMO / "demo-none" / "model.safetensors").read_bytes())
    with pytest.raises(DigestMismatch, match="changed since it was sealed"):
        record(request(folder))


@pytest.mark.parametrize(("arm", "said"), [
    ("dissimilar", "another strategy than arm 'random'"),
    ("random", "another personas than arm 'random'"),
])  # fmt: skip
def test_another_arm_than_it_was_trained_on_is_refused(copy, tmp_path, arm, said):
    with pytest.raises(ConfigError, match=said):
        record(request(copy("random"), arm=prepared(tmp_path / "data", arm)))


def test_nothing_is_written_where_something_is_missing(copy, tmp_path):
    folder, arm = copy("random", sealed=False), prepared(tmp_path / "data")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"holds no its\.json"):
        record(request(folder))
    with pytest.raises(ConfigError, match="nowhere is not there"):
        record(request(folder, arm=arm, siblings=(Reference("nowhere", tmp_path / "nowhere"),)))
    (tmp_path / "data" / "its-personas.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"its-personas\.jsonl is missing"):
        record(request(folder, arm=arm))
    with pytest.raises(ConfigError, match=r"has no arm 'mixed' \(it has: random\)"):
        record(request(folder, arm=Arm(tmp_path / "data", "mixed")))
    with pytest.raises(ConfigError, match=r"elsewhere/dataset\.json: No such file"):
        record(request(folder, arm=Arm(tmp_path / "elsewhere", "random")))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_prompts_that_a_probe_cannot_hold_are_told(copy, tmp_path):
    """Only the first tokens are compared then, and no reply is recorded."""
    queries = tmp_path / "queries.txt"
    queries.write_text(" ".join(QUERIES[:12]))
    recorded = record(request(copy("random"), queries=queries, n_probes=1))
    (probe,) = recorded.manifest.probes
    assert len(probe.prompt_token_ids) > 128
    assert (len(probe.logprobs.this), probe.completion_token_ids, probe.reply) == (127, [], None)
    assert "1 of 1 prompts are longer than 128 tokens" in recorded.remarks[-1]


def test_an_adapter_is_measured_on_its_base_and_gets_no_pointer(copy, tmp_path, adapter):
    recorded = record(request(adapter, base=DEMO / "demo-random", arm=prepared(tmp_path / "data")))
    assert recorded.manifest.provenance["weights_sha256"].keys() == {"adapter_model.safetensors"}
    assert "its" not in json.loads((adapter / "adapter_config.json").read_text())
    probe = open_checkpoint(adapter).manifest.probes[0]
    alone = load_model(DEMO / "demo-random")
    assert score_probes(alone, [probe])[0] == pytest.approx(probe.logprobs.base, abs=1e-3)
    assert probe.logprobs.this != probe.logprobs.base
