r"""Real worker processes: what they prove, and what becomes of them when they do not end, are killed or left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
import uvloop

from benchmarks.answer_bombs import REFUSED, slow_pair
from benchmarks.answer_equality import measure
from benchmarks.answer_pairs import pairs
from its_proxy.equivalence import EquivalenceWorkers, Limits
from its_proxy.voting.answers import Answer, answer_of
from its_proxy.voting.tally import Ballot, majority_vote

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENT = Limits(wait_s=30)
"""A worker takes a second to start, more on a busy machine."""

pytestmark = pytest.mark.skipif(find_spec("sympy") is None, reason="its-proxy[math] is not installed")


def boxed(*written: str) -> list[Answer]:
    return [answer_of(text, "boxed") for text in written]


@pytest.fixture
async def workers() -> AsyncIterator[EquivalenceWorkers]:
    async with EquivalenceWorkers(PATIENT) as workers:
        yield workers


_NEVER_ASKED = count(2)


async def started(workers: EquivalenceWorkers) -> int:
    """The one worker's process id, once it has answered."""
    k = next(_NEVER_ASKED)
    assert await workers.compare(*boxed(rf"\sqrt{{{3 * k * k}}}", rf"{k}\sqrt{{3}}")) == "equal"
    return workers.pids[0]


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


