"""Writes down what was measured: one JSON file each, which docs/reliability.md is made from."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs/results/reliability"


def save(
    name: str,
    figures: Mapping[str, Any],
    passed: bool,
    conditions: Mapping[str, Any] | None = None,
    *,
    goal: str = "",
    command: str = "",
    folder: Path = FOLDER,
    **more: Any,
) -> Path:
    """`figures`: what was found, by its name with the unit in it. `goal`: what was to be shown, one sentence.

    `command`: how to do it again, by default the module that was started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "goal": goal,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command or _command(),
        "conditions": {**machine(), **(conditions or {})},
        "figures": dict(figures),
        "passed": passed,
        **more,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "system": platform.system(),
    }


def _command() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    arguments = " ".join(sys.argv[1:]).partition(" --out")[0]
    return f"python -m {spec.name} {arguments}".strip() if spec is not None else " ".join(sys.argv)
