"""A small prepared data set and recipe around the packaged demo checkpoint, and `its-train sft` in its own process."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep

import pytest
import yaml

from its_proxy.codesign.canonical import digest
from its_training.demo.arms import side_of, training_row
from its_training.demo.problems import draw

CHECKOUT = Path(__file__).resolve().parents[3]
BASE = CHECKOUT / "its_proxy" / "demo" / "demo-none"
MAIN = "from its_training.cli import main; main()"


def prepare_folder(folder, arms=("none", "random"), n=16):
    """What `its-train prepare` writes, of the demo's word problems."""
    (folder / "arms").mkdir(parents=True)
    problems = draw(n, "sft", 7)
    entries = {}
    for arm in arms:
        side = side_of(arm, 7).model_copy(update={"chat_template_sha256": None})
        rows = [training_row(problem, side) for problem in problems]
        data = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
        (folder / "arms" / f"{arm}.jsonl").write_bytes(data)
        entries[arm] = {
            "file": f"arms/{arm}.jsonl",
            "sha256": sha256(data).hexdigest(),
            "rows": n,
            "ids_sha256": digest([row["id"] for row in rows]),
            "side": side.model_dump(mode="json"),
        }
    document = {
        "schema_version": 1,
        "name": "word-problems",
        "source": {"dataset": "its-training word problems", "revision": None, "license": "apache-2.0"},
        "steps": [],
        "seed": 7,
        "rows": n,
        "ids_sha256": entries[arms[0]]["ids_sha256"],
        "think": "keep",
        "system_prompt": None,
        "decontamination": {},
        "tokens": None,
        "arms": entries,
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def recipe_document(data, **changes):
    """A recipe of 16 steps; a change names a key by its path, as `compute__n_devices=2`."""
    document = {
        "schema_version": 1,
        "name": "small",
        "label": "ours",
        "base": {
            "model": str(BASE),
            "license": "apache-2.0",
            "architecture": {
                "model_type": "qwen2",
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 1024,
                "max_position_embeddings": 512,
                "tie_word_embeddings": True,
            },
        },
        "data": {"folder": str(data), "arms": ["none", "random"], "rows": 16},
        "chat": {"template": "chatml", "max_length": 256},
        "optimizer": {"learning_rate": 5.0e-4, "warmup": 0.1, "epochs": 4, "global_batch": 4},
        "compute": {"device": "cpu", "n_devices": 1, "per_device_batch": 2, "dtype": "float32"},
        "seeds": [42],
        "save_every_steps": 4,
        "vote": {"n": 8, "temperature": 0.8, "max_tokens": 96, "answer": "boxed"},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
    return document


def write_recipe(path, data, **changes):
    path.write_text(yaml.safe_dump(recipe_document(data, **changes)))
    return path


def environment():
    return {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}", "OMP_NUM_THREADS": "1"}


def its_train_sft(*options, cwd, launcher=(sys.executable, "-c", MAIN)):
    """In a process of its own: training changes settings of its libraries for the whole process."""
    command = [*launcher, "sft", *map(str, options)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=380)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    return prepare_folder(tmp_path_factory.mktemp("sft") / "data")


def start_sft(*options, cwd):
    command = [sys.executable, "-c", MAIN, "sft", *map(str, options)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def signal_at(process, file, signal):
    """Sends the signal a moment after `file` appears, which leaves the process in the middle of a step."""
    until = monotonic() + 200
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert monotonic() < until
        sleep(0.005)
    sleep(0.05)
    process.send_signal(signal)
    return process.communicate(timeout=60)


def weights_of(folder):
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def logged(run):
    """The metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]
