"""Writes down what was measured: JSON files, which docs/performance.md is made from, and under what conditions."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import its_proxy
from benchmarks.speed.peers import environment_of, version_in
from benchmarks.speed.targets import Unavailable

FOLDER = Path(__file__).parents[2] / "docs/results/performance"
_PACKAGES = {"litellm": ("litellm", "litellm"), "its_hub": ("its-hub", "its_hub"), "optillm": ("optillm", "optillm")}
Result = Mapping[str, Any]


def save(folder: Path, name: str, command: str, conditions: Result, figures: Any, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"name": name, "date": datetime.now(UTC).date().isoformat(), "command": command,
                "conditions": conditions, **more, "figures": figures}  # fmt: skip
    text = json.dumps(document, indent=1)
    # A list of numbers is one line.
    text = re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    (folder / f"{name}.json").write_text(text + "\n")


def read_results(folder: Path = FOLDER) -> dict[str, Result]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def conditions(targets: Iterable[str]) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load average before": round(os.getloadavg()[0], 2),
        "versions": _versions(targets),
    }


def _versions(targets: Iterable[str]) -> dict[str, str]:
    found = {"its-proxy": its_proxy.__version__, "uvloop": version("uvloop"), "httptools": version("httptools")}
    for name in targets:
        if name == "nginx" and (program := shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")):
            said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
            found["nginx"] = said.strip().rpartition("/")[2]
        elif name in _PACKAGES:
            found |= _versions_in(*_PACKAGES[name])
        elif name == "plain":
            found |= _versions_in("plain", "starlette", "httpx", "uvicorn")
    return found


def _versions_in(peer: str, *packages: str) -> dict[str, str]:
    try:
        environment = environment_of(peer)
    except Unavailable:
        return {}
    return {package: version_in(environment, package) for package in packages}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
