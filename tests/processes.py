"""Finds the processes that a test began, whoever their parent is now: by a variable that they all inherit."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path


def marked(mark: str, name: str = "MARK") -> list[int]:
    """Process ids of the living whose environment holds NAME=MARK; this process's own is never among them."""
    wanted = f"{name}={mark}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return [pid for pid in pids if pid != os.getpid()]


def of_groups(groups: Collection[int]) -> list[int]:
    """Process ids of the living in these process groups; vLLM's cores write their names over their environment."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX" and int(group) in groups:
                pids.append(int(stat.parent.name))
    return pids


def command_line(pid: int) -> list[str]:
    """What `ps` shows of it to everyone."""
    return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode().split("\0")[:-1]
