"""The programs that `make check-deploy` has at hand, and what is rendered with them."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "deploy"
BIN = Path(os.environ.get("ITS_CHECK", "")) / "bin"
KUBERNETES_VERSION = "1.37"
NAMES = ("single", "ensemble", "canary")
SETTINGS = tuple(f"{by}/{name}" for by in ("kustomize", "helm") for name in NAMES)
CHART = DEPLOY / "helm/its-proxy"


def tool(name: str, *arguments: object, cwd: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / name), *map(str, arguments)]
    # No home, so that nothing of whoever runs this is read: no kubeconfig, no repositories of helm.
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def passed(name: str, *arguments: object, cwd: Path = DEPLOY) -> str:
    """What it wrote; the tool's own words are the failure."""
    done = tool(name, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cache
def rendered(setting: str) -> str:
    """What `kubectl apply -k` or `helm install` would send."""
    by, name = setting.split("/")
    if by == "kustomize":
        return passed("kubectl", "kustomize", f"kubernetes/overlays/{name}")
    return passed("helm", "template", "its-proxy", CHART, *values_of(name))


def values_of(name: str) -> list[str]:
    """As an operator gives them: a file of values, and a bundle for each checkpoint."""
    files = sorted((DEPLOY / "kubernetes/base/manifests").glob("*.json"))
    bundles = [f"manifests.{file.stem}\\.json={file}" for file in files]
    return [
        "--values",
        str(CHART / f"settings/{name}.yaml"),
        *(word for one in bundles for word in ("--set-file", one)),
    ]


def objects(setting: str, *kinds: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(rendered(setting)) if one and (not kinds or one["kind"] in kinds)]


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()
