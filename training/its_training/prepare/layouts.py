r"""What the rows of known data sets mean: each layout turns a row into a Record.

    >>> layout = LAYOUTS["gsm8k"]
    >>> layout.read({"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}, Choices()).solution
    '1+1=2\n\\boxed{2}'

A record's thoughts and its solution are kept apart, so that how they are written down is one choice for all layouts.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal, TypeAlias

from its_proxy.codesign.errors import ConfigError
from its_proxy.voting.answers import read_answer
from its_training.prepare.source import Row

Think: TypeAlias = Literal["tags", "keep", "strip"]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a builder must choose and record; nothing of it is published for the paper.

    `think`: `tags` writes thoughts in <think> tags, `keep` as the source does, `strip` leaves them out. `marks` keeps
    GSM8K's calculator marks and its `#### N` as they are.
    """

    think: Think = "tags"
    marks: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A query with its completion, before any arm. `id` follows from the query alone; `row` counts from 1.

    `domain` is the source's own label, if it has one.
    """

    id: str
    query: str
    solution: str
    thoughts: str | None = None
    answer: str | None = None
    system: str | None = None
    domain: str | None = None
    row: int = 0
    verbatim: str | None = None
    """Thoughts and solution as the source writes them together."""

    def completion(self, think: Think) -> str:
        """The assistant's text."""
        if think == "keep" and self.verbatim is not None:
            return self.verbatim
        if self.thoughts is None or think == "strip":
            return self.solution
        return f"<think>\n{self.thoughts}\n</think>\n\n{self.solution}"


@dataclass(frozen=True, slots=True)
class Layout:
    """`fields` are those that a row must have; `license` is what its publisher states."""

    name: str
    dataset: str
    license: str
    fields: frozenset[str]
    read: Callable[[Row, Choices], Record]


def record_id(prefix: str, query: str) -> str:
    return f"{prefix}:{sha256(query.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


_THOUGHT = re.compile(r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>", re.DOTALL)
_SOLUTION = re.compile(r"<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>|\Z)", re.DOTALL)
_CALCULATION = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"\n?####\s*(.+?)\s*\Z")


def _openthoughts(row: Row, choices: Choices) -> Record:
    turns = {turn["from"]: turn["value"] for turn in row["conversations"]}
    query, text = _text(turns["user"]), _text(turns["assistant"])
    thought, solution = _THOUGHT.search(text), _SOLUTION.search(text)
    return Record(
        id=record_id("ot114k", query),
        query=query,
        solution=(solution[1] if solution else text).strip(),
        thoughts=thought[1].strip() if thought else None,
        system=row["system"] or None,
        verbatim=text,
    )


def _openthoughts_metadata(row: Row, choices: Choices) -> Record:
    thoughts, solution = _text(row["deepseek_reasoning"]).strip(), _text(row["deepseek_solution"]).strip()
    query = _text(row["problem"])
    tagged = (
        f"<|begin_of_thought|>\n\n{thoughts}\n\n<|end_of_thought|>\n\n"
        f"<|begin_of_solution|>\n\n{solution}\n\n<|end_of_solution|>"
    )
    answer = read_answer(row.get("ground_truth_solution") or "", "boxed")
    return Record(
        id=record_id("ot114k", query),
        query=query,
        solution=solution,
        thoughts=thoughts,
        answer=answer.text if answer is not None else None,
        domain=row.get("domain"),
        verbatim=tagged,
    )


def _limo(row: Row, choices: Choices) -> Record:
    query = _text(row["question"])
    return Record(record_id("limo", query), query, _text(row["solution"]).strip(), answer=str(row["answer"]))


def _s1k(row: Row, choices: Choices) -> Record:
    """s1K-1.1 holds DeepSeek's thoughts, s1K a list of Gemini's."""
    query = _text(row["question"])
    if "deepseek_thinking_trajectory" in row:
        thoughts, attempt = row["deepseek_thinking_trajectory"], row["deepseek_attempt"]
    else:
        thoughts, attempt = "\n".join(row["thinking_trajectories"]), row["attempt"]
    answer = read_answer(_text(attempt), "boxed")
    return Record(
        id=record_id("s1k", query),
        query=query,
        solution=_text(attempt).strip(),
        thoughts=_text(thoughts).strip(),
        answer=answer.text if answer is not None else None,
    )


