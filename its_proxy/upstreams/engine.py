"""Decodes rows of one prompt together on one thread: the `torch` half of the embedded upstream.

A batch is a prompt and the rows that continue it. The prompt is read once, its key-value cache is
copied to every row, and the rows then take one step at a time together; a row that finishes or is
cancelled leaves the batch before the next step. Batches are served in the order they came.

`torch` and `transformers` are imported by the worker thread only, when it starts.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from its_proxy.codesign.errors import ConfigError, UpstreamError, UpstreamUnreachable
from its_proxy.upstreams.rows import Row, RowState, Sampling, TokenLogprob, TopLogprobs, Update

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

# Matrix kernels round differently when a thread has very few rows (MKL: below 4, measured with 1 and 2 threads), and a
# rounding difference may move a draw to the next token. So a smaller batch is filled up with copies of its first row.
MIN_ROWS_PER_THREAD = 8


@dataclass(frozen=True, slots=True)
class PromptLogprob:
    """One prompt token's log-probability given the tokens before it; rank 1 is the likeliest token."""

    token_id: int
    logprob: float
    rank: int
    top: TopLogprobs


@dataclass(slots=True, eq=False)
class Batch:
    """Rows that continue the same prompt of the same model."""

    model: str
    prompt_ids: tuple[int, ...]
    rows: list[Row]
    post: Callable[[list[Update]], None]
    """Called on the worker's thread, at most once a step, with what the rows have to say."""
    n_prompt_logprobs: int | None = None
    """None: not asked for; k: each prompt token's log-probability and those of the k likeliest."""
    prompt_logprobs: list[PromptLogprob] = field(default_factory=list)
    """One for each prompt token but the first; written before the first update is posted."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Rows now `queued` and `running`; all others count up from the start."""

    queued: int = 0
    running: int = 0
    started: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    generated_tokens: int = 0


class Checkpoint:
    """A loaded checkpoint: weights in fp32, tokenizer and chat template.

    `render`, `encode` and `decode` may be called from any thread: they use the tokenizer's Rust core,
    whose settings never change after loading.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any) -> None:
        config = model.config.get_text_config()
        self.folder = folder
        self.created = int((folder / "config.json").stat().st_mtime)
        self.max_model_len: int = config.max_position_embeddings
        self.vocab_size: int = config.vocab_size
        self.eos_ids = _ids(model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
        self._model = model
        self._tokenizer = tokenizer
        self._core = tokenizer.backend_tokenizer
        self._core.no_truncation()
        self._core.no_padding()
        self._longest_token = max(map(len, self._core.get_vocab(with_added_tokens=True)))
        # A request's candidates ask for the same text one after the other.
        self.encode = lru_cache(maxsize=16)(self._encode)

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt as the checkpoint's own chat template writes it; raises whatever the template raises."""
        plain = [dict(message) for message in messages]
        return str(self._tokenizer.apply_chat_template(plain, tokenize=False, **options))

    def is_too_long(self, text: str) -> bool:
        """Whether text cannot fit, seen by its length alone: spares the tokenizer a hopeless megabyte."""
        # Unicode normalisation may shorten text, by a factor of 3 at the very most.
        return len(text) > 3 * self._longest_token * self.max_model_len

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._core.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int], *, with_special: bool = False) -> str:
        return str(self._core.decode(list(token_ids), skip_special_tokens=not with_special))

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def forward(self, token_ids: "Tensor", cache: Any, *, keep: int = 1) -> "Tensor":
        """Logits (rows, positions, vocabulary) of the last `keep` positions, of all when 0; grows the cache."""
        logits: Tensor = self._model(
            input_ids=token_ids, past_key_values=cache, use_cache=True, logits_to_keep=keep
        ).logits
        return logits


