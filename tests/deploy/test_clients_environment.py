"""The newest clients: built anew each day, and what days before have left is gone then."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UNAVAILABLE = 69
TWO_DAYS_S = 2 * 24 * 3600


def prepare(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script with a cache of its own, pip asking no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "ITS_"))}
    ours = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "ITS_CACHE": str(cache)}
    command = [sys.executable, ROOT / "deploy/clients_environment.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=kept | ours)


def built(folder: Path, *, age_s: float = 0) -> Path:
    folder.mkdir(parents=True)
    complete = folder / "complete"
    complete.touch()
    os.utime(complete, (time.time() - age_s,) * 2)
    return folder


def test_what_days_before_have_left_is_removed(tmp_path):
    old = built(tmp_path / "newest-llm-0123456789ab", age_s=TWO_DAYS_S)
    kept = [
        built(tmp_path / "newest-llm-ba9876543210"),  # of today, and another Python
        built(tmp_path / "newest-llm-plus-0123456789ab", age_s=TWO_DAYS_S),
        built(tmp_path / "clients-sdks-0123456789ab", age_s=TWO_DAYS_S),
    ]
    done = prepare(tmp_path, "--newest", "llm")
    assert not old.exists()
    assert all(folder.exists() for folder in kept)
    assert done.returncode == UNAVAILABLE, "pip has no index here"
    assert done.stdout.startswith("Could not find a version that satisfies the requirement llm")
