"""Whether the time that a key is examined for tells anything about the keys that are right.

python -m benchmarks.reliability.key_timing [--samples 100000]

Two kinds of keys in a random order, and Welch's t of their times, without the slowest tenth (that is the machine, not
the key). |t| above 4.5 would tell them apart.
"""

import json
import secrets
import string
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import sqrt
from pathlib import Path
from random import Random
from statistics import mean, variance
from typing import Any

import click

from benchmarks.reliability.results import FOLDER, save
from its_proxy.codesign.errors import Unauthenticated
from its_proxy.server.auth import Doorkeeper
from its_proxy.settings import KeySettings

GOAL = "|t| below 4.5 in 100,000 samples: keys that are nearly right take as long as guesses."
LETTERS = string.ascii_letters + string.digits + "-_"
MAX_T, N_KEYS = 4.5, 16
KEYS = [secrets.token_urlsafe(32) for _ in range(N_KEYS)]


def near_miss(random: Random) -> str:
    """One of the keys, but for its last character."""
    return random.choice(KEYS)[:-1] + "."  # none of theirs: a right one would be let in, which takes less time


def half_right(random: Random) -> str:
    return random.choice(KEYS)[:20] + guess(random)[20:-1] + "."


def all_wrong(random: Random) -> str:
    return random.choice(KEYS)[:0] + guess(random)[:-1] + "."


def guess(random: Random) -> str:
    return "".join(random.choices(LETTERS, k=len(KEYS[0])))


PAIRS = {"near misses, against guesses": (near_miss, all_wrong), "half a key, against guesses": (half_right, all_wrong)}


Kinds = tuple[Callable[[Random], str], Callable[[Random], str]]


def welch_t(one: Sequence[float], other: Sequence[float]) -> float:
    return (mean(one) - mean(other)) / sqrt(variance(one) / len(one) + variance(other) / len(other))


def times_of(doorkeeper: Doorkeeper, kinds: Kinds, n: int, random: Random) -> tuple[list[int], list[int]]:
    """Nanoseconds of each kind, without the slowest tenth. Every key is another, so that only its kind can tell."""
    presented = [(kind, f"Bearer {kinds[kind](random)}") for kind in random.choices((0, 1), k=n)]
    times: tuple[list[int], list[int]] = ([], [])
    for kind, header in presented:
        began = time.perf_counter_ns()
        with suppress(Unauthenticated):
            doorkeeper.admit(header)
        times[kind].append(time.perf_counter_ns() - began)
    cut = sorted(times[0] + times[1])[int(0.9 * n)]
    return [t for t in times[0] if t < cut], [t for t in times[1] if t < cut]


def measure(n: int) -> dict[str, float]:
    settings = [KeySettings(name=f"key {number}", env=f"KEY_{number}") for number in range(N_KEYS)]
    environ = {f"KEY_{number}": key for number, key in enumerate(KEYS)}
    doorkeeper = Doorkeeper(settings, environ, allow_force=False)
    random = Random(7)
    return {name: round(welch_t(*times_of(doorkeeper, kinds, n, random)), 2) for name, kinds in PAIRS.items()}


@click.command(help=__doc__)
@click.option("--samples", default=100_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=False)
def main(samples: int, out: Path) -> None:
    figures: dict[str, Any] = {f"t, {name}": t for name, t in measure(samples).items()}
    is_passed = all(abs(t) < MAX_T for t in figures.values())
    path = save("key_timing", figures, is_passed, {"samples": samples, "keys": N_KEYS}, goal=GOAL, folder=out)
    print(json.dumps(figures, indent=1), path)


if __name__ == "__main__":
    main()
