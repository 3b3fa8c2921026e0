"""Named filters: a predicate a name, and a count after each; those of length take a number, `max-chars=20000`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import ge, le

from its_proxy.codesign.errors import ConfigError
from its_training.prepare.layouts import Record

Predicate = Callable[[Record, str], bool]
"""Whether a record with this completion is kept."""


@dataclass(frozen=True, slots=True)
class Filter:
    name: str
    keeps: str
    predicate: Predicate


FILTERS: dict[str, Filter] = {
    one.name: one
    for one in (
        Filter("final-answer", 'the completion holds "final answer", in any letter case',
               lambda record, completion: "final answer" in completion.lower()),
        Filter("final-answer-exact", 'the completion holds "final answer", in lower case',
               lambda record, completion: "final answer" in completion),
        Filter("boxed", "the completion holds `boxed{`", lambda record, completion: "boxed{" in completion),
        Filter("math", 'the source calls the domain "math"', lambda record, completion: record.domain == "math"),
        Filter("has-answer", "an answer is known", lambda record, completion: record.answer is not None),
    )
}  # fmt: skip

LENGTHS: dict[str, tuple[str, Callable[[int, int], bool]]] = {
    "min-chars": ("at least", ge),
    "max-chars": ("at most", le),
}
"""Filters of the completion's length, each with a bound: a name, `=`, and how many characters."""

PRESETS = {"ot15k": ("final-answer", "boxed")}
"""ot15k: as reviews of the paper describe its set; whether letter case counts there is not published."""


def filters_named(names: Sequence[str]) -> list[Filter]:
    """Filters and presets by name, each once, in the order given. Raises ConfigError."""
    expanded = [each for name in names for each in PRESETS.get(name, (name,))]
    return [FILTERS.get(name) or _of_length(name) for name in dict.fromkeys(expanded)]


def _of_length(name: str) -> Filter:
    kind, _, bound = name.partition("=")
    if kind not in LENGTHS or not (bound.isascii() and bound.isdigit()):
        known = ", ".join([*FILTERS, *PRESETS, *(f"{length}=N" for length in LENGTHS)])
        raise ConfigError(f"unknown filter {name!r}", hint=f"known: {known}")
    says, holds = LENGTHS[kind]
    n_chars = int(bound)
    return Filter(name, f"the completion has {says} {n_chars:,} characters",
                  lambda record, completion: holds(len(completion), n_chars))  # fmt: skip
