"""The candidates file: a JSON object a line and an item, with every candidate that it was asked for.

    rows = read_candidates(Path("candidates.jsonl"))
    rows[0].vote().answer, rows[0].share_right

So every number can be computed again, and another stop rule can be tried on the very same candidates.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.errors import ConfigError
from its_proxy.equivalence.comparisons import OFF, Comparisons
from its_proxy.voting.answers import Answer, AnswerKind, answer_of, read_answer
from its_proxy.voting.tally import Ballot, Vote, majority_vote

VALID_FINISHES = ("stop", "tool_calls")


class Item(BaseModel):
    """A question and its right answer, as short text; without one it is unlabelled."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    id: str
    query: str
    gold: str | None = None


class CandidateRow(BaseModel):
    """One candidate as the server reported it; `completion_tokens` are those it generated.

    Seconds count from the start of the query: `first_token_s` is known of a streamed candidate, and none of them
    of a file that an older its-proxy wrote.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    index: int
    seed: int | None = None
    member: str | None = None
    weight: int = 1
    text: str | None
    answer: str | None
    finish_reason: str | None
    completion_tokens: int | None
    answer_kind: AnswerKind = "boxed"
    started_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None

    @property
    def is_valid(self) -> bool:
        return self.finish_reason in VALID_FINISHES

    @property
    def read(self) -> Answer | None:
        if self.answer is None or not self.is_valid:
            return None
        return _answer(self.answer, self.answer_kind)


@lru_cache(maxsize=1 << 14)
def _answer(written: str, kind: AnswerKind) -> Answer:
    return answer_of(written, kind)


class Row(Item):
    """An item with its candidates. `strategy` is how it was asked, `asked` what was sent to have it so.

    `pair_id` is that of the model's manifest, null for an ensemble; `date` when it was asked.
    """

    model: str
    strategy: str | None
    pair_id: str | None = None
    date: str | None = None
    forced: bool = False
    temperature: float | None = None
    asked: dict[str, Any] = Field(default_factory=dict)
    candidates: tuple[CandidateRow, ...]
    greedy: CandidateRow | None = None
    # Computed and never written down: `compared.py` fills it.
    _comparisons: Comparisons = PrivateAttr(OFF)

    @property
    def comparisons(self) -> Comparisons:
        return self._comparisons

    def with_comparisons(self, comparisons: Comparisons) -> "Row":
        """The same row, whose answers are compared by more than their forms."""
        row = self.model_copy()
        row._comparisons = comparisons
        return row

    @property
    def answers(self) -> list[Answer]:
        """All that may have to be compared, the gold one first."""
        asked = self.candidates if self.greedy is None else (self.greedy, *self.candidates)
        read = [answer for candidate in asked if (answer := candidate.read) is not None]
        return read if self.gold is None else [self._gold(self.gold), *read]

    def _gold(self, gold: str) -> Answer:
        return _answer(gold, self.candidates[0].answer_kind)

    def is_right(self, answer: Answer | None) -> bool:
        """Whether the answer is the gold one; without a gold answer none is."""
        if answer is None or self.gold is None:
            return False
        return self.comparisons.are_equal(answer, self._gold(self.gold))

    @property
    def share_right(self) -> float:
        return sum(self.is_right(candidate.read) for candidate in self.candidates) / len(self.candidates)

    def vote(self, candidates: Sequence[CandidateRow] | None = None, min_agreement: float | None = None) -> Vote:
        """The vote over all candidates, or over those given."""
        ballots, abstained = cast(self.candidates if candidates is None else candidates)
        return majority_vote(ballots, abstained, min_agreement, self.comparisons.equivalent)


def cast(candidates: Sequence[CandidateRow]) -> tuple[list[Ballot], int]:
    """The ballots, and the weight of valid candidates that abstain."""
    read = [(candidate, candidate.read) for candidate in candidates]
    ballots = [Ballot(candidate.index, answer, candidate.weight) for candidate, answer in read if answer is not None]
    return ballots, sum(candidate.weight for candidate, answer in read if answer is None and candidate.is_valid)


def read_items(path: Path) -> list[Item]:
    """Labelled items of a JSONL file, each as `item_of` reads it. Raises ConfigError naming the line."""
    items: dict[str, Item] = {}
    for number, line in json_lines(path):
        try:
            item = item_of(strict_json(line))
            if item.gold is None:
                raise ValueError("no gold answer")
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise ConfigError(f"{path}:{number}: not an item", hint="query and gold are needed") from error
        if item.id in items:
            raise ConfigError(f"{path}:{number}: the id {item.id} stands twice in this file")
        items[item.id] = item
    return list(items.values())


def item_of(row: Mapping[str, Any]) -> Item:
    """`query`, `question` or `problem`; `gold` or `answer` (GSM8K's `#### N` too), or neither: then it is unlabelled.

    An item without an id is named by the digest of its query. Raises ValueError and other errors of a strange row.
    """
    query = row[next(key for key in ("query", "question", "problem") if key in row)]
    gold = row.get("gold", row.get("answer"))
    gold = None if gold is None else str(gold)
    if gold and "####" in gold and (marked := read_answer(gold, "number")) is not None:
        gold = marked.text
    name = next((row[key] for key in ("id", "unique_id") if row.get(key) is not None), None)
    return Item(id=digest(query) if name is None else str(name), query=query, gold=gold)


def read_candidates(path: Path) -> list[Row]:
    """The rows of a candidates file; a last line that was cut off in the writing is left out.

    Raises ConfigError naming the line.
    """
    rows: dict[str, Row] = {}
    lines = json_lines(path)
    for number, line in lines:
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            if number == lines[-1][0] and not path.read_bytes().endswith(b"\n"):
                break
            first = error.errors(include_url=False)[0]
            raise ConfigError(f"{path}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if row.id in rows or not row.candidates:
            raise ConfigError(f"{path}:{number}: the item {row.id} stands twice, or has no candidates")
        rows[row.id] = row
    return list(rows.values())


def json_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines that hold anything, with their numbers. Raises ConfigError."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    # Not splitlines: a JSON string may hold a U+2028 that is no end of a line.
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
