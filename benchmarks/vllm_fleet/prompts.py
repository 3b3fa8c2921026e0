"""What the servers were asked, by their own logs: for which checkpoint was each prompt rewritten?"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.vllm_fleet.clients import REQUEST, Reply
from benchmarks.vllm_fleet.servers import DEMO, Start, pair_id
from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.codesign.strategies import rewrite

Kind: TypeAlias = Literal["own", "other", "unknown"]
"""A prompt as the server's own checkpoint has it rewritten, as another one has it, or as none does."""

# vLLM's line for one candidate, and the user's turn within its prompt.
_LINE = re.compile(rf"Request chatcmpl-{REQUEST}(\d+)-(\d+) details: prompt: (.*), prompt_token_ids: \[")
_TURN = re.compile(r"<\|im_start\|>user\n(.*)<\|im_end\|>", re.DOTALL)


@dataclass(slots=True)
class Prompts:
    """`by_kind` counts prompts; `received` says which queries each start of a server has received."""

    by_kind: Counter[Kind] = field(default_factory=Counter)
    received: dict[Start, set[int]] = field(default_factory=dict)

    def at(self, place: str, checkpoint: str) -> set[int]:
        """The queries that any start of this place with this checkpoint has received."""
        starts = [start for start in self.received if (start.place, start.checkpoint) == (place, checkpoint)]
        return set().union(*(self.received[start] for start in starts))

    def unaccounted(self, replies: Iterable[Reply], checkpoints: Sequence[str]) -> int:
        """Answered queries whose pair no server with that pair has received: there must be none."""
        names = {pair_id(name): name for name in checkpoints}
        return sum(
            reply.number not in self.at(reply.target or "", names[reply.pair_id or ""])
            for reply in replies
            if reply.is_answered
        )


def read_prompts(starts: Iterable[Start], queries: Sequence[str], checkpoints: Sequence[str]) -> Prompts:
    """Reads every log to its end."""
    prompts = Prompts()
    for start in starts:
        received = prompts.received.setdefault(start, set())
        for number, prompt in _logged(start.log):
            received.add(number)
            prompts.by_kind[_kind(prompt, queries[number % len(queries)], start.checkpoint, checkpoints)] += 1
    return prompts


def telling(queries: Iterable[str], checkpoints: Sequence[str]) -> list[str]:
    """The queries that every two of these checkpoints have rewritten differently."""
    return [q for q in queries if len({rewritten(name, q) for name in checkpoints}) == len(checkpoints)]


def rewritten(checkpoint: str, query: str) -> str:
    """The user's turn as this checkpoint is to be asked."""
    content = rewrite(_opened(checkpoint).serve, [{"role": "user", "content": query}]).messages[-1]["content"]
    assert isinstance(content, str)
    return content


@cache
def _opened(checkpoint: str) -> Checkpoint:
    return open_checkpoint(DEMO / checkpoint)


def _logged(log: Path) -> Iterable[tuple[int, str]]:
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (found := _LINE.search(line)) is not None:
                yield int(found[1]), ast.literal_eval(found[3])


def _kind(prompt: str, query: str, checkpoint: str, checkpoints: Sequence[str]) -> Kind:
    turn = _TURN.search(prompt)
    rewrites: Mapping[str, str] = {rewritten(name, query): name for name in checkpoints}
    found = rewrites.get(turn[1]) if turn is not None else None
    return "unknown" if found is None else "own" if found == checkpoint else "other"
