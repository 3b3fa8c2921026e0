import json
import shutil
from hashlib import sha256

import pytest

from its_proxy.checkpoint import check_weights, folder_digest, open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Personas, Prompts, VoteAdvice, WrittenBy
from its_training.demo.arms import side_of
from its_training.sft.checkpoints import Sealer, check_room, clear_after, newest_whole
from tests.training.sft.conftest import BASE

VOTE = VoteAdvice(n=4)


def saved(run, step):
    """As the trainer saves one, but for the optimizer."""
    folder = run / f"checkpoint-{step}"
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("its.json"))
    (folder / "trainer_state.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    return folder


def sealed(run, step):
    folder = saved(run, step)
    Sealer(side_of("random", 7), VOTE, {}, {"seed": 42}).seal(folder, step)
    return folder


def test_a_sealed_checkpoint_opens_and_holds_no_pickle(tmp_path):
    folder = sealed(tmp_path, 8)
    checkpoint = open_checkpoint(folder)
    check_weights(checkpoint)
    assert checkpoint.manifest.provenance["step"] == 8
    assert checkpoint.manifest.vote == VOTE
    assert not (folder / "training_args.bin").exists()


def test_the_pool_and_its_prompts_lie_beside_the_manifest(tmp_path):
    pool = b'{"domain": "cooking", "text": "You cook for a living."}\n'
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "write.txt").write_bytes(b"Write a persona.")
    named = Prompts(folder="its-persona-prompts/", sha256=folder_digest(prompts))
    personas = Personas(
        source="pool",
        file="its-personas.jsonl",
        sha256=sha256(pool).hexdigest(),
        written_by=WrittenBy(model="some-model", prompts=named),
    )
    side = side_of("random", 7).model_copy(update={"personas": personas})
    files = {"its-personas.jsonl": pool, "its-persona-prompts/write.txt": b"Write a persona."}
    folder = saved(tmp_path, 4)
    Sealer(side, VOTE, files, {}).seal(folder, 4)
    assert open_checkpoint(folder).manifest.pair.serve_with.personas == personas


def test_the_newest_whole_checkpoint_is_resumed_from(tmp_path):
    assert newest_whole(tmp_path) is None
    for step in (8, 16, 104):
        sealed(tmp_path, step)
    saved(tmp_path, 200)  # killed before it was sealed
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-104"


@pytest.mark.parametrize("damage", ["weights", "its.json", "chat_template.jinja", "trainer_state.json"])
def test_a_damaged_checkpoint_is_passed_over_and_made_anew(tmp_path, damage):
    sealed(tmp_path, 8)
    folder = sealed(tmp_path, 16)
    if damage == "trainer_state.json":
        (folder / damage).unlink()
    else:
        path = folder / ("model.safetensors" if damage == "weights" else damage)
        path.write_bytes(path.read_bytes()[:-7])
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-8"
    assert clear_after(tmp_path, 8) == ["checkpoint-16"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


def test_too_little_room_is_told_before_training(tmp_path):
    check_room(tmp_path, 1000)
    with pytest.raises(ConfigError, match=r"GB are free, one checkpoint needs 1000000.0 GB \(choose another --out\)"):
        check_room(tmp_path, 10**15)


def test_weights_that_share_memory_are_saved_once_in_another_dtype(tmp_path):
    import torch
    from accelerate import Accelerator
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from its_training.sft.checkpoints import export

    class Trained:
        """What `export` asks of a trainer."""

        accelerator = Accelerator(cpu=True)
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model_wrapped = model
        processing_class = AutoTokenizer.from_pretrained(BASE)

    export(Trained, tmp_path, torch.bfloat16)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 (no mapping)
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
