"""Atheris on the stream parser, the HTTP client, the request validator, forms and the answer reader, in turn.

What is fuzzed and what must hold of every input is in tests/fuzz/targets.py.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS

MAX_BYTES = 4096
ROOT = Path(__file__).resolve().parents[3]
_PROGRESS = re.compile(r"^#\d+\s+\w+\s+cov: (\d+) ft: \d+ corp: (\d+)", re.MULTILINE)


def fuzz(environment: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """All targets, so many seconds each. The figures; under `findings`, by target, what came out of one that failed."""
    told = {name: _fuzz(environment / "bin/python", name, seconds, folder / name) for name in TARGETS}
    figures: dict[str, Any] = {
        f"{name}: {figure}": value for name, found in told.items() for figure, value in found.items()
    }
    return figures | {"findings": [f"{name}: {found['failure']}" for name, found in told.items() if "failure" in found]}


def _fuzz(python: Path, name: str, seconds: float, folder: Path) -> dict[str, Any]:
    """One target, in a process of its own, whose words stay beside `folder`; in it stay the inputs that it kept."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", "tests.fuzz.guided", name, str(folder), str(seconds)]
    done = subprocess.run(
        [*command, f"-max_len={MAX_BYTES}", "-len_control=20"],
        capture_output=True, text=True, errors="replace", cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    folder.with_suffix(".log").write_text(done.stderr)
    if done.returncode:
        return {"failure": _failure(done.stderr)}
    covered, kept = _PROGRESS.findall(done.stderr)[-1]
    last = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, **last, "edges covered": int(covered), "inputs kept": int(kept)}


def _failure(said: str) -> str:
    """The exception that came out, and where."""
    lines = said.partition("Uncaught Python exception")[2].splitlines()
    return " | ".join(line.strip() for line in lines if line.strip())[-1000:] or said[-1000:]
