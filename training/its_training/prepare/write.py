"""Writes the rows of every arm in one order, whatever the order they come in, with little memory."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from its_training.prepare.arms import Arm
from its_training.prepare.layouts import Record, Think
from its_training.prepare.tokens import TokenCounter
from its_training.progress import Advance

FRAME_BYTES = 256
"""More than any chat template writes around a prompt and a reply."""


@dataclass(slots=True)
class Written:
    """An arm's file: its digest, its rows, and its tokens where they were counted."""

    path: Path
    sha256: str = ""
    n_rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    longest: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """How a record becomes a row of each arm. `source` stands in every row, but for what is None there."""

    arms: Sequence[Arm]
    source: Mapping[str, Any]
    think: Think
    counter: TokenCounter | None = None
    is_decontaminated: bool = False

    def row(self, arm: Arm, record: Record, completion: str) -> dict[str, Any]:
        source = {key: value for key, value in self.source.items() if value is not None}
        return arm.row(record, completion, {**source, "row": record.row})

    def count(self, arm: Arm, record: Record, completion: str) -> tuple[int, int]:
        assert self.counter is not None
        return self.counter.count(self.row(arm, record, completion)["messages"])

    def is_surely_short(self, record: Record, completion: str, max_length: int) -> bool:
        """Whether not even a token a byte could be too long: spares most rows the counting."""
        n_persona = max(arm.longest_addition for arm in self.arms)
        n_text = sum(len(text.encode("utf-8", "surrogatepass")) for text in (record.query, completion))
        return n_text + n_persona + FRAME_BYTES <= max_length

    def write(
        self, chosen: Iterable[tuple[int, Record]], n_rows: int, folder: Path, advance: Advance
    ) -> dict[str, Written]:
        """`chosen` are (place in the files, record), in any order; each arm's file is written from first to last."""
        (folder / "arms").mkdir(exist_ok=True)
        written = {arm.name: Written(folder / "arms" / f"{arm.name}.jsonl") for arm in self.arms}
        with ExitStack() as opened:
            spool = opened.enter_context(TemporaryFile(dir=folder))
            spans = _spooled(spool, chosen)
            files = {name: opened.enter_context(one.path.open("wb")) for name, one in written.items()}
            digests = {name: sha256() for name in written}
            for place in range(n_rows):
                record = _read_back(spool, *spans[place])
                for arm in self.arms:
                    line = self._line(arm, record, written[arm.name])
                    files[arm.name].write(line)
                    digests[arm.name].update(line)
                advance(place + 1, n_rows)
        for name, one in written.items():
            one.sha256 = digests[name].hexdigest()
        return written

    def _line(self, arm: Arm, record: Record, written: Written) -> bytes:
        row = self.row(arm, record, record.completion(self.think))
        row["tokens"] = None
        if self.counter is not None:
            n_prompt, n_completion = self.counter.count(row["messages"])
            row["tokens"] = {"prompt": n_prompt, "completion": n_completion}
            written.prompt_tokens += n_prompt
            written.completion_tokens += n_completion
            written.longest = max(written.longest, n_prompt + n_completion)
        row["flags"] = {"decontaminated": self.is_decontaminated, "answer_verified": None}
        written.n_rows += 1
        return (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _spooled(spool: IO[bytes], chosen: Iterable[tuple[int, Record]]) -> dict[int, tuple[int, int]]:
    """Where each place's record lies in the spool."""
    spans = {}
    for place, record in chosen:
        data = json.dumps(asdict(record)).encode()
        spans[place] = spool.tell(), len(data)
        spool.write(data)
    return spans


def _read_back(spool: IO[bytes], start: int, size: int) -> Record:
    spool.seek(start)
    return Record(**json.loads(spool.read(size)))
