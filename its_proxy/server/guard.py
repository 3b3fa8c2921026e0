"""Runs one command, and leaves none of its processes behind: not when it ends, nor when whoever asked for it dies.

    python guard.py GRACE_S COMMAND [ARGUMENT ...]

A program of its own, run as a script: who is killed by SIGKILL cannot tidy up, and vLLM's engine cores outlive an
API server that was killed. Its standard input is the leash: `e` or end-of-file ends the command in order (SIGTERM to
its first process, then to what is left, SIGKILL after the grace), `k` at once. SIGTERM, SIGINT and SIGHUP do as `e`.
It exits as the command did, 128 + N where signal N killed it, 127 where it cannot be run.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

LEFTOVERS_S = 2.0  # for what outlived the command's first process, to end by itself
UNKILLABLE_S = 10.0  # a process that hangs in a driver does not even die of SIGKILL
_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_RUN = 127


class Guard:
    """One command under watch; `is_ending` and `is_hurried` only ever become true."""

    def __init__(self, command: list[str], grace_s: float) -> None:
        self._grace_s = grace_s
        self._leash: int | None = sys.stdin.fileno()
        self._alarm = _open_alarm()
        self.is_ending = False
        self.is_hurried = False
        self._code: int | None = None
        # With nothing to read, and a broken pipe as deadly as from a shell.
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        self._first = os.posix_spawnp(
            command[0], command, os.environ, file_actions=[nothing], setsigdef=[signal.SIGPIPE]
        )

    def run(self) -> int:
        """Until the command and everything that it started have ended; its exit code."""
        self._wait(None, lambda: self._code is not None or self.is_ending)
        if self._code is None and not self.is_hurried:
            # To the first alone: vLLM ends its workers in order, and complains if they die before it.
            _send(self._first, signal.SIGTERM)
            self._wait(self._grace_s, lambda: self._code is not None or self.is_hurried)
        if not self.is_hurried:
            self._signal_all(signal.SIGTERM)
            self._wait(LEFTOVERS_S, lambda: self._is_alone() or self.is_hurried)
        self._kill()
        self._reap()
        if left := descendants():
            print("could not be killed:", *(process.pid for process in left), file=sys.stderr)
        return self._code if self._code is not None else 128 + signal.SIGKILL

    def _kill(self) -> None:
        """Until nobody is left; Python's resource trackers last: they remove the others' shared memory, then leave."""
        began = time.monotonic()
        while not self._is_alone() and (passed_s := time.monotonic() - began) < UNKILLABLE_S:
            self._signal_all(signal.SIGKILL, besides="" if passed_s > 1.0 else "multiprocessing.resource_tracker")
            self._wait(0.2, self._is_alone)

    def _wait(self, seconds: float | None, is_over: Callable[[], bool]) -> None:
        """Reads the leash and the signals, and takes the dead, until `is_over` or the time has passed."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            self._reap()
            if is_over() or (until is not None and time.monotonic() >= until):
                return
            watched = [self._alarm] if self._leash is None else [self._alarm, self._leash]
            # Nobody tells us when a process ends that is not our own child, so whoever waits for those looks again.
            readable, _, _ = select.select(watched, [], [], None if until is None else 0.05)
            self._read(readable)

    def _read(self, readable: list[int]) -> None:
        if self._alarm in readable:
            numbers = os.read(self._alarm, 4096)
            self.is_ending |= any(number != signal.SIGCHLD for number in numbers)
        if self._leash in readable and self._leash is not None:
            words = os.read(self._leash, 64)
            self.is_ending = True
            self.is_hurried |= b"k" in words
            if not words:
                self._leash = None

    def _reap(self) -> None:
        """Takes the exit status of every child that has ended: orphans of the command are children of ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._first:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code

    def _is_alone(self) -> bool:
        return not descendants()

    def _signal_all(self, number: int, besides: str = "") -> None:
        for process in descendants():
            if not (besides and besides in process.command):
                _send(process.pid, number)


class Process(NamedTuple):
    """One living process; `command` is its command line."""

    pid: int
    parent: int
    group: int
    command: str


def descendants(processes: Iterable[Process] | None = None) -> list[Process]:
    """Every living process that this one began, whatever group or session it has moved to."""
    me = os.getpid()
    others = [one for one in (living() if processes is None else processes) if one.pid != me]
    # Elsewhere than on Linux orphans are not our children: those that stayed in the group that we lead are found there.
    found = [one for one in others if me in (one.parent, one.group)]
    known = {one.pid for one in found}
    for one in found:
        children = [other for other in others if other.parent == one.pid and other.pid not in known]
        known |= {child.pid for child in children}
        found += children
    return found


def living() -> Iterator[Process]:
    """All processes of this machine but zombies."""
    return _by_proc() if os.path.exists("/proc/self/stat") else _by_ps()


def _by_proc() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent, group = file.read().rpartition(")")[2].split()[:3]
                with open(f"/proc/{name}/cmdline", errors="replace") as file:
                    command = file.read().replace("\0", " ")
            except OSError:
                continue  # it has ended meanwhile
            if state not in "ZX":
                yield Process(int(name), int(parent), int(group), command)


def _by_ps() -> Iterator[Process]:
    import subprocess

    columns = ["-o", "stat=", "-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "args="]
    lister = subprocess.Popen(["ps", "-A", *columns], stdout=subprocess.PIPE, text=True, errors="replace")
    for line in lister.communicate()[0].splitlines():
        state, pid, parent, group, *command = line.split(maxsplit=4)
        if state[0] not in "ZX" and int(pid) != lister.pid:
            yield Process(int(pid), int(parent), int(group), "".join(command))


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _open_alarm() -> int:
    """A descriptor that reads one byte, its number, for every signal."""
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    return reader


def main(arguments: list[str]) -> int:
    # A terminal signals its foreground group only. No session of its own: the scheduler would treat that as one unit,
    # and vLLM, which spins between tokens, would keep its clients on a small machine from the cores.
    with suppress(PermissionError):  # it leads a session already
        os.setpgid(0, 0)
    if sys.platform == "linux":
        # Orphans become our children, not init's, so none can hide.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        guard = Guard(arguments[1:], float(arguments[0]))
    except OSError as error:
        print(f"{arguments[1]} cannot be run: {error.strerror}", file=sys.stderr)
        return _CANNOT_RUN
    return guard.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
