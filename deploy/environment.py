"""Creates the Python environment behind `.venv`, once for all checkouts that ask for the same packages.

It lies where cache.py says, as `env-<digest>`; the digest covers the pins, the ranges and the Python that runs
this. A second run only checks, in well under a second.
Set TORCH_INDEX to a pip index that carries another build of torch, as https://download.pytorch.org/whl/cpu.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"its-proxy needs Python 3.11 or newer, {sys.executable} is {found}: name another, make PYTHON=python3.11")

import hashlib
import os
import time
import tomllib
from pathlib import Path

from cache import CHECKOUT, CannotInstall, building, environment_named, install, is_whole, lock_beside, say, stop

PROJECT = CHECKOUT / "pyproject.toml"
CONSTRAINTS = CHECKOUT / "constraints.txt"
# Those that the tests and the demo need; the others stay optional.
EXTRAS = ("embedded", "train", "client", "math", "otel")


def main() -> None:
    requirements = read_requirements()
    environment = environment_named("env", CONSTRAINTS.read_text("utf-8"), *requirements)
    if not (is_whole(environment) and serves_this_checkout(environment)):
        with lock_beside(environment) as lock:
            if not is_whole(environment):
                create(environment, requirements, lock)
            if not serves_this_checkout(environment):
                install_checkout(environment, lock)
    link_venv(environment)


def read_requirements() -> list[str]:
    """What the environment holds besides torch: base, EXTRAS, the dev group and the build backend."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    groups = [project["project"]["dependencies"], project["dependency-groups"]["dev"]]
    groups += [project["build-system"]["requires"], *(extras[name] for name in EXTRAS)]
    return sorted({item for group in groups for item in group if not item.startswith("its-proxy[")})


def serves_this_checkout(environment: Path) -> bool:
    stamp = environment / "checkout"
    return stamp.exists() and stamp.read_text("utf-8") == checkout_stamp()


def checkout_stamp() -> str:
    """Where the commands import the project from, and what they were generated from."""
    return f"{CHECKOUT}\n{hashlib.sha256(PROJECT.read_bytes()).hexdigest()}\n"


def create(environment: Path, requirements: list[str], lock: int) -> None:
    torch = next(line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("torch=="))
    index = os.environ.get("TORCH_INDEX")
    with building(environment, "the environment, once, about 3 minutes") as started:
        say(f"1 of 2: {torch}" + (f" from {index}" if index else " (TORCH_INDEX=... chooses another build)"))
        # Alone and first: a range of some other package must never choose torch's build. Without the pins, as an
        # index of torch builds need not carry them; the second step brings torch's own dependencies to them.
        install(environment, lock, torch, *(["--index-url", index] if index else []))
        say(f"2 of 2: transformers, trl, aiohttp and the rest ({time.monotonic() - started:.0f} s so far)")
        install(environment, lock, "--constraint", str(CONSTRAINTS), *requirements)


def install_checkout(environment: Path, lock: int) -> None:
    """The commands of a shared environment run the checkout that asked last; `make` itself sets PYTHONPATH."""
    install(environment, lock, "--no-deps", "--no-build-isolation", "--editable", str(CHECKOUT))
    (environment / "checkout").write_text(checkout_stamp(), "utf-8")


def link_venv(environment: Path) -> None:
    link = CHECKOUT / ".venv"
    if link.is_symlink() and link.readlink() == environment:
        return
    if link.exists() and not link.is_symlink():
        stop(f"{link} is a folder, but should be a link to {environment}: move it away")
    fresh = CHECKOUT / f".venv.{os.getpid()}"
    fresh.symlink_to(environment)
    fresh.replace(link)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nits-proxy: interrupted; the next make begins the environment anew")
    except CannotInstall as error:
        stop(str(error))
    except OSError as error:
        stop(f"the environment cannot be prepared: {error}")