def _ids(*values: int | Sequence[int] | None) -> frozenset[int]:
    ids: set[int] = set()
    for value in values:
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Opens a folder with config.json, tokenizer.json and safetensors; never the network, never its code.

    Raises ConfigError.
    """
    for pattern in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise ConfigError(f"{folder} holds no {pattern}", hint="name a checkpoint folder saved by transformers")
    try:
        import torch
        from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise ConfigError(
            "the embedded engine needs torch and transformers", hint="pip install 'its-proxy[embedded]'"
        ) from error
    disable_progress_bar()
    # transformers is typed in parts only.
    model_class: Any = AutoModelForCausalLM
    # Not AutoTokenizer: by the model's type it puts another normalizer and splitter in the place of tokenizer.json's.
    tokenizer_class: Any = PreTrainedTokenizerFast
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = model_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **local)
        tokenizer = tokenizer_class.from_pretrained(folder, **local)
        checkpoint = Checkpoint(folder, model.eval(), tokenizer)
    except Exception as error:
        # from_pretrained raises nearly anything for a broken file.
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"{folder} cannot be loaded: {type(error).__name__}: {reason}") from error
    if not tokenizer.chat_template:
        raise ConfigError(f"{folder} has no chat template", hint="the embedded engine serves chat only")
    return checkpoint


class Columns:
    """Settings of many rows as columns (rows, 1), so that one call draws for all of them."""

    def __init__(self, settings: Sequence[Sampling], vocab_size: int) -> None:
        import torch

        def column(values: Iterable[float]) -> "Tensor":
            return torch.tensor(list(values), dtype=torch.float64).unsqueeze(1)

        self.is_greedy = torch.tensor([one.is_greedy for one in settings])
        self.temperature = column(1.0 if one.is_greedy else one.temperature for one in settings)
        self.top_p = column(one.top_p for one in settings)
        self.top_k = column(one.top_k or vocab_size for one in settings)
        self.min_p = column(one.min_p for one in settings)
        self.is_filtered = any(one.top_p < 1 or one.top_k or one.min_p for one in settings)
        asked = [one.top_logprobs for one in settings if one.top_logprobs is not None]
        self.n_logprobs = max(asked, default=None)


def choose_tokens(logits: "Tensor", columns: Columns, draws: Sequence[float]) -> "Tensor":
    """One token id for each row of logits (rows, vocabulary), from one number in [0, 1) for each.

    The distribution is walked in the vocabulary's order, filtered or not, so that a nearly equal
    pair of tokens cannot change places between two runs.
    """
    import torch

    # Doubles: the walk over a large vocabulary would lose small probabilities in single precision.
    probabilities = torch.softmax(logits.double() / columns.temperature, dim=-1)
    if columns.is_filtered:
        probabilities = torch.where(probabilities < _floor(probabilities, columns), 0.0, probabilities)
    walk = probabilities.cumsum(-1)
    targets = torch.tensor(draws, dtype=torch.float64).unsqueeze(1) * walk[:, -1:]
    if not bool(torch.isfinite(targets).all()):
        raise UpstreamError("the model's output is not a number", hint="check the checkpoint's weights")
    drawn = torch.searchsorted(walk, targets, right=True).squeeze(1)
    return torch.where(columns.is_greedy, logits.argmax(-1), drawn)


def _floor(probabilities: "Tensor", columns: Columns) -> "Tensor":
    """The least probability (rows, 1) that a token needs to stay; min_p, top_k and top_p, one after the other."""
    import torch

    ordered = probabilities.sort(-1, descending=True).values
    places = torch.arange(ordered.shape[-1])
    ordered = torch.where((places < columns.top_k) & (ordered >= columns.min_p * ordered[:, :1]), ordered, 0.0)
    walk = ordered.cumsum(-1)
    n_kept = ((walk - ordered < columns.top_p * walk[:, -1:]) & (ordered > 0)).sum(-1, keepdim=True)
    return ordered.gather(-1, n_kept.clamp(min=1) - 1)


def read_logprobs(logits: "Tensor", token_ids: "Tensor", n_top: int) -> list[TokenLogprob]:
    """The log-probability of one token for each row of logits (rows, vocabulary), and of the likeliest ones."""
    import torch

    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(-1, token_ids.unsqueeze(1)).squeeze(1).tolist()
    values, ids = logprobs.topk(min(n_top, logits.shape[-1]), dim=-1)
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
    return [TokenLogprob(*one) for one in zip(token_ids.tolist(), chosen, tops, strict=True)]


def read_prompt_logprobs(logits: "Tensor", prompt_ids: Sequence[int], n_top: int) -> list[PromptLogprob]:
    """The log-probabilities of all prompt tokens but the first, from the prompt's logits (tokens, vocabulary)."""
    import torch

    before, token_ids = logits[:-1], torch.tensor(prompt_ids[1:], dtype=torch.long)
    ranks = (before > before.gather(-1, token_ids.unsqueeze(1))).sum(-1).add(1).tolist()
    chosen = read_logprobs(before, token_ids, n_top)
    return [PromptLogprob(one.token_id, one.logprob, rank, one.top) for one, rank in zip(chosen, ranks, strict=True)]


