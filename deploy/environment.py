"""Creates the Python environment behind `.venv`, once for all checkouts that ask for the same packages.

It lies in $ITS_CACHE (default $XDG_CACHE_HOME/its-proxy or ~/.cache/its-proxy) as `env-<digest>`; the digest
covers the pins, the ranges and the Python that runs this. A second run only checks, in well under a second.
Set TORCH_INDEX to a pip index that carries another build of torch, as https://download.pytorch.org/whl/cpu.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"its-proxy needs Python 3.11 or newer, {sys.executable} is {found}: name another, make PYTHON=python3.11")

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import time
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PROJECT = CHECKOUT / "pyproject.toml"
CONSTRAINTS = CHECKOUT / "constraints.txt"
EXTRAS = ("embedded", "train", "client")  # those that the tests and the demo need; the others stay optional


def main() -> None:
    requirements = read_requirements()
    environment = cache_folder() / f"env-{digest_of(requirements)}"
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


def cache_folder() -> Path:
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ITS_CACHE") or shared / "its-proxy").absolute()


def digest_of(requirements: list[str]) -> str:
    python = [platform.python_version(), sysconfig.get_platform(), sys.base_prefix]
    text = "\n".join([CONSTRAINTS.read_text("utf-8"), *requirements, *python])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_whole(environment: Path) -> bool:
    # `exists` follows the link: False as well once the Python it was made from has been removed.
    return (environment / "complete").exists() and (environment / "bin/python").exists()


def serves_this_checkout(environment: Path) -> bool:
    stamp = environment / "checkout"
    return stamp.exists() and stamp.read_text("utf-8") == checkout_stamp()


def checkout_stamp() -> str:
    """Where the commands import the project from, and what they were generated from."""
    return f"{CHECKOUT}\n{hashlib.sha256(PROJECT.read_bytes()).hexdigest()}\n"


@contextmanager
def lock_beside(environment: Path) -> Iterator[int]:
    """One builder at a time; the lock goes with the process that holds it, however that one ends."""
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another make that prepares the same environment")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def create(environment: Path, requirements: list[str], lock: int) -> None:
    """In place, as an environment cannot be moved; a half-built one has no `complete` and is begun anew."""
    torch = next(line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("torch=="))
    index = os.environ.get("TORCH_INDEX")
    started = time.monotonic()
    say(f"creating the environment, once, about 3 minutes, in {environment}")
    shutil.rmtree(environment, ignore_errors=True)
    try:
        venv.create(environment, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError:
        stop(f"python -m venv fails for {sys.executable} (on Debian and Ubuntu: apt install python3-venv)")
    say(f"1 of 2: {torch}" + (f" from {index}" if index else " (TORCH_INDEX=... chooses another build)"))
    # Alone and first: a range of some other package must never choose torch's build. Without the pins, as an
    # index of torch builds need not carry them; the second step brings torch's own dependencies to them.
    install(environment, lock, torch, *(["--index-url", index] if index else []))
    say(f"2 of 2: transformers, trl, aiohttp and the rest ({time.monotonic() - started:.0f} s so far)")
    install(environment, lock, "--constraint", str(CONSTRAINTS), *requirements)
    (environment / "complete").touch()
    say(f"environment complete after {time.monotonic() - started:.0f} s, {megabytes(environment)} MB")


def install_checkout(environment: Path, lock: int) -> None:
    """The commands of a shared environment run the checkout that asked last; `make` itself sets PYTHONPATH."""
    install(environment, lock, "--no-deps", "--no-build-isolation", "--editable", str(CHECKOUT))
    (environment / "checkout").write_text(checkout_stamp(), "utf-8")


def install(environment: Path, lock: int, *arguments: str) -> None:
    """Runs pip quietly; its words go to a log beside the environment, and to the user only when it fails."""
    log = environment.with_suffix(".log")
    # -I: no PYTHONPATH and no user site, so pip sees this environment and nothing else.
    pip = [str(environment / "bin/python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command = [*pip, "install", "--quiet", *arguments]
    with log.open("w") as output:
        # pip inherits the lock: while it still runs, nobody removes the folder it writes to.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock])
    if done.returncode != 0:
        errors = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR:")]
        reason = errors[0].removeprefix("ERROR: ") if errors else f"pip ended with code {done.returncode}"
        stop(f"{reason} (check network and disk, then run make again; pip's own words: {log})")


def link_venv(environment: Path) -> None:
    link = CHECKOUT / ".venv"
    if link.is_symlink() and link.readlink() == environment:
        return
    if link.exists() and not link.is_symlink():
        stop(f"{link} is a folder, but should be a link to {environment}: move it away")
    fresh = CHECKOUT / f".venv.{os.getpid()}"
    fresh.symlink_to(environment)
    fresh.replace(link)


def megabytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*")) // 1_000_000


def say(line: str) -> None:
    print(f"its-proxy: {line}", flush=True)


def stop(line: str) -> None:
    sys.exit(f"its-proxy: {line}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nits-proxy: interrupted; the next make begins the environment anew")
    except OSError as error:
        stop(f"the environment cannot be prepared: {error}")
