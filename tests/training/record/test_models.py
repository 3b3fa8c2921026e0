import json
import shutil
import struct
from pathlib import Path

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.files import file_sha256
from its_training.record.models import check_model, load_model, load_tokenizer, weight_digests


def test_a_model_is_computed_with_in_fp32_whatever_it_is_stored_in(copy):
    import torch

    model = load_model(copy("none"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_any_causal_model_is_loaded_not_only_qwen2(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path / "llama")
    assert type(load_model(tmp_path / "llama")).__name__ == "LlamaForCausalLM"


def test_weights_that_a_file_lacks_are_not_made_up(copy):
    from safetensors.torch import load_file, save_file

    folder = copy("none")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, such as model\.layers\.0\.mlp\.up_proj"):
        load_model(folder)


def test_a_pickle_is_not_read(copy):
    import torch

    folder = copy("none")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(folder)


def test_code_of_a_checkpoint_is_not_run(copy, tmp_path):
    folder = copy("none")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", struct.pack("<Q", 10**12) + b"{}", b"\0" * 64])
def test_a_broken_weight_file_is_one_line(copy, data):
    folder = copy("none")
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be loaded") as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "said"), [
    ("runs/of/mine", "runs/of/mine is not there"),
    ("org/name", "org/name cannot be loaded: .* looked for on the Hub"),
])  # fmt: skip
def test_what_is_no_folder_is_a_hub_id_or_not_there(name, said):
    with pytest.raises(ConfigError, match=said):
        check_model(Path(name))


def test_an_adapter_without_its_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no adapter_model\.safetensors"):
        load_model(tmp_path, tmp_path.parent)


def test_a_tokenizer_without_a_chat_template_is_refused(copy):
    folder = copy("none")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template"):
        load_tokenizer(folder)


def test_every_weight_file_is_digested(copy):
    folder = copy("none")
    shutil.copy(folder / "model.safetensors", folder / "model-00002.safetensors")
    sha256 = file_sha256(folder / "model.safetensors")
    assert weight_digests(folder) == {"model-00002.safetensors": sha256, "model.safetensors": sha256}
