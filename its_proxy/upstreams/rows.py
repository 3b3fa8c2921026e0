"""One completion in the making: how it is drawn, its text as tokens arrive, and where it ends. No `torch` here."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from its_proxy.codesign.errors import UpstreamError

if TYPE_CHECKING:
    from its_proxy.upstreams.engine import Checkpoint

# Below this, dividing by the temperature overflows; vLLM draws the line at the same place.
GREEDY_BELOW = 1e-5

FinishReason: TypeAlias = Literal["stop", "length"]
RowState: TypeAlias = Literal["new", "queued", "running", "finished", "cancelled", "failed"]
TopLogprobs: TypeAlias = tuple[tuple[int, float], ...]
"""Token ids with their log-probabilities, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one row is drawn; `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 keep every token."""

    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """None: no log-probabilities; k: the chosen token's and those of the k likeliest."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One chosen token's log-probability before temperature and filters, and the likeliest ones beside it."""

    token_id: int
    logprob: float
    top: TopLogprobs


@dataclass(frozen=True, slots=True)
class Update:
    """What a row has to say since its last update: text, or its end, or why it failed."""

    row: "Row"
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: UpstreamError | None = None


class Detokenizer:
    """Token ids to text, one at a time, never giving away half a character."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # Decoding starts a little before the unread tokens: some tokenizers write a token differently at the start.
        self._start = self._read = 0

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while its last character may still be open."""
        self._ids.append(token_id)
        text = self._unread()
        if text.endswith("\ufffd"):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text

    def flush(self) -> str:
        """What is left at the end; bytes that never became a character read as U+FFFD."""
        text = self._unread()
        self._start, self._read = self._read, len(self._ids)
        return text

    def _unread(self) -> str:
        known = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(known) :]


class StopScanner:
    """Cuts text before the first stop string, wherever token borders fall."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str, *, is_last: bool) -> tuple[str, bool]:
        """The text that may be shown, and whether a stop string ended it; holds back what may become one."""
        text = self._held + text
        hits = [hit for stop in self._stops if (hit := text.find(stop)) >= 0]
        if hits:
            return text[: min(hits)], True
        n_held = 0 if is_last else self._count_held(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held], False

    def _count_held(self, text: str) -> int:
        longest = max((len(stop) for stop in self._stops), default=1)
        for size in range(min(len(text), longest - 1), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class Draws:
    """One row's numbers in [0, 1): they follow from its seed alone, one a step, whoever else is in the batch."""

    def __init__(self, seed: int) -> None:
        # A text seed is hashed whole, so that neighbouring and negative seeds have nothing in common.
        self._random = random.Random(str(seed))

    def next(self) -> float:
        # 32 bits: multiplied by a sum near 1 in double precision, the product stays below that sum.
        return self._random.getrandbits(32) / 2**32


class Row:
    """One completion in the making. The worker writes it; the event loop only asks to cancel it."""

    def __init__(
        self,
        sampling: Sampling,
        checkpoint: "Checkpoint",
        *,
        index: int,
        is_streamed: bool,
        send: Callable[[Update], None],
    ) -> None:
        self.sampling = sampling
        self.index = index
        self.send = send
        self.state: RowState = "new"
        self.is_cancelled = False
        self.n_tokens = 0
        self._is_streamed = is_streamed
        self._eos_ids = checkpoint.eos_ids
        self._detokenizer = Detokenizer(checkpoint.decode)
        self._scanner = StopScanner(sampling.stop)
        self._draws = Draws(sampling.seed)
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    def draw(self) -> float:
        """The next number in [0, 1)."""
        return self._draws.next()

    def take(self, token_id: int, logprob: TokenLogprob | None) -> Update | None:
        """Appends a token; gives an update when there is something to show."""
        self.n_tokens += 1
        self._token_ids.append(token_id)
        if logprob is not None and self.sampling.top_logprobs is not None:
            self._logprobs.append(logprob)
        is_eos = token_id in self._eos_ids
        is_last = is_eos or self.n_tokens >= self.sampling.max_tokens
        text = "" if is_eos else self._detokenizer.push(token_id)
        if is_last:
            text += self._detokenizer.flush()
        text, is_stopped = self._scanner.push(text, is_last=is_last)
        self._text.append(text)
        if is_eos or is_stopped:
            return self._report("stop")
        if is_last:
            return self._report("length")
        return self._report(None) if self._is_streamed and text else None

    def _report(self, finish_reason: FinishReason | None) -> Update:
        update = Update(
            self, "".join(self._text), tuple(self._token_ids), tuple(self._logprobs), finish_reason=finish_reason
        )
        self._text, self._token_ids, self._logprobs = [], [], []
        return update
