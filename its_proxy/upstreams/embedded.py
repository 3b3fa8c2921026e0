"""Runs checkpoints inside this process, behind the same protocol as a model server: the `asyncio` half.

    upstream = EmbeddedUpstream("embedded", {"demo-random": Path("demo-random")})
    await upstream.start()
    reply = await upstream.complete({"model": "demo-random", "messages": [...], "seed": 7}, "req-1")

Calls that arrive in the same turn of the event loop with the same prompt become one batch, so a
request's candidates share the reading of their prompt. The fields it knows are those of
`ChatRequest`; others are ignored, as vLLM does. `max_tokens` is cut to what the context still holds.
"""

import asyncio
import secrets
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from its_proxy.codesign.errors import ConfigError, UpstreamBusy, UpstreamRejected, UpstreamUnreachable
from its_proxy.upstreams.base import Body, Completion, RawReply, is_text
from its_proxy.upstreams.engine import Batch, Checkpoint, Engine, PromptLogprob, Stats
from its_proxy.upstreams.rows import Row, Sampling, TokenLogprob, TopLogprobs, Update

# Prompt log-probabilities need the logits of the whole prompt at once; this many take 1 GiB.
MAX_PROMPT_LOGITS = 2**28

# The template's own inputs; a request may not pass them as extra arguments.
TEMPLATE_INPUTS = frozenset(
    {"conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"}
    | {"continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length"}
    | {"return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Fields(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Fields):
    include_usage: bool = False


class TemplateRequest(_Fields):
    """What makes a prompt."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    chat_template: Any = None


class ChatRequest(TemplateRequest):
    """The chat-completions fields that the embedded engine reads; null means absent."""

    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed)] = Field([], max_length=16)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    return_token_ids: bool = False
    stream_options: StreamOptions = StreamOptions()


class _Call:
    """One request under way: its rows, and where their updates arrive."""

    def __init__(self, request: ChatRequest, model: str, checkpoint: Checkpoint, prompt_ids: tuple[int, ...]) -> None:
        self.request = request
        self.model = model
        self.checkpoint = checkpoint
        self.prompt_ids = prompt_ids
        self.rows: list[Row] = []
        self.batch: Batch | None = None
        self.admitted: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._updates: asyncio.Queue[Update] = asyncio.Queue()

    def add_rows(self, *, is_streamed: bool) -> None:
        first_seed = secrets.randbits(63) if self.request.seed is None else self.request.seed
        room = self.checkpoint.max_model_len - len(self.prompt_ids)
        for index in range(self.request.n):
            sampling = _sampling(self.request, seed=first_seed + index, room=room)
            self.rows.append(
                Row(sampling, self.checkpoint, index=index, is_streamed=is_streamed, send=self._updates.put_nowait)
            )

    async def follow(self) -> AsyncIterator[Update]:
        """The rows' updates as they come, until every row has ended; raises the error of one that failed."""
        n_open = len(self.rows)
        while n_open:
            update = await self._updates.get()
            if update.error is not None:
                raise update.error
            n_open -= update.finish_reason is not None
            yield update

    @property
    def usage(self) -> dict[str, int]:
        n_prompt, n_generated = len(self.prompt_ids), sum(row.n_tokens for row in self.rows)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_generated,
            "total_tokens": n_prompt + n_generated,
        }


class EmbeddedUpstream:
    """An `Upstream` over checkpoint folders, all run by one worker thread in fp32 on the CPU.

    `checkpoints` maps served names to folders. At most `max_queue` rows wait at a time (a row is
    one completion); calls beyond that are refused with `UpstreamBusy`, a batch as a whole.
    """

    def __init__(self, name: str, checkpoints: Mapping[str, Path], *, max_queue: int = 64, threads: int = 1) -> None:
        self.name = name
        self.folders = dict(checkpoints)
        self._engine = Engine(checkpoints, max_queue=max_queue, threads=threads)
        self._arrived: list[_Call] = []

    @property
    def stats(self) -> Stats:
        return self._engine.stats

    async def start(self) -> None:
        """Loads the checkpoints and returns when they serve; any other method does so on its first use.

        Raises ConfigError for a missing torch, or when no folder can be loaded; one of several that
        cannot is logged and left out of `models`.
        """
        self._engine.start()
        if not self._engine.ready.done():
            await asyncio.wrap_future(self._engine.ready)
        self._engine.ready.result()

    async def complete(self, body: Body, request_id: str) -> Completion:
        async with self._open(body, is_streamed=False) as call:
            ends = [update async for update in call.follow()]
            return _completion(call, sorted(ends, key=lambda end: end.row.index), _reply_id(request_id))

    @asynccontextmanager
    async def stream(self, body: Body, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with (
            self._open(body, is_streamed=True) as call,
            aclosing(_stream_events(call, _reply_id(request_id))) as events,
        ):
            yield events

    async def models(self) -> Sequence[Mapping[str, Any]]:
        await self._serving()
        return [
            {
                "id": name,
                "object": "model",
                "created": checkpoint.created,
                "owned_by": "its-proxy",
                "root": str(checkpoint.folder),
                "parent": None,
                "max_model_len": checkpoint.max_model_len,
            }
            for name, checkpoint in self._engine.checkpoints.items()
        ]

    async def forward(self, method: str, path: str, body: bytes, content_type: str) -> RawReply:
        """Knows `POST tokenize` with `model` and `messages`; anything else is a 404."""
        if (method, path.strip("/")) != ("POST", "tokenize"):
            raise UpstreamRejected(f"the embedded engine has no {method} {path}", status=404)
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise UpstreamRejected("the body is not JSON", status=400) from None
        if not isinstance(fields, dict):
            raise UpstreamRejected("the body is not a JSON object", status=400)
        checkpoint = await self._checkpoint(fields)
        tokens = _encode_prompt(checkpoint, _read(TemplateRequest, fields))
        reply = {"count": len(tokens), "max_model_len": checkpoint.max_model_len, "tokens": tokens}
        return RawReply(200, "application/json", orjson.dumps(reply))

    async def close(self) -> None:
        # The worker may be in the middle of a step; the loop does not wait for it.
        await asyncio.to_thread(self._engine.close)

    async def _serving(self) -> None:
        try:
            await self.start()
        except ConfigError as error:
            raise UpstreamUnreachable(error.message, hint=error.hint) from error

    async def _checkpoint(self, body: Body) -> Checkpoint:
        await self._serving()
        model = body.get("model")
        if not isinstance(model, str):
            raise UpstreamRejected("model: name the model as a string", status=400, param="model")
        if model not in self._engine.checkpoints:
            raise UpstreamRejected(f"no model is called {model!r}", status=404, param="model")
        return self._engine.checkpoints[model]

    @asynccontextmanager
    async def _open(self, body: Body, *, is_streamed: bool) -> AsyncIterator[_Call]:
        """An admitted call; leaving cancels the rows that have not ended."""
        if is_text(body):
            raise UpstreamRejected("the embedded engine has no text completions", status=404)
        checkpoint = await self._checkpoint(body)
        request = _read(ChatRequest, body)
        self._check(request, is_streamed=is_streamed)
        prompt_ids = _encode_prompt(checkpoint, request)
        _check_prompt(request, checkpoint, prompt_ids)
        call = _Call(request, body["model"], checkpoint, prompt_ids)
        call.add_rows(is_streamed=is_streamed)
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._submit_arrived)
        self._arrived.append(call)
        try:
            retry_after_s = await call.admitted
            if retry_after_s is not None:
                raise UpstreamBusy("the embedded engine's queue is full", status=429, retry_after_s=retry_after_s)
            yield call
        finally:
            self._engine.cancel(call.rows)

    def _check(self, request: ChatRequest, *, is_streamed: bool) -> None:
        if request.n > self._engine.max_queue:
            # Busy would invite a retry that can never succeed.
            raise _refuse("n", f"at most {self._engine.max_queue} completions fit the queue")
        if is_streamed and request.prompt_logprobs is not None:
            raise _refuse("prompt_logprobs", "not available on a stream")

    def _submit_arrived(self) -> None:
        """Turns what arrived in one turn of the event loop into batches."""
        arrived, self._arrived = self._arrived, []
        groups: defaultdict[tuple[str, tuple[int, ...]], list[_Call]] = defaultdict(list)
        for call in arrived:
            if not call.admitted.done():
                groups[call.model, call.prompt_ids].append(call)
        for calls in groups.values():
            for share in _shares(calls, self._engine.max_queue):
                self._submit(share)

    def _submit(self, calls: Sequence[_Call]) -> None:
        asked = [call.request.prompt_logprobs for call in calls if call.request.prompt_logprobs is not None]
        batch = Batch(
            calls[0].model,
            calls[0].prompt_ids,
            [row for call in calls for row in call.rows],
            post=partial(_post, asyncio.get_running_loop()),
            n_prompt_logprobs=max(asked, default=None),
        )
        retry_after_s = self._engine.submit(batch)
        for call in calls:
            call.batch = batch
            call.admitted.set_result(retry_after_s)


def _shares(calls: Sequence[_Call], max_rows: int) -> Iterator[list[_Call]]:
    """Cuts a group where it outgrows the queue, so that many equal requests at once are not all refused."""
    share: list[_Call] = []
    for call in calls:
        if sum(len(one.rows) for one in [*share, call]) > max_rows:
            yield share
            share = []
        share.append(call)
    yield share


def _post(loop: asyncio.AbstractEventLoop, updates: list[Update]) -> None:
    # A closed loop has nobody left who waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_deliver, updates)


def _deliver(updates: list[Update]) -> None:
    for update in updates:
        update.row.send(update)


# Requests: from JSON to settings.

_FieldsT = TypeVar("_FieldsT", bound=_Fields)


def _refuse(param: str, reason: str) -> UpstreamRejected:
    return UpstreamRejected(f"{param}: {reason}", status=400, param=param)


def _read(fields_class: type[_FieldsT], body: Body) -> _FieldsT:
    try:
        return fields_class.model_validate({key: value for key, value in body.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _refuse(str(first["loc"][0]), first["msg"]) from None


def _sampling(request: ChatRequest, *, seed: int, room: int) -> Sampling:
    return Sampling(
        seed=seed,
        max_tokens=min(request.max_completion_tokens or request.max_tokens or room, room),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        stop=tuple(request.stop),
        top_logprobs=request.top_logprobs if request.logprobs else None,
    )


def _encode_prompt(checkpoint: Checkpoint, request: TemplateRequest) -> tuple[int, ...]:
    """The prompt's tokens, as the checkpoint's chat template and tokenizer make them."""
    if request.chat_template is not None:
        raise _refuse("chat_template", "the checkpoint's own template is used")
    if request.continue_final_message and request.add_generation_prompt:
        raise _refuse("continue_final_message", "needs add_generation_prompt: false")
    if taken := sorted(TEMPLATE_INPUTS & request.chat_template_kwargs.keys()):
        raise _refuse("chat_template_kwargs", f"{taken[0]} cannot be set here")
    text = _render(checkpoint, request)
    if checkpoint.is_too_long(text):
        raise _refuse("messages", f"far longer than the context of {checkpoint.max_model_len} tokens")
    try:
        return checkpoint.encode(text)
    except TypeError:
        # The tokenizer's word for half of a surrogate pair.
        raise _refuse("messages", "they hold something that is not Unicode text") from None


def _render(checkpoint: Checkpoint, request: TemplateRequest) -> str:
    messages = [_plain_message(message, index) for index, message in enumerate(request.messages)]
    try:
        return checkpoint.render(
            messages,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            **request.chat_template_kwargs,
        )
    except Exception as error:
        # A template may raise anything; only words of its own are for the client.
        said = f": {error}" if type(error).__name__ == "TemplateError" else ""
        raise _refuse("messages", f"the chat template refuses them{said}") from error


def _plain_message(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A message whose content is one string; text parts are joined by a line break, as vLLM joins them."""
    place = f"messages[{index}]"
    if message.get("role") not in ("system", "developer", "user", "assistant", "tool"):
        raise _refuse("messages", f"{place} has no known role")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part["text"] for part in content if _is_text(part)]
        if len(texts) < len(content):
            raise _refuse("messages", f"{place} has a part that is not text; this model reads text only")
        content = "\n".join(texts)
    if content is None and message["role"] == "assistant":
        content = ""
    if not isinstance(content, str):
        raise _refuse("messages", f"{place} has no text content")
    return {**message, "content": content}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _check_prompt(request: ChatRequest, checkpoint: Checkpoint, prompt_ids: Sequence[int]) -> None:
    if not prompt_ids:
        raise _refuse("messages", "the prompt is empty")
    if len(prompt_ids) >= checkpoint.max_model_len:
        raise _refuse("messages", f"{len(prompt_ids)} tokens leave no room in a context of {checkpoint.max_model_len}")
    if request.prompt_logprobs is not None and len(prompt_ids) * checkpoint.vocab_size > MAX_PROMPT_LOGITS:
        raise _refuse("prompt_logprobs", "the prompt is too long for them")


# Replies: from updates to JSON.


def _reply_id(request_id: str) -> str:
    return f"chatcmpl-{request_id or uuid.uuid4().hex}"


def _completion(call: _Call, ends: Sequence[Update], reply_id: str) -> Completion:
    reply: Completion = {
        "id": reply_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [_choice(call, end) for end in ends],
        "usage": call.usage,
        "system_fingerprint": None,
    }
    if call.request.return_token_ids:
        reply["prompt_token_ids"] = list(call.prompt_ids)
    if call.request.prompt_logprobs is not None and call.batch is not None:
        n_top = call.request.prompt_logprobs
        scored = call.batch.prompt_logprobs
        reply["prompt_logprobs"] = [None, *(_prompt_entry(call.checkpoint, one, n_top) for one in scored)]
    return reply


def _choice(call: _Call, end: Update) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": end.row.index,
        "message": {"role": "assistant", "content": end.text, "refusal": None},
        "logprobs": _logprobs(call, end),
        "finish_reason": end.finish_reason,
    }
    if call.request.return_token_ids:
        choice["token_ids"] = list(end.token_ids)
    return choice


def _logprobs(call: _Call, update: Update) -> dict[str, Any] | None:
    if not call.request.logprobs:
        return None
    entries = [_logprob_entry(call.checkpoint, one, call.request.top_logprobs) for one in update.logprobs]
    return {"content": entries, "refusal": None}


def _logprob_entry(checkpoint: Checkpoint, one: TokenLogprob, n_top: int) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        token = checkpoint.decode([token_id], with_special=True)
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {**entry(one.token_id, one.logprob), "top_logprobs": [entry(*top) for top in one.top[:n_top]]}


def _prompt_entry(checkpoint: Checkpoint, one: PromptLogprob, n_top: int) -> dict[str, Any]:
    """vLLM's form: token id -> log-probability, rank and text; the prompt's own token comes first."""
    ranked: TopLogprobs = one.top[:n_top]
    ranks = {token_id: (logprob, place) for place, (token_id, logprob) in enumerate(ranked, start=1)}
    entries = {one.token_id: (one.logprob, one.rank)} | ranks
    return {
        str(token_id): {
            "logprob": logprob,
            "rank": rank,
            "decoded_token": checkpoint.decode([token_id], with_special=True),
        }
        for token_id, (logprob, rank) in entries.items()
    }


async def _stream_events(call: _Call, reply_id: str) -> AsyncGenerator[bytes, None]:
    """The reply as server-sent events: roles, text, ends, the usage if asked for, `[DONE]`."""
    base = {
        "id": reply_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": call.model,
        "system_fingerprint": None,
    }

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + orjson.dumps({**base, "choices": choices, **more}) + b"\n\n"

    prompt = {"prompt_token_ids": list(call.prompt_ids)} if call.request.return_token_ids else {}
    for row in call.rows:
        yield event([_delta(row.index, {"role": "assistant", "content": ""})], **prompt)
        prompt = {}
    async for update in call.follow():
        index = update.row.index
        if update.text or (update.token_ids and (call.request.return_token_ids or call.request.logprobs)):
            choice = _delta(index, {"content": update.text}, logprobs=_logprobs(call, update))
            if call.request.return_token_ids:
                choice["token_ids"] = list(update.token_ids)
            yield event([choice])
        if update.finish_reason is not None:
            yield event([_delta(index, {}, finish_reason=update.finish_reason)])
    if call.request.stream_options.include_usage:
        yield event([], usage=call.usage)
    yield b"data: [DONE]\n\n"


def _delta(
    index: int, delta: dict[str, str], *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
