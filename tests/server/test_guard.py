"""The guard, as the process that it is: how it ends a command, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest

import its_proxy.server.guard
from its_proxy.server.guard import Process, _by_proc, _by_ps, descendants
from tests.processes import marked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# Says that it is there, and then sleeps; with SIGTERM ignored, as a hung server.
SLEEPER = "trap '{trap}' TERM; echo up; while :; do sleep 0.05; done"
STUBBORN = SLEEPER.format(trap="")


@contextmanager
def guard(script, grace_s=0.5):
    """A guard over `sh -c script`; all that the script begins carries one variable of the environment."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-I", "-S", its_proxy.server.guard.__file__, str(grace_s), "/bin/sh", "-c", script]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"MARK": mark}, start_new_session=True
    )
    process.mark = mark
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def until_up(process, n=1):
    for _ in range(n):
        assert process.stdout.readline() == b"up\n"


def test_it_exits_as_the_command_did():
    with guard("exit 3") as process:
        assert process.wait(5) == 3


def test_a_command_killed_by_a_signal_tells_which():
    with guard("kill -9 $$") as process:
        assert process.wait(5) == 128 + signal.SIGKILL


def test_a_command_that_cannot_be_run_is_told():
    command = [sys.executable, "-I", "-S", its_proxy.server.guard.__file__, "1", "/nowhere/vllm"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (127, "/nowhere/vllm cannot be run: No such file or directory\n")


@pytest.mark.parametrize("word", [b"e", b""], ids=["asked to", "left alone"])
def test_the_command_is_ended_in_order(word):
    with guard(SLEEPER.format(trap="exit 5")) as process:
        until_up(process)
        process.stdin.write(word)
        process.stdin.flush()
        if not word:
            process.stdin.close()
        assert process.wait(5) == 5
        assert marked(process.mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_command_in_order(number):
    with guard(SLEEPER.format(trap="exit 5")) as process:
        until_up(process)
        process.send_signal(number)
        assert process.wait(5) == 5


def test_a_stubborn_command_is_killed_after_the_grace():
    with guard(STUBBORN, grace_s=0.2) as process:
        until_up(process)
        process.stdin.close()
        assert process.wait(10) == 128 + signal.SIGKILL
        assert marked(process.mark) == []


def test_a_command_in_a_hurry_gets_no_grace():
    with guard(STUBBORN, grace_s=1000) as process:
        until_up(process)
        process.stdin.write(b"k")
        process.stdin.flush()
        assert process.wait(5) == 128 + signal.SIGKILL
        assert marked(process.mark) == []


def test_hurry_shortens_a_grace_that_has_begun():
    with guard(STUBBORN, grace_s=1000) as process:
        until_up(process)
        for word in (b"e", b"k"):
            process.stdin.write(word)
            process.stdin.flush()
            sleep(0.1)
        assert process.wait(5) == 128 + signal.SIGKILL


@pytest.mark.parametrize("ending", ["exit 4", "kill -9 $$"])
def test_what_outlives_the_command_is_ended_wherever_it_hides(ending):
    """In its group, in a session of its own, or an orphan twice removed; deaf to SIGTERM or not."""
    children = f"""
        (trap '' TERM; echo up; sleep 1000) & (echo up; sleep 1000) &
        setsid sh -c "trap '' TERM; echo up; sleep 1000" & sh -c 'setsid sh -c "echo up; sleep 1000" & exit 0'
        read line < {{fifo}}; {ending}"""
    with guard_with_fifo(children) as (process, let_go):
        until_up(process, 4)
        let_go()
        process.wait(20)
        assert marked(process.mark) == []


@contextmanager
def guard_with_fifo(script):
    """A command that reads a line of a named pipe before it ends."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        fifo = Path(folder, "fifo")
        os.mkfifo(fifo)
        with guard(script.format(fifo=fifo)) as process:
            yield process, lambda: fifo.write_text("go\n")


def test_a_killed_commands_shared_memory_is_removed():
    """Python's resource tracker does that, once all others are gone: it must not be killed among them."""
    script = (
        "from multiprocessing import shared_memory; import time\n"
        "print(shared_memory.SharedMemory(create=True, size=4096).name, flush=True); time.sleep(1000)"
    )
    with guard(f"exec {sys.executable} -c '{script}'", grace_s=1000) as process:
        memory = Path("/dev/shm", process.stdout.readline().decode().strip())
        assert memory.exists()
        process.stdin.write(b"k")
        process.stdin.flush()
        assert process.wait(10) == 128 + signal.SIGKILL
        assert not memory.exists()


def test_without_proc_the_same_processes_are_found():
    """By `ps`, as on macOS."""
    child = subprocess.Popen(["sleep", "1000"])
    try:
        found = [{one.pid: one for one in find()} for find in (_by_proc, _by_ps)]
        assert [known[child.pid][:3] for known in found] == [(child.pid, os.getpid(), os.getpgrp())] * 2
        assert ["sleep 1000" in known[child.pid].command for known in found] == [True, True]
        assert all(child.pid in {one.pid for one in descendants(known.values())} for known in found)
    finally:
        child.kill()
        child.wait()
        assert child.pid not in {one.pid for one in _by_ps()}


def test_a_process_that_left_its_group_is_found_by_its_parents_and_an_orphan_by_its_group():
    me, far = os.getpid(), 10**9
    child, grandchild = Process(far, me, far, ""), Process(far + 1, far, far + 1, "")
    orphan, its_child = Process(far + 2, 1, me, ""), Process(far + 3, far + 2, me, "")
    stranger = Process(far + 4, 1, 1, "")
    myself = Process(me, 1, me, "")
    found = descendants([grandchild, its_child, stranger, myself, orphan, child])
    assert sorted(found) == [child, grandchild, orphan, its_child]


def test_a_starter_killed_by_sigkill_leaves_nothing_behind():
    script = (
        "import subprocess, sys, time\n"
        "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
        "print('started', flush=True)\n"
        "time.sleep(1000)\n"
    )
    mark = uuid.uuid4().hex
    watched = [sys.executable, "-I", "-S", its_proxy.server.guard.__file__, "1", "sleep", "1000"]
    starter = subprocess.Popen(
        [sys.executable, "-c", script, *watched], env=os.environ | {"MARK": mark}, stdout=subprocess.PIPE
    )
    assert starter.stdout.readline() == b"started\n"
    until = monotonic() + 10
    while len(marked(mark)) < 3 and monotonic() < until:  # starter, guard, command
        sleep(0.01)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    while marked(mark) and monotonic() < until:
        sleep(0.01)
    assert marked(mark) == []