async def ended(pid: int, within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < until:
        await asyncio.sleep(0.02)
    return not is_alive(pid)


async def test_equal_and_different_answers():
    async with EquivalenceWorkers(Limits(pair_s=10, wait_s=30)) as workers:
        for first, second, verdict in [
            (r"\sqrt{8}", r"2\sqrt{2}", "equal"),
            (r"\frac{1}{1+\sqrt2}", r"\sqrt{2}-1", "equal"),
            (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2", "equal"),
            ("x^2-1", "(x-1)(x+1)", "equal"),
            (r"\sin^2x+\cos^2x", "1", "equal"),
            (r"\sqrt[3]{-8}", "-2", "equal"),
            (r"\{\sqrt8,1\}", r"1,2\sqrt2", "equal"),
            (r"(\sqrt8,1)", r"(1,2\sqrt2)", "different"),
            (r"[\sqrt8,\infty)", r"(2\sqrt{2},\infty)", "different"),
            (r"50\%", r"\frac12", "equal"),
            (r"50\%", "50", "different"),
            (r"\sqrt{2}", "1.41421356237309504880168872420969807857", "different"),
            (r"\sqrt{x^2}", "x", "unproven"),
            (r"\frac{x}{x-x}", r"\frac{y}{x-x}", "unproven"),
            (r"\frac{1}{\ln(0)}", "0", "unproven"),
            (r"\frac{(x+1)^2-x^2-2x-1}{(x+1)^2-x^2-2x-1}", "1+x-x", "unproven"),
            (r"0^{1-1}", r"\frac{\sqrt4}{2}", "unproven"),
            (r"\frac{x^2-1}{x-1}", "x+1", "equal"),
            (r"x^{-1}", r"\frac1x", "equal"),
            ("50m", "50", "different"),
            (r"\log 100", "2", "different"),
            (r"i^2", "-1", "different"),
            (r"\text{on}", r"\text{no}", "refused"),
        ]:
            assert await workers.compare(*boxed(first, second)) == verdict, (first, second)


async def test_what_a_vote_asks_is_merged_in_it(workers):
    answers = boxed("7", r"2\sqrt{2}", r"\sqrt{8}", "7", r"\frac{4}{\sqrt2}")
    comparisons = await workers.compare_all(answers)
    ballots = [Ballot(index, answer) for index, answer in enumerate(answers)]
    assert majority_vote(ballots).winner == 0
    assert majority_vote(ballots, equivalent=comparisons.equivalent).winner == 1
    assert comparisons.counts == {"equal": 3, "different": 3}


@pytest.mark.parametrize("are_equal", [False, True])
async def test_generated_pairs(are_equal):
    """The long form, with its page: `python -m benchmarks.answer_equality`."""
    measured = await measure(pairs(2, 600, are_equal=are_equal))
    if are_equal:
        assert len(measured.merged) >= 0.9 * 600
    else:
        assert measured.merged == []


def slow(k: int) -> list[Answer]:
    return boxed(*slow_pair(k))


async def test_a_pair_that_takes_too_long_is_a_timeout_and_costs_its_worker_only(workers):
    pid = await started(workers)
    first, second = slow(0)
    assert await workers.compare(first, second) == "timeout"
    assert await ended(pid)
    second_pid = await started(workers)
    assert await workers.compare(first, second) == "timeout"
    assert workers.pids == [second_pid], "the same pair is not tried again"


async def test_bombs_reach_neither_the_loop_nor_a_child(workers):
    """200 of them, n = 8 candidates each: those that are refused, and those that only a kill ends."""
    await started(workers)
    pids, longest_s, is_over = set(workers.pids), 0.0, False

    async def watch() -> None:
        nonlocal longest_s
        while not is_over:
            begun = time.monotonic()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.monotonic() - begun)
            pids.update(workers.pids)

    watching = asyncio.create_task(watch())
    for k in range(200):
        bombs = boxed(*(f"{bomb}+{k}" for bomb in REFUSED[k % 2 :: 2]))
        pair = slow(k) if k % 100 == 0 else boxed("1", "2")
        comparisons = await workers.compare_all([*bombs, *pair])
        assert "equal" not in comparisons.counts
    pids.add(await started(workers))
    is_over = True
    await watching
    await workers.close()
    assert longest_s < 1.0, "any of them would have held the loop for minutes"
    assert len(pids) == 3, "the two slow ones were killed, and nothing else"
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_a_worker_killed_while_idle_costs_no_pair(workers):
    pid = await started(workers)
    os.kill(pid, signal.SIGKILL)
    assert await workers.compare(*boxed(r"\sqrt{18}", r"3\sqrt{2}")) == "equal"
    assert workers.pids != [pid]


async def test_a_pair_whose_worker_was_killed_is_given_to_the_next_one(workers):
    pid = await started(workers)
    os.kill(pid, signal.SIGSTOP)
    comparing = asyncio.create_task(workers.compare(*boxed(r"\sqrt{18}", r"3\sqrt{2}")))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    assert await comparing == "equal"


async def test_a_pair_that_costs_two_workers_is_left_alone():
    async with EquivalenceWorkers(Limits(pair_s=60, wait_s=60)) as workers:
        await started(workers)
        comparing = asyncio.create_task(workers.compare(*slow(0)))
        killed: list[int] = []
        while len(killed) < 2:
            await asyncio.sleep(0.02)
            if workers.pids and workers.pids[0] not in killed and workers._jobs.empty():
                killed += workers.pids
                os.kill(killed[-1], signal.SIGKILL)
        assert await comparing == "crashed"
        assert await workers.compare(*boxed(r"\sqrt{18}", r"3\sqrt{2}")) == "equal"


async def test_a_pair_that_nobody_waits_for_any_more_is_worked_on_no_longer():
    async with EquivalenceWorkers(Limits(pair_s=60, wait_s=60)) as workers:
        pid = await started(workers)
        comparing = [asyncio.create_task(workers.compare(*slow(0))) for _ in range(2)]
        await asyncio.sleep(0.1)
        comparing[0].cancel()
        await asyncio.sleep(0.1)
        assert is_alive(pid), "the other one still waits"
        comparing[1].cancel()
        assert await ended(pid)
        assert await workers.compare(*boxed(r"\sqrt{18}", r"3\sqrt{2}")) == "equal"


async def test_what_two_ask_at_once_is_proved_once():
    async with EquivalenceWorkers(Limits(max_pending=1, wait_s=60)) as workers:
        pair = boxed(r"\sqrt{18}", r"3\sqrt{2}")
        assert await asyncio.gather(*(workers.compare(*pair) for _ in range(20))) == ["equal"] * 20


async def test_more_pairs_than_may_wait_are_busy():
    async with EquivalenceWorkers(Limits(max_pending=2, wait_s=30)) as workers:
        pairs = [boxed(rf"\sqrt{{{k * k * 2}}}", rf"{k}\sqrt{{2}}") for k in range(2, 6)]
        verdicts = await asyncio.gather(*(workers.compare(*pair) for pair in pairs))
    assert sorted(verdicts) == ["busy", "busy", "equal", "equal"]


async def test_a_pair_waits_so_long_for_a_worker_and_no_longer():
    async with EquivalenceWorkers(Limits(wait_s=0.01)) as workers:
        assert await workers.compare(*boxed(r"\sqrt{8}", r"2\sqrt{2}")) == "busy"


async def test_closing_leaves_no_child():
    async with EquivalenceWorkers(Limits(n_workers=2, wait_s=30)) as workers:
        await started(workers)
        while len(workers.pids) < 2:
            await asyncio.sleep(0.01)
        pids = workers.pids
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("open_s", [0.0, 0.01, 0.1])
def test_closing_while_it_starts_leaves_no_child(run, open_s):
    async def open_and_close() -> set[str]:
        before = children()
        async with EquivalenceWorkers(PATIENT) as workers:
            comparing = asyncio.create_task(workers.compare(*boxed(r"\sqrt{8}", r"2\sqrt{2}")))
            await asyncio.sleep(open_s)
        assert await comparing == "unavailable"
        return children() - before

    assert run(open_and_close()) == set()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_closing_at_the_moment_of_a_kill_leaves_no_child(run):
    async def close_at_a_timeout() -> set[str]:
        before = children()
        async with EquivalenceWorkers(PATIENT) as workers:
            assert await workers.compare(*slow(0)) == "timeout"
        return children() - before

    assert run(close_at_a_timeout()) == set()


def children() -> set[str]:
    """Of this process, whichever thread began them."""
    found: set[str] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            found.update(file.read_text().split())
    return found


async def test_a_worker_holds_its_own_limits(workers):
    limits = Path(f"/proc/{await started(workers)}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert soft["Max address space"] == str(512 * 2**20)
    assert int(soft["Max cpu time"]) <= 60
    assert soft["Max core file size"] == "0"


def test_without_a_parent_that_kills_it_a_worker_ends_by_its_processor_time():
    """The bomb is handed to it directly, past the check that would refuse it."""
    bomb = ["pow", "", ["number", "9"], ["number", "1000000000"]]
    command = [sys.executable, "-P", str(CHECKOUT / "its_proxy/equivalence/worker.py"), str(os.getpid())]
    done = subprocess.run(command, input=json.dumps([bomb, bomb]), capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["ready"]
    assert done.returncode == -signal.SIGXCPU


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of its input ends a worker")
async def test_a_worker_dies_with_its_parent_even_at_work():
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from its_proxy.equivalence import EquivalenceWorkers, Limits
from its_proxy.voting.answers import answer_of
async def main():
    async with EquivalenceWorkers(Limits(wait_s=30)) as workers:
        await workers.compare(answer_of("x+y", "boxed"), answer_of("y+x", "boxed"))
        print(workers.pids[0], flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        os.kill(pid, signal.SIGSTOP)  # it cannot notice that its input has ended
        parent.kill()
    assert await ended(pid)


def test_without_sympy_answers_are_equal_by_form_only_and_it_says_so():
    """In a Python without any installed package."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from its_proxy.equivalence import EquivalenceWorkers
from its_proxy.voting.answers import answer_of
async def main():
    async with EquivalenceWorkers() as workers:
        print((await workers.compare_all([answer_of("x+y", "boxed")])).by_form_because)
        print(*[await workers.compare(answer_of("x+y", "boxed"), answer_of(text, "boxed"))
                for text in ("x + y", "y+x")])
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["its-proxy[math] is not installed", "equal unavailable"], done.stderr


def test_a_worker_is_given_no_secrets(tmp_path):
    """A key in our environment is not in its."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from its_proxy.equivalence import EquivalenceWorkers, Limits
from its_proxy.voting.answers import answer_of
async def main():
    async with EquivalenceWorkers(Limits(wait_s=30)) as workers:
        await workers.compare(answer_of("x+y", "boxed"), answer_of("y+x", "boxed"))
        print(open(f"/proc/{{workers.pids[0]}}/environ").read())
asyncio.run(main())
"""
    environment = os.environ | {"UPSTREAM_KEY": "sk-planted"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert "PATH=" in done.stdout
    assert "sk-planted" not in done.stdout
