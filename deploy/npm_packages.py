"""Installs what a folder's package-lock.json names, by `npm ci`, outside of the checkout: node_modules is never in it.

    python deploy/npm_packages.py tests/real_litellm

Ends with code 0 and, on stdout, the folder that holds node_modules; or with code 69 and why there can be none here.
"""

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from cache import cache_folder, lock_beside, stop

FILES = ("package.json", "package-lock.json")
INSTALL = ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
# npm's words for a registry that cannot be asked or does not have it.
OUT_OF_REACH = ("E404", "ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN")


def provide(folder: Path) -> Path:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            unavailable(f"{program} is not installed")
    digest = sha256(b"\0".join((folder / name).read_bytes() for name in FILES)).hexdigest()[:12]
    installed = cache_folder() / f"npm-{digest}"
    with lock_beside(installed):
        if not (installed / "complete").exists():
            install(folder, installed)
    return installed


def install(folder: Path, installed: Path) -> None:
    shutil.rmtree(installed, ignore_errors=True)
    installed.mkdir()
    for name in FILES:
        shutil.copy(folder / name, installed)
    done = subprocess.run(INSTALL, cwd=installed, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), f"code {done.returncode}")
        if any(mark in done.stderr for mark in OUT_OF_REACH):
            unavailable(f"npm ci: {reason}")
        stop(f"npm ci fails: {reason}")
    (installed / "complete").touch()


def unavailable(reason: str) -> NoReturn:
    print(reason)
    sys.exit(os.EX_UNAVAILABLE)


if __name__ == "__main__":
    print(provide(Path(sys.argv[1])))
