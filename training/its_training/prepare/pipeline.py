"""Runs a data set through its steps: filters, duplicates, decontamination, length, sample, rewriting.

Two passes over the source keep memory small: the first remembers of each row its id and query, the second writes the
rows that were taken, in their rank order, to every arm at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from its_proxy.codesign.canonical import digest
from its_proxy.codesign.errors import ConfigError
from its_training.prepare.arms import Arm, PersonaSource
from its_training.prepare.decontaminate import Evaluation
from its_training.prepare.duplicates import exact_duplicates, near_duplicates
from its_training.prepare.filters import Filter
from its_training.prepare.layouts import Choices, Layout, Record, check_fields, read_record
from its_training.prepare.sample import rank
from its_training.prepare.source import Source
from its_training.prepare.tokens import TokenCounter
from its_training.prepare.write import Writer, Written
from its_training.progress import Advance, Stages


@dataclass(frozen=True, slots=True)
class Request:
    """What to prepare. `n_rows` None takes all; `counter` None counts no tokens."""

    source: Source
    layout: Layout
    choices: Choices
    filters: Sequence[Filter]
    evaluation: Evaluation
    arms: Sequence[Arm]
    personas: PersonaSource
    seed: int
    n_rows: int | None = None
    drops_near_duplicates: bool = True
    counter: TokenCounter | None = None
    refuses_over_long: bool = False
    source_system: str | None = None
    """The source's system prompt, where the arms take it over: every row must have this one."""

    @property
    def writer(self) -> Writer:
        return Writer(
            self.arms,
            {"dataset": self.layout.dataset or self.source.name, "license": self.layout.license,
             "revision": self.source.revision},
            self.choices.think,
            self.counter,
            is_decontaminated=bool(self.evaluation.benchmarks),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Light:
    """What is remembered of a row between the passes."""

    id: str
    query: str
    row: int
    rank: bytes
    """The id's; where a query stands twice the completion decides, so that the order of rows never does."""


@dataclass
class Ledger:
    """What every step kept and dropped; a dropped row's line says why."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def note(self, step: str, n_kept: int, n_dropped: int, says: str = "") -> None:
        """Raises ConfigError where nothing is left: an empty data set is never written."""
        self.steps.append({"name": step, "kept": n_kept, "dropped": n_dropped, **({"says": says} if says else {})})
        if n_kept == 0:
            counts = ", ".join(f"{one['name']} kept {one['kept']}" for one in self.steps)
            raise ConfigError(f"no rows are left after {step!r}", hint=counts)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was done: the ledger, the arms' files, and the digest of the ids that they share."""

    ledger: Ledger
    files: dict[str, Written]
    ids_sha256: str


def run(request: Request, folder: Path, stages: Stages) -> Prepared:
    """Fills `folder` with the arms. Raises ConfigError."""
    ledger = Ledger()
    with stages.show("read and filter") as advance:
        rows = _filtered(request, ledger, advance)
    rows.sort(key=lambda row: row.rank)
    rows = _without_exact(rows, ledger)
    _check_ids(rows)
    if request.evaluation.benchmarks:
        with stages.show("decontaminate") as advance:
            rows = _decontaminated(rows, request.evaluation, ledger, advance)
    if request.drops_near_duplicates:
        with stages.show("near duplicates") as advance:
            rows = _without_near(rows, ledger, advance)
    if request.n_rows is not None:
        _check_enough(len(rows), request.n_rows, ledger)
        ledger.note("sample", request.n_rows, len(rows) - request.n_rows, f"lowest hash ranks of seed {request.seed}")
        rows = rows[: request.n_rows]
    with stages.show(f"write {len(request.arms)} arms") as advance:
        files = _written(request, rows, folder, advance)
    return Prepared(ledger, files, digest([row.id for row in rows]))


def _records(request: Request) -> Iterator[Record]:
    for number, row in enumerate(request.source.rows(), start=1):
        if number == 1:
            check_fields(request.layout, row)
        record = read_record(request.layout, row, number, request.choices)
        if request.source_system is not None and record.system != request.source_system:
            hint = "a checkpoint is served with one: --system-prompt none, or a text of yours"
            raise ConfigError(f"row {number} has another system prompt than row 1", hint=hint)
        yield record


def _filtered(request: Request, ledger: Ledger, advance: Advance) -> list[Light]:
    """The rows that pass every filter and are not over-long."""
    kept: list[Light] = []
    n_read, counts = 0, [0] * (len(request.filters) + 1)
    for record in _records(request):
        n_read += 1
        completion = record.completion(request.choices.think)
        failed = next((n for n, one in enumerate(request.filters) if not one.predicate(record, completion)), None)
        if failed is not None:
            counts[failed] += 1
            ledger.dropped.append({"id": record.id, "row": record.row, "step": request.filters[failed].name})
        elif (n_tokens := _over_long(request, record, completion)) is not None:
            counts[-1] += 1
            line = {"id": record.id, "row": record.row, "step": "over-long", "tokens": n_tokens}
            ledger.dropped.append(line)
        else:
            place = rank(request.seed, record.id) + rank(request.seed, completion)
            kept.append(Light(record.id, record.query, record.row, place))
        if n_read % 200 == 0:
            advance(n_read, max(n_read, 2 * n_read))  # the source does not say how long it is
    if n_read == 0:
        raise ConfigError(f"{request.source.name} holds no rows")
    _note_filters(request, ledger, n_read, counts)
    return kept


def _note_filters(request: Request, ledger: Ledger, n_read: int, counts: Sequence[int]) -> None:
    ledger.note("read", n_read, 0, f"layout {request.layout.name}")
    n_left = n_read
    for one, n_dropped in zip(request.filters, counts, strict=False):
        n_left -= n_dropped
        ledger.note(one.name, n_left, n_dropped, one.keeps)
    if request.counter is not None:
        says = f"at most {request.counter.max_length} tokens in the longest arm, by {request.counter.name}"
        ledger.note("over-long", n_left - counts[-1], counts[-1], says)


def _over_long(request: Request, record: Record, completion: str) -> int | None:
    """The tokens of the longest arm's row, if they are too many. Raises ConfigError where over-long is refused."""
    counter = request.counter
    if counter is None or request.writer.is_surely_short(record, completion, counter.max_length):
        return None
    longest = max(sum(request.writer.count(one, record, completion)) for one in request.arms)
    if longest <= counter.max_length:
        return None
    if request.refuses_over_long:
        hint = f"at most {counter.max_length}; --over-long drop leaves such rows out"
        raise ConfigError(f"row {record.row} has {longest} tokens", hint=hint)
    return longest


def _written(request: Request, rows: Sequence[Light], folder: Path, advance: Advance) -> dict[str, Written]:
    places = {row.row: place for place, row in enumerate(rows)}
    chosen = ((places[record.row], record) for record in _records(request) if record.row in places)
    return request.writer.write(chosen, len(rows), folder, advance)


def _without_exact(rows: Sequence[Light], ledger: Ledger) -> list[Light]:
    found: dict[int, str] = {}
    places = {str(place): place for place in range(len(rows))}
    for name, kept in exact_duplicates([(str(place), row.query) for place, row in enumerate(rows)]):
        found[places[name]] = rows[places[kept]].id
    for place, other in found.items():
        ledger.dropped.append({"id": rows[place].id, "row": rows[place].row, "step": "duplicates", "of": other})
    left = [row for place, row in enumerate(rows) if place not in found]
    ledger.note("duplicates", len(left), len(found), "equal words and signs")
    return left


def _check_ids(rows: Sequence[Light]) -> None:
    """Ids of one's own may repeat; arms are matched by them."""
    first: dict[str, int] = {}
    for row in rows:
        other = first.setdefault(row.id, row.row)
        if other != row.row:
            low, high = sorted((other, row.row))
            hint = "--map id=FIELD needs a field that differs; without it ids follow from the query"
            raise ConfigError(f"rows {low} and {high} are two queries of one id, {row.id!r}", hint=hint)


def _decontaminated(rows: Sequence[Light], evaluation: Evaluation, ledger: Ledger, advance: Advance) -> list[Light]:
    left: list[Light] = []
    for n_done, row in enumerate(rows, start=1):
        hit = evaluation.hit(row.query)
        if hit is None:
            left.append(row)
        else:
            found = {"how": hit.how, "benchmark": hit.benchmark, "question": hit.question, "text": hit.text}
            ledger.dropped.append({"id": row.id, "row": row.row, "step": "decontamination", **found})
        advance(n_done, len(rows))
    says = "against " + ", ".join(f"{name} ({n} questions)" for name, n in evaluation.benchmarks.items())
    ledger.note("decontamination", len(left), len(rows) - len(left), says)
    return left


def _without_near(rows: Sequence[Light], ledger: Ledger, advance: Advance) -> list[Light]:
    queries = [(row.id, row.query) for row in rows]
    found = {
        name: (other, similarity)
        for name, other, similarity in near_duplicates(queries, lambda n_done: advance(n_done, len(rows)))
    }
    for row in rows:
        if row.id in found:
            other, similarity = found[row.id]
            line = {"of": other, "similarity": round(similarity, 3)}
            ledger.dropped.append({"id": row.id, "row": row.row, "step": "near-duplicates", **line})
    left = [row for row in rows if row.id not in found]
    ledger.note(
        "near-duplicates", len(left), len(rows) - len(left), "MinHash of 5-grams of words and signs, similarity 0.8"
    )
    return left


def _check_enough(n_left: int, n_rows: int, ledger: Ledger) -> None:
    if n_left < n_rows:
        counts = ", ".join(f"{one['name']} kept {one['kept']}" for one in ledger.steps)
        raise ConfigError(f"{n_rows} rows are asked for, {n_left} are left", hint=counts)
