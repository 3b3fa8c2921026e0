"""Hypothesis over answers, forms, votes, streams and replies: `make test`'s own properties, so many times over."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("tests/properties", "tests/fuzz")
_NAME = re.compile(r"^tests/(?:properties|fuzz)/test_(\w+)\.py::\w+(?:\[\w+\])?:$")
_PASSING = re.compile(r"(\d+) passing(?: examples)?, \d+ failing")


def check(folder: Path, times: int) -> dict[str, Any]:
    """Every property, with `times` as many examples as in `make test`; what failed is told in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", *FOLDERS, "--hypothesis-show-statistics"]
    done = subprocess.run(
        [*command, "--timeout", "3600", "-p", "no:cacheprovider"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"ITS_EXAMPLES": str(times)},
    )  # fmt: skip
    (folder / "pytest.log").write_text(done.stdout + done.stderr)
    counts = counted(done.stdout)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:]
    figures: dict[str, Any] = {f"examples of {area}": n for area, n in sorted(counts.items())}
    return {"examples": counts.total(), **figures, "findings": [last] if done.returncode else []}


def counted(said: str) -> Counter[str]:
    """Examples that hypothesis generated and that held, by the file of their property."""
    counts: Counter[str] = Counter()
    area = ""
    for line in said.splitlines():
        if (name := _NAME.match(line)) is not None:
            area = name[1]
        if area and (passing := _PASSING.search(line)) is not None:
            counts[area] += int(passing[1])
    return counts
