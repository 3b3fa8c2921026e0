"""Keeps Python environments outside the checkout: each is built once, under a lock, by whoever asks first.

They lie in $ITS_CACHE (default $XDG_CACHE_HOME/its-proxy or ~/.cache/its-proxy) as NAME-<digest>, beside their
lock and pip's last words. The file `complete` inside is written last: without it an environment is begun anew.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
# What pip's log holds when a package could not be fetched, rather than was fetched and found wanting.
OUT_OF_REACH = ("No matching distribution", "connection broken", "Max retries", "timed out")


class CannotInstall(Exception):
    """pip's own reason in one line; `is_out_of_reach`: the indexes could not be asked, or do not have it."""

    def __init__(self, reason: str, *, is_out_of_reach: bool) -> None:
        super().__init__(reason)
        self.is_out_of_reach = is_out_of_reach


def cache_folder() -> Path:
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ITS_CACHE") or shared / "its-proxy").absolute()


def environment_named(name: str, *asked_for: str) -> Path:
    """Where the environment for these packages and the Python that runs this lies, or shall lie."""
    python = [platform.python_version(), sysconfig.get_platform(), sys.base_prefix]
    digest = hashlib.sha256("\n".join([*asked_for, *python]).encode()).hexdigest()[:12]
    return cache_folder() / f"{name}-{digest}"


def is_whole(environment: Path) -> bool:
    # `exists` follows the link: False as well once the Python it was made from has been removed.
    return (environment / "complete").exists() and (environment / "bin/python").exists()


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


@contextmanager
def building(environment: Path, what: str) -> Iterator[float]:
    """An empty environment to install into, complete at the end of the block; yields when it was begun.

    In place, as an environment cannot be moved; a half-built one is removed first.
    """
    started = time.monotonic()
    say(f"creating {what}, in {environment}")
    shutil.rmtree(environment, ignore_errors=True)
    try:
        venv.create(environment, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError:
        stop(f"python -m venv fails for {sys.executable} (on Debian and Ubuntu: apt install python3-venv)")
    yield started
    (environment / "complete").touch()
    say(f"environment complete after {time.monotonic() - started:.0f} s, {megabytes(environment)} MB")


def install(environment: Path, lock: int, *arguments: str) -> None:
    """Runs pip quietly; its words go to a log beside the environment, and into CannotInstall when it fails."""
    log = environment.with_suffix(".log")
    # -I: no PYTHONPATH and no user site, so pip sees this environment and nothing else.
    pip = [str(environment / "bin/python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command = [*pip, "install", "--quiet", *arguments]
    with log.open("w") as output:
        # pip inherits the lock: while it still runs, nobody removes the folder it writes to.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock])
    if done.returncode != 0:
        said = log.read_text("utf-8", "replace")
        errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
        reason = errors[0].removeprefix("ERROR: ") if errors else f"pip ended with code {done.returncode}"
        raise CannotInstall(
            f"{reason} (check network and disk, then run make again; pip's own words: {log})",
            is_out_of_reach=any(mark in said for mark in OUT_OF_REACH),
        )


def megabytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*")) // 1_000_000


def say(line: str) -> None:
    print(f"its-proxy: {line}", flush=True)


def stop(line: str) -> NoReturn:
    sys.exit(f"its-proxy: {line}")
