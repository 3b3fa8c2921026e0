"""The files of the usual benchmarks, each read as the items it holds: AIME 2024 and 2025, MATH-500, GPQA, GSM8K.

    >>> benchmark = read_benchmark(Path("gsm8k-test.jsonl"))
    >>> benchmark.layout.name, len(benchmark.items)
    ('gsm8k', 1319)

A layout is told by its fields; what fits none is read as plain items, labelled or not. A file is JSONL, a JSON
array or CSV. Its text is the benchmark's own and stays where it lies.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from its_proxy.candidates import Item, digest, item_of, json_lines
from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import ConfigError
from its_proxy.voting.answers import AnswerKind, read_answer

Record: TypeAlias = Mapping[str, Any]
GPQA_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
MAX_FIELDS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """How one benchmark's rows are read; `title` is what it is called where its numbers stand.

    `read` takes a row and the seed of its choices; `is_like` judges a row and the file's name. `n_items`: how many
    the whole benchmark has. `answer`: how its answers are to be read, None where the model's manifest says.
    """

    name: str
    title: str
    needs: str
    read: Callable[[Record, int], Item]
    is_like: Callable[[Record, str], bool]
    n_items: int | None = None
    answer: AnswerKind | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The items of one file; `remarks` say what a reader of its numbers should know."""

    layout: Layout
    items: tuple[Item, ...]
    file: str
    sha256: str
    remarks: tuple[str, ...] = ()

    @property
    def is_labelled(self) -> bool:
        return all(item.gold is not None for item in self.items)

    def first(self, limit: int | None) -> "Benchmark":
        """Only the first items, which is remarked on."""
        if limit is None or limit >= len(self.items):
            return self
        remark = f"only the first {limit} of {len(self.items)} items"
        return replace(self, items=self.items[:limit], remarks=(*self.remarks, remark))

    def with_text(self, after: str) -> "Benchmark":
        """Every query followed by a text, such as how to write the answer."""
        items = [item.model_copy(update={"query": f"{item.query}\n\n{after}"}) for item in self.items]
        return replace(self, items=tuple(items))


def read_benchmark(path: Path, layout: str = "auto", choice_seed: int = 0) -> Benchmark:
    """Reads a file. Raises ConfigError: no such layout, a row that is not in it, an id that stands twice, no items."""
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"no layout {layout!r}", hint=f"known: auto, {', '.join(LAYOUTS)}")
    records = list(_records(path))
    if not records:
        raise ConfigError(f"{path} holds no items")
    chosen = LAYOUTS[layout] if layout != "auto" else _layout_of(records[0][1], path.stem)
    items: dict[str, Item] = {}
    for where, record in records:
        item = _read(chosen, record, choice_seed, f"{path}:{where}")
        if item.id in items:
            raise ConfigError(f"{path}:{where}: the id {item.id} stands twice in this file")
        items[item.id] = item
    return Benchmark(
        chosen, tuple(items.values()), path.name, sha256(path.read_bytes()).hexdigest(), tuple(_remarks(chosen, items))
    )


def _remarks(layout: Layout, items: Mapping[str, Item]) -> Iterator[str]:
    if layout.n_items not in (None, len(items)):
        yield f"{layout.title} has {layout.n_items} items, this file {len(items)}"
    n_unlabelled = sum(item.gold is None for item in items.values())
    if 0 < n_unlabelled < len(items):
        yield f"{n_unlabelled} of {len(items)} items have no gold answer, so all are taken as unlabelled"


def _layout_of(record: Any, file_name: str) -> Layout:
    if not isinstance(record, Mapping):
        return LAYOUTS["items"]
    return next(layout for layout in LAYOUTS.values() if layout.is_like(record, file_name.lower()))


def _read(layout: Layout, record: Any, choice_seed: int, where: str) -> Item:
    try:
        return layout.read(record, choice_seed)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        fields = list(record)[:MAX_FIELDS_SHOWN] if isinstance(record, Mapping) else []
        found = f"its fields are {', '.join(map(str, fields))}" if fields else "it is no object with fields"
        raise ConfigError(
            f"{where}: not in the layout {layout.name}: {found}", hint=f"needed: {layout.needs}"
        ) from None