def _gsm8k(row: Row, choices: Choices) -> Record:
    query, text = _text(row["question"]), _text(row["answer"]).strip()
    final = _FINAL.search(text)
    if final is None:
        raise ValueError("its answer does not end in #### and a number")
    answer = final[1].replace(",", "")
    plain = _CALCULATION.sub("", text[: final.start()]).strip() + f"\n\\boxed{{{answer}}}"
    return Record(record_id("gsm8k", query), query, text if choices.marks else plain, answer=answer)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text is empty, or no text")
    return value


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("openthoughts", "open-thoughts/OpenThoughts-114k", "apache-2.0",
               frozenset({"system", "conversations"}), _openthoughts),
        Layout("openthoughts-metadata", "open-thoughts/OpenThoughts-114k", "apache-2.0",
               frozenset({"problem", "deepseek_reasoning", "deepseek_solution"}), _openthoughts_metadata),
        Layout("s1k-1.1", "simplescaling/s1K-1.1", "apache-2.0",
               frozenset({"question", "deepseek_thinking_trajectory", "deepseek_attempt"}), _s1k),
        Layout("s1k", "simplescaling/s1K", "apache-2.0",
               frozenset({"question", "thinking_trajectories", "attempt"}), _s1k),
        Layout("limo", "GAIR/LIMO", "apache-2.0", frozenset({"question", "solution", "answer"}), _limo),
        Layout("gsm8k", "openai/gsm8k", "mit", frozenset({"question", "answer"}), _gsm8k),
    )
}  # fmt: skip
"""In the order in which a row's fields are tried: the more telling first."""


def mapped(fields: Mapping[str, str]) -> Layout:
    """A layout of one's own: `query` and `completion`; where there are such, `answer`, `thoughts`, `system`, `id`."""
    known = ("query", "completion", "answer", "thoughts", "system", "domain", "id")
    for name in fields:
        if name not in known:
            raise ConfigError(f"--map: unknown name {name!r}", hint=f"known: {', '.join(known)}")
    if not {"query", "completion"} <= fields.keys():
        raise ConfigError("--map: query and completion are needed", hint="--map query=FIELD,completion=FIELD")

    def read(row: Row, choices: Choices) -> Record:
        def optional(name: str) -> str | None:
            value = row.get(fields[name]) if name in fields else None
            return str(value) if value is not None and value != "" else None

        query = _text(row[fields["query"]])
        identity = optional("id") or record_id("row", query)
        return Record(identity, query, _text(row[fields["completion"]]), optional("thoughts"), optional("answer"),
                      optional("system"), optional("domain"))  # fmt: skip

    return Layout("mapped", "", "unknown", frozenset(fields.values()), read)


def layout_of(name: str, first: Row) -> Layout:
    """The named layout, or for `auto` the one that the first row's fields tell. Raises ConfigError with the fields."""
    if name == "auto":
        for layout in LAYOUTS.values():
            if layout.fields <= first.keys():
                return layout
        hint = f"fields found: {_listed(first)}; name a layout ({', '.join(LAYOUTS)}) or --map"
        raise ConfigError("no known layout has such rows", hint=hint)
    if name not in LAYOUTS:
        raise ConfigError(f"unknown layout {name!r}", hint=f"known: auto, {', '.join(LAYOUTS)}")
    check_fields(LAYOUTS[name], first)
    return LAYOUTS[name]


def check_fields(layout: Layout, first: Row) -> None:
    if missing := sorted(layout.fields - first.keys()):
        hint = f"missing: {', '.join(missing)}; fields found: {_listed(first)}"
        raise ConfigError(f"the rows are not of layout {layout.name!r}", hint=hint)


def _listed(fields: Iterable[str]) -> str:
    names = list(map(str, fields))
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _check_unicode(record: Record) -> None:
    """JSON can spell half of a surrogate pair, which no file and no tokenizer can hold."""
    texts = (record.id, record.query, record.solution, record.thoughts, record.answer, record.system, record.verbatim)
    try:
        "".join(text for text in texts if text is not None).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a text holds {error.object[error.start]!r}, half a character") from None


def read_record(layout: Layout, row: Row, number: int, choices: Choices) -> Record:
    """Raises ConfigError naming the row: a layout that is only mostly right loses rows in silence."""
    try:
        record = replace(layout.read(row, choices), row=number)
        _check_unicode(record)
        return record
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        hint = f"it has {_listed(row)}"
        raise ConfigError(f"row {number} is not of layout {layout.name!r}: {what}", hint=hint) from None