class Engine:
    """One worker thread, the checkpoints it serves, and a bounded queue of batches before it.

    Its methods may be called from any thread; `checkpoints` is filled once `ready` has its result.
    """

    def __init__(self, folders: Mapping[str, Path], *, max_queue: int, threads: int) -> None:
        self.ready: Future[None] = Future()
        # Running from the start, or the first caller who gives up would cancel it for all.
        self.ready.set_running_or_notify_cancel()
        self.checkpoints: dict[str, Checkpoint] = {}
        self.max_queue = max_queue
        self._folders = dict(folders)
        self._threads = threads
        self._min_rows = MIN_ROWS_PER_THREAD * threads
        self._queue: deque[Batch] = deque()
        self._counts = dict.fromkeys(Stats.__dataclass_fields__, 0)
        self._changed = threading.Condition()
        self._is_closed = False
        self._batch_s = 0.0
        self._thread: threading.Thread | None = None

    @property
    def stats(self) -> Stats:
        with self._changed:
            return Stats(**self._counts)

    def start(self) -> None:
        """Starts the worker, which loads the checkpoints and then settles `ready`; a second call does nothing."""
        with self._changed:
            if self._is_closed:
                raise _closing()
            if self._thread is None:
                # A daemon, so that a process that dies without `close` does not hang on it.
                self._thread = threading.Thread(target=self._work, name="its-embedded", daemon=True)
                self._thread.start()

    def submit(self, batch: Batch) -> float | None:
        """Queues a batch; or queues nothing of it and returns in how many seconds to ask again."""
        with self._changed:
            if self._is_closed:
                self._fail(batch, _closing)
            elif self._counts["queued"] + len(batch.rows) > self.max_queue:
                return max(1.0, math.ceil(self._batch_s * (len(self._queue) + 1)))
            else:
                self._move([row for row in batch.rows if not row.is_cancelled], "queued")
                self._queue.append(batch)
                self._changed.notify()
        return None

    def cancel(self, rows: Iterable[Row]) -> None:
        """A queued row never starts, a running one takes no further step; one that ended stays as it is."""
        with self._changed:
            for row in rows:
                row.is_cancelled = True
                if row.state == "queued":
                    self._move([row], "cancelled")

    def close(self) -> None:
        """Ends the worker within a step; rows that were waiting or running learn it by an error."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    # From here on: the worker's thread. `_move` and `_fail` want the lock held.

    def _work(self) -> None:
        try:
            self._load()
        except Exception as error:
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        import torch

        with torch.inference_mode():
            while (batch := self._next()) is not None:
                self._serve(batch)

    def _load(self) -> None:
        """One folder that cannot be loaded does not keep the others from serving; if none can, that is raised."""
        failures: dict[str, ConfigError] = {}
        for name, folder in self._folders.items():
            try:
                self.checkpoints[name] = load_checkpoint(folder)
            except ConfigError as error:
                failures[name] = error
            if self._is_closed:
                raise _closing()
        if failures and not self.checkpoints:
            raise next(iter(failures.values()))
        for name, failure in failures.items():
            log.error("embedded engine: %s is not served: %s", name, failure)
        import torch

        # For the whole process: one thread is quickest for small models and leaves the event loop a core.
        torch.set_num_threads(self._threads)

    def _next(self) -> Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closed)
            if not self._is_closed:
                return self._queue.popleft()
            for batch in self._queue:
                self._fail(batch, _closing)
            self._queue.clear()
            return None

    def _serve(self, batch: Batch) -> None:
        began = time.monotonic()
        try:
            self._decode(batch, self.checkpoints[batch.model])
        except Exception as error:
            failure = error
            if not isinstance(failure, UpstreamError):
                log.exception("embedded engine: a batch of %s failed", batch.model)
            with self._changed:
                self._fail(batch, lambda: _describe(failure))
        # A moving average over about the last five batches.
        self._batch_s += 0.2 * (time.monotonic() - began - self._batch_s)

    def _decode(self, batch: Batch, checkpoint: Checkpoint) -> None:
        """Reads the prompt once, then steps all rows together until none is left."""
        rows = self._begin(batch)
        if not rows:
            return
        cache = checkpoint.new_cache()
        logits = _read_prompt(batch, checkpoint, cache).expand(len(rows), -1)
        columns = Columns([row.sampling for row in rows], checkpoint.vocab_size)
        is_prompt = True
        while True:
            token_ids = choose_tokens(logits, columns, [row.draw() for row in rows])
            self._advance(batch, rows, columns, logits, token_ids)
            kept = self._keep(rows)
            if not kept:
                return
            if is_prompt or len(kept) < len(rows):
                _arrange(cache, [0] * len(kept) if is_prompt else kept, self._min_rows)
                rows, token_ids = [rows[place] for place in kept], token_ids[kept]
                columns = Columns([row.sampling for row in rows], checkpoint.vocab_size)
                is_prompt = False
            logits = _step(checkpoint, token_ids, cache, self._min_rows)

    def _begin(self, batch: Batch) -> list[Row]:
        with self._changed:
            rows = [row for row in batch.rows if row.state == "queued"]
            self._move(rows, "running")
            self._counts["started"] += len(rows)
            return rows

    def _advance(
        self, batch: Batch, rows: Sequence[Row], columns: Columns, logits: "Tensor", token_ids: "Tensor"
    ) -> None:
        """Gives each row its token and posts what they have to say."""
        logprobs: Sequence[TokenLogprob | None] = [None] * len(rows)
        if columns.n_logprobs is not None:
            logprobs = read_logprobs(logits, token_ids, columns.n_logprobs)
        taken = zip(rows, token_ids.tolist(), logprobs, strict=True)
        updates = [update for row, token_id, logprob in taken if (update := row.take(token_id, logprob))]
        with self._changed:
            self._counts["generated_tokens"] += len(rows)
            self._move([update.row for update in updates if update.finish_reason], "finished")
        if updates:
            batch.post(updates)

    def _keep(self, rows: Sequence[Row]) -> list[int]:
        """The places of the rows that take another step."""
        with self._changed:
            if self._is_closed:
                raise _closing()
            self._move([row for row in rows if row.state == "running" and row.is_cancelled], "cancelled")
            return [place for place, row in enumerate(rows) if row.state == "running"]

    def _move(self, rows: Iterable[Row], state: RowState) -> None:
        for row in rows:
            if row.state in ("queued", "running"):
                self._counts[row.state] -= 1
            row.state = state
            self._counts[state] += 1

    def _fail(self, batch: Batch, make_error: Callable[[], UpstreamError]) -> None:
        # An error of its own for each row: tasks that raise the same one would share its traceback.
        rows = [row for row in batch.rows if row.state in ("new", "queued", "running")]
        self._move(rows, "failed")
        batch.post([Update(row, error=make_error()) for row in rows])


def _read_prompt(batch: Batch, checkpoint: Checkpoint, cache: Any) -> "Tensor":
    """Fills the cache with the prompt; returns the logits (1, vocabulary) of what comes next."""
    import torch

    is_scored = batch.n_prompt_logprobs is not None
    logits = checkpoint.forward(torch.tensor([batch.prompt_ids]), cache, keep=0 if is_scored else 1)
    if batch.n_prompt_logprobs is not None:
        batch.prompt_logprobs = read_prompt_logprobs(logits[0], batch.prompt_ids, batch.n_prompt_logprobs)
    return logits[:, -1]


def _arrange(cache: Any, places: list[int], min_rows: int) -> None:
    """Makes the cache's rows those at these places, filled up with copies of the first."""
    import torch

    cache.batch_select_indices(torch.tensor(places + places[:1] * (min_rows - len(places))))


def _step(checkpoint: Checkpoint, token_ids: "Tensor", cache: Any, min_rows: int) -> "Tensor":
    """Logits (rows, vocabulary) after these tokens, one for each row; the cache holds the rows and their filling."""
    import torch

    filling = token_ids[:1].expand(max(0, min_rows - len(token_ids)))
    logits = checkpoint.forward(torch.cat([token_ids, filling]).unsqueeze(1), cache)
    return logits[: len(token_ids), -1]


def _closing() -> UpstreamError:
    return UpstreamUnreachable("the embedded engine is closed")


def _describe(error: Exception) -> UpstreamError:
    if isinstance(error, UpstreamError):
        return type(error)(error.message, hint=error.hint)
    failure = UpstreamError(f"the embedded engine failed: {type(error).__name__}", hint="its log has the traceback")
    failure.__cause__ = error
    return failure
