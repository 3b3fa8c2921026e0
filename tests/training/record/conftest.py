"""Copies of the packaged demo checkpoints to record, derive from and spoil."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

import its_proxy

DEMO = Path(its_proxy.__file__).parent / "demo"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A second one costs these small models more than it gives, and beside other tests much more."""
    torch = pytest.importorskip("torch")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def copy(tmp_path):
    """`copy("random")` is a sealed checkpoint of its own; `sealed=False` leaves out what it was trained with."""

    def make(arm, name="this", *, sealed=True):
        folder = tmp_path / name
        shutil.copytree(DEMO / f"demo-{arm}", folder)
        if not sealed:
            (folder / "its.json").unlink()
            config = json.loads((folder / "config.json").read_text())
            del config["its"]
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def adapter(tmp_path):
    """A LoRA on the demo's random arm with small random weights, as PEFT saves it, with the tokenizer beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    source, folder = DEMO / "demo-random", tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute's old name
        lora = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            parameter.mul_(0.3 if "lora_" in name else 1)
    lora.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder / name)
    return folder