# --- files -----------------------------------------------------------------------------------


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with the number of their line, or of their place in a JSON array. Raises ConfigError."""
    match path.suffix.lower():
        case ".csv":
            # `utf-8-sig`: spreadsheets write a byte order mark.
            reader = csv.DictReader(io.StringIO(_text(path).removeprefix("\ufeff"), newline=""), strict=True)
            try:
                yield from ((reader.line_num, record) for record in reader)
            except csv.Error as error:
                raise ConfigError(f"{path}:{reader.line_num}: not CSV: {error}") from None
        case ".json":
            rows = _value(_text(path).encode(), str(path))
            if not isinstance(rows, list):
                raise ConfigError(f"{path} is no JSON array", hint="JSONL files are called .jsonl")
            yield from enumerate(rows, start=1)
        case _:
            yield from ((number, _value(line, f"{path}:{number}")) for number, line in json_lines(path))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None


def _value(written: bytes, where: str) -> Any:
    try:
        return strict_json(written)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


# --- layouts ---------------------------------------------------------------------------------


def _aime(record: Record, seed: int) -> Item:
    query = _first(record, "problem", "question", "Problem")
    gold = str(_first(record, "answer", "Answer"))
    if not gold.isdecimal() or not 0 <= int(gold) <= 999:
        raise ValueError("an answer of AIME is an integer from 0 to 999")
    return _item(_known(record, "id", "ID"), query, gold)


def _math500(record: Record, seed: int) -> Item:
    return _item(_known(record, "unique_id", "id"), record["problem"], str(record["answer"]))


def _gsm8k(record: Record, seed: int) -> Item:
    marked = read_answer(record["answer"], "number") if "####" in record["answer"] else None
    if marked is None:
        raise ValueError("an answer of GSM8K ends in #### and a number")
    return _item(_known(record, "id"), record["question"], marked.text)


def _gpqa(record: Record, seed: int) -> Item:
    """The right choice is the first in the file, so they are shuffled: by seed and question, alike in every run."""
    question = record["Question"].strip()
    name = str(_known(record, "Record ID", "id") or digest(question))
    order = Random(f"{seed}:{name}").sample(range(len(GPQA_CHOICES)), len(GPQA_CHOICES))
    choices = [f"({letter}) {record[GPQA_CHOICES[place]].strip()}" for letter, place in zip("ABCD", order, strict=True)]
    query = "\n".join([question, "", *choices, "", "Answer with the letter of the right choice."])
    return _item(name, query, "ABCD"[order.index(0)])


def _item(name: Any, query: Any, gold: str) -> Item:
    if not isinstance(query, str):
        raise ValueError("a query is a text")
    return Item(id=digest(query) if name is None else str(name), query=query, gold=gold)


def _first(record: Record, *fields: str) -> Any:
    return record[next(field for field in fields if field in record)]


def _known(record: Record, *fields: str) -> Any:
    return next((record[field] for field in fields if record.get(field) is not None), None)


def _is_aime_of(year: int) -> Callable[[Record, str], bool]:
    spelled = re.compile(rf"20{year}|aime[-_ ]?{year}")

    def is_like(record: Record, file_name: str) -> bool:
        said = " ".join([file_name, *(str(record.get(field, "")).lower() for field in ("url", "id", "ID"))])
        return "aime" in said and spelled.search(said) is not None and _reads(_aime, record)

    return is_like


def _is_math500(record: Record, file_name: str) -> bool:
    return {"problem", "answer", "subject", "level"} <= record.keys()


def _is_gsm8k(record: Record, file_name: str) -> bool:
    return "question" in record and "####" in str(record.get("answer"))


def _is_gpqa(record: Record, file_name: str) -> bool:
    return {"Question", *GPQA_CHOICES} <= record.keys()


def _reads(read: Callable[[Record, int], Item], record: Record) -> bool:
    try:
        read(record, 0)
    except (ValueError, KeyError, TypeError, StopIteration):
        return False
    return True


_AIME_NEEDS = "problem (or question) and answer, an integer from 0 to 999"
LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("aime24", "AIME 2024", _AIME_NEEDS, _aime, _is_aime_of(24), 30),
        Layout("aime25", "AIME 2025", _AIME_NEEDS, _aime, _is_aime_of(25), 30),
        Layout("math500", "MATH-500", "problem and answer", _math500, _is_math500, 500),
        Layout("gpqa", "GPQA diamond", f"Question, {', '.join(GPQA_CHOICES)}", _gpqa, _is_gpqa, 198, "letter"),
        Layout("gsm8k", "GSM8K test", "question and answer, which ends in #### and a number", _gsm8k, _is_gsm8k, 1319),
        Layout(
            "items",
            "plain items",
            "query (or question, problem), and gold (or answer) where there is one",
            lambda record, seed: item_of(record),
            lambda record, file_name: True,
        ),
    )
}
