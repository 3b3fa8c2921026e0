"""Generated word problems of two or three steps, split so that no held-out problem is ever trained on.

    >>> problem = draw(1, "test")[0]
    >>> problem.query, problem.answer
    ('A librarian ... How many ... are there now?', '41')

A problem's split follows from a hash of its key (setting, item, numbers and operations, not its
wording), so a rephrased copy of a held-out problem is held out too, whatever the seed and the count.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeAlias, get_args

Split: TypeAlias = Literal["pretrain", "sft", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

SEED = 7
MAX_START, MAX_CHANGE, MAX_FACTOR, MAX_VALUE = 60, 39, 4, 99
"""Bounds of the numbers in a problem: every intermediate value stays within 0..MAX_VALUE, two digits."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The people and things of one taxonomy domain; `gain` and `lose` are third-person verbs."""

    domain: str
    actor: str
    items: tuple[str, ...]
    gain: str
    lose: str
    place: str


# The nouns are keywords of the taxonomy, so that the classifier of personas sees the domain of each problem.
SETTINGS = (
    Setting("cooking", "chef", ("eggs", "onions", "cakes"), "brings in", "uses up", "kitchen"),
    Setting("team sports", "coach", ("balls", "jerseys", "medals"), "collects", "hands out", "stadium"),
    Setting("gardening", "gardener", ("roses", "tulips", "plums"), "picks", "gives away", "garden"),
    Setting("banking", "bank clerk", ("coins", "bills", "bonds"), "receives", "pays out", "bank"),
    Setting("school", "teacher", ("pencils", "desks", "books"), "orders", "lends", "school"),
    Setting("sailing", "captain", ("ropes", "crates", "maps"), "loads", "unloads", "harbour"),
    Setting("music", "singer", ("songs", "drums", "guitars"), "gets", "passes on", "theatre"),
    Setting("farming", "farmer", ("cows", "hens", "goats"), "raises", "trades", "barn"),
    Setting("fishing", "fisherman", ("trout", "salmon", "nets"), "brings home", "drops", "lake"),
    Setting("crafts", "tailor", ("buttons", "shirts", "scarfs"), "finishes", "sends out", "craft room"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem; `solution` is one line per step, then the boxed answer."""

    id: str
    domain: str
    query: str
    solution: str
    answer: str
    split: Split


def draw(n: int, split: Split, seed: int = SEED) -> tuple[Problem, ...]:
    """The first `n` distinct problems of `split` in the endless sequence that `seed` names; ValueError for no split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")  # it would never end
    found: list[Problem] = []
    if n > 0:
        for problem in _of_split(split, seed):
            found.append(problem)
            if len(found) == n:
                break
    return tuple(found)


def held_out(n: int, split: Split = "test") -> tuple[Problem, ...]:
    """`n` problems that no demo checkpoint was trained on; `split` is `test` or `validation`."""
    if split not in ("test", "validation"):
        raise ValueError(f"split {split!r} is trained on; held out are 'test' and 'validation'")
    return draw(n, split)


def split_of(key: str) -> Split:
    """Which split a problem key belongs to: 88% pretrain, 4% sft, 3% validation, 5% test."""
    bucket = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    if bucket < 88:
        return "pretrain"
    if bucket < 92:
        return "sft"
    return "validation" if bucket < 95 else "test"


def drill(chance: random.Random) -> str:
    """Ten true sums of the kind that solutions are made of, a line each."""
    lines: list[str] = []
    while len(lines) < 10:
        lines += _lines(_draw_steps(chance))
    return "\n".join(lines[:10])


def _of_split(split: Split, seed: int) -> Iterator[Problem]:
    digest = blake2b(f"word-problems/1|{seed}".encode(), digest_size=8).digest()
    chance = random.Random(int.from_bytes(digest, "big"))
    keys: set[str] = set()
    while True:
        setting = chance.choice(SETTINGS)
        item = chance.choice(setting.items)
        steps = _draw_steps(chance)
        # Wording is drawn for every problem, kept or not: each split sees the same sequence of chances.
        query = _word(setting, item, steps, chance)
        key = f"{setting.domain}|{item}|{steps}"
        if split_of(key) == split and key not in keys:
            keys.add(key)
            yield _problem(setting.domain, query, steps, split)


Steps: TypeAlias = tuple[int, tuple[tuple[str, int], ...]]
"""The starting number, then (operation, operand) of every step."""


def _draw_steps(chance: random.Random) -> Steps:
    while True:
        start = chance.randint(2, MAX_START)
        changes = []
        for _ in range(chance.randint(2, 3)):
            operation = chance.choice("+-*")
            changes.append((operation, chance.randint(2, MAX_FACTOR if operation == "*" else MAX_CHANGE)))
        steps = (start, tuple(changes))
        if all(0 <= value <= MAX_VALUE for value in _values(steps)):
            return steps


def _values(steps: Steps) -> list[int]:
    """The number after each step."""
    value, changes = steps
    values = []
    for operation, operand in changes:
        value = value + operand if operation == "+" else value - operand if operation == "-" else value * operand
        values.append(value)
    return values


def _word(setting: Setting, item: str, steps: Steps, chance: random.Random) -> str:
    start, changes = steps
    article = "An" if setting.actor[0] in "aeiou" else "A"
    where = f" at the {setting.place}" if chance.random() < 0.5 else ""
    sentences = [f"{article} {setting.actor} {chance.choice(('has', 'keeps'))} {start} {item}{where}."]
    for operation, operand in changes:
        when = chance.choice(("Then", "Later", "After that"))
        sentences.append(
            f"{when} the {setting.actor} {setting.gain} {operand} more."
            if operation == "+"
            else f"{when} the {setting.actor} {setting.lose} {operand} of them."
            if operation == "-"
            else f"{when} there are {operand} times as many."
        )
    sentences.append(chance.choice((f"How many {item} are there now?", f"How many {item} are left in the end?")))
    return " ".join(sentences)


def _lines(steps: Steps) -> list[str]:
    """Every step written as a sum with its result."""
    start, changes = steps
    values = _values(steps)
    befores = [start, *values[:-1]]
    return [f"{before}{sign}{operand}={after}"
            for before, (sign, operand), after in zip(befores, changes, values, strict=True)]  # fmt: skip


def _problem(domain: str, query: str, steps: Steps, split: Split) -> Problem:
    value = _values(steps)[-1]
    solution = "\n".join([*_lines(steps), f"\\boxed{{{value}}}"])
    identity = blake2b(query.encode(), digest_size=8).hexdigest()
    return Problem(f"wp:{identity}", domain, query, solution, str(value), split)
