"""What people would run instead, each from an environment of its own (deploy/bench_environment.py)."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path

import aiohttp

from benchmarks.speed.processes import TARGET_CORE, free_port, listening
from benchmarks.speed.targets import CHECKOUT, PLAINLY, Process, Target, Unavailable

_HERE = Path(__file__).parent
_LITELLM_KEY = "sk-bench"


@cache
def environment_of(peer: str) -> Path:
    """Builds it where it is not there yet, minutes; raises Unavailable where it cannot be had."""
    script = "litellm_environment.py" if peer == "litellm" else "bench_environment.py"
    arguments = [] if peer == "litellm" else [peer]
    command = [sys.executable, str(CHECKOUT / "deploy" / script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(done.stdout.strip() or f"{script} ended with code {done.returncode}")
    return Path(done.stdout.strip())


def version_in(environment: Path, package: str) -> str:
    [found] = [path.name for path in environment.glob(f"lib/python3*/site-packages/{package}-*.dist-info")][:1] or [""]
    return found.removeprefix(f"{package}-").removesuffix(".dist-info")


@asynccontextmanager
async def _plain(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    port = free_port()
    command = [
        str(environment_of("plain") / "bin/uvicorn"), "plain:app", "--app-dir", str(_HERE), "--port", str(port),
        "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    environ = {"UPSTREAM": f"http://127.0.0.1:{upstream_port}", "PYTHONPATH": ""}
    async with listening(command, folder / "log", TARGET_CORE, port, **environ) as pid:
        yield Process(port, pid)


@asynccontextmanager
async def _litellm(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    """As shipped: one worker, a master key, no database."""
    port, config = free_port(), folder / "config.yaml"
    parameters = {"model": "openai/model", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": "model", "litellm_params": parameters}],
        "general_settings": {"master_key": _LITELLM_KEY},
    }
    config.write_text(json.dumps(settings))
    command = [str(environment_of("litellm") / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1",
               "--port", str(port), "--telemetry", "False"]  # fmt: skip
    # It would ask the network for a list of prices.
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": "", "LITELLM_TELEMETRY": "False"}
    async with listening(command, folder / "log", TARGET_CORE, port, **environ) as pid:
        yield Process(port, pid)


@asynccontextmanager
async def _its_hub(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    port = free_port()
    command = [str(environment_of("its-hub") / "bin/its-iaas"), "--host", "127.0.0.1", "--port", str(port)]
    async with listening(command, folder / "log", TARGET_CORE, port, PYTHONPATH="") as pid:
        settings = {
            "provider": "openai", "endpoint": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none",
            "model": "model", "alg": "self-consistency", "regex_patterns": [r"\\boxed\{([^{}]*)\}"],
        }  # fmt: skip
        url = f"http://127.0.0.1:{port}/configure"
        async with aiohttp.ClientSession() as http, http.post(url, json=settings) as reply:
            if reply.status != 200:
                raise RuntimeError(f"its_hub refuses its configuration: {(await reply.text())[:200]}")
        yield Process(port, pid)


@asynccontextmanager
async def _optillm(folder: Path, upstream_port: int) -> AsyncIterator[Process]:
    port = free_port()
    command = [
        str(environment_of("optillm") / "bin/optillm"), "--port", str(port), "--log", "error",
        "--base-url", f"http://127.0.0.1:{upstream_port}/v1", "--model", "model",
    ]  # fmt: skip
    environ = {"OPENAI_API_KEY": "none", "PYTHONPATH": "", "HOME": str(folder)}
    async with listening(command, folder / "log", TARGET_CORE, port, **environ) as pid:
        yield Process(port, pid)


PLAIN = Target(
    "plain", _plain, {**PLAINLY, "vote": {"votes": 8}}, prepare=partial(environment_of, "plain"), rounds=3, seconds=2.0
)
ITS_HUB = Target(
    "its_hub",
    _its_hub,
    {"passed": {"budget": 1}, "rewritten": {"budget": 1}, "vote": {"budget": 8}},
    prepare=partial(environment_of, "its-hub"),
    rounds=3,
)
LITELLM = Target(
    "litellm",
    _litellm,
    PLAINLY,
    prepare=partial(environment_of, "litellm"),
    header=f"Authorization: Bearer {_LITELLM_KEY}",
    rounds=2,
    seconds=2.5,
    most=64,
)
OPTILLM = Target(
    "optillm",
    _optillm,
    {
        "passed": {"model": "none-model"},
        "rewritten": {"model": "none-model"},
        "vote": {"model": "majority_voting-model", "k": 8},
    },
    vote_calls=1,
    prepare=partial(environment_of, "optillm"),
    header="Authorization: Bearer none",
    rounds=2,
    seconds=3.0,
    most=16,
)
