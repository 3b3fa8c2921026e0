"""docs/litellm.md and docs/litellm-plugin.md: their configurations are ones that its-proxy and the preflight accept.

`make test-litellm` runs them before a real LiteLLM.
"""

import re
from pathlib import Path

import pytest
import yaml

from its_litellm.__main__ import problems
from its_litellm.deployment import ItsInfo, Member
from its_proxy.settings import load_settings
from tests.real_litellm.page import configurations
from tests.real_litellm.worlds import merged
from tests.serving import manifest, write_checkpoint

PLUGIN_PAGE = Path(__file__).parent.parent.parent / "docs" / "litellm-plugin.md"


def test_its_proxys_settings_are_read(tmp_path):
    _, settings = configurations("litellm.md")
    folder = write_checkpoint(tmp_path / "qwen-random", manifest("random"))
    settings["models"]["qwen"]["checkpoint"] = folder
    loaded = load_settings(None, {"FRONT_KEY": "secret"}, settings)
    assert loaded.tenant_from == "header:x-litellm-user_api_key_user_id"
    assert "front" in loaded.keys[0].rights


def test_the_preflight_finds_nothing_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr("its_litellm.versions.version", lambda name: "1.106.2")
    for name in ("random", "similar", "none"):
        write_checkpoint(tmp_path / f"qwen-{name}", manifest(name))
    text = yaml.safe_dump(merged(configurations("litellm-plugin.md"))).replace("/checkpoints", str(tmp_path))
    (tmp_path / "config.yaml").write_text(text)
    assert list(problems(tmp_path / "config.yaml")) == []


@pytest.mark.parametrize("model", [ItsInfo, Member])
def test_every_key_stands_in_the_table(model):
    table = PLUGIN_PAGE.read_text().split("## `model_info.its`")[1].split("##")[0]
    assert set(model.model_fields) <= set(re.findall(r"`(\w+)`", table))
