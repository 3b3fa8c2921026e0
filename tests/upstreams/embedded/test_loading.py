"""Checkpoints are loaded whole, or refused in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from its_proxy.codesign.errors import ConfigError, UpstreamRejected, UpstreamUnreachable
from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.upstreams.embedded.asking import body


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, its_proxy.upstreams.embedded; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_missing_torch_is_said_with_the_way_to_get_it(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint})
    with pytest.raises(ConfigError, match=r"its-proxy\[embedded\]"):
        await upstream.start()
    with pytest.raises(UpstreamUnreachable, match=r"its-proxy\[embedded\]"):
        await upstream.complete(body(), "r")
    await upstream.close()


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_folder_without_its_files_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path, missing: str) -> None:
    for file in tiny_checkpoint.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    upstream = EmbeddedUpstream("embedded", {"tiny": tmp_path})
    with pytest.raises(ConfigError, match=Path(missing).suffix):
        await upstream.start()


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_broken_file_is_one_clear_line(tiny_checkpoint: Path, tmp_path: Path, broken: str) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(b"\x00\x01" if file.name == broken else file.read_bytes())
    upstream = EmbeddedUpstream("embedded", {"tiny": tmp_path})
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        await upstream.start()
    assert "\n" not in str(caught.value)


async def test_folder_without_a_chat_template_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    upstream = EmbeddedUpstream("embedded", {"tiny": tmp_path})
    with pytest.raises(ConfigError, match="chat template"):
        await upstream.start()


async def test_one_folder_that_cannot_be_loaded_leaves_the_others_serving(tiny_checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"cut")
    engine = EmbeddedUpstream("e", {"broken": broken, "tiny": tiny_checkpoint})
    try:
        await engine.start()
        assert [card["id"] for card in await engine.models()] == ["tiny"]
        with pytest.raises(UpstreamRejected, match="broken"):
            await engine.complete({"model": "broken", "messages": [{"role": "user", "content": "1"}]}, "r")
    finally:
        await engine.close()
