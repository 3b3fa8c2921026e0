"""The embedded engine, on a tiny random checkpoint: every text here is sampled by the real thing."""

import asyncio
import contextlib
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from its_proxy.codesign.errors import (
    ConfigError,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnreachable,
)
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.engine import Checkpoint, load_checkpoint
from its_proxy.upstreams.rows import Detokenizer, StopScanner

CONTEXT = 160
QUESTION = [{"role": "user", "content": "How many eggs? 12"}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": QUESTION, "temperature": 0.8, "max_tokens": 24, **fields}


@pytest.fixture
async def upstream(tiny_checkpoint: Path, other_checkpoint: Path) -> AsyncIterator[EmbeddedUpstream]:
    embedded = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint, "other": other_checkpoint})
    await embedded.start()
    yield embedded
    await embedded.close()


@pytest.fixture(scope="session")
def shared(tiny_checkpoint: Path, other_checkpoint: Path) -> Iterator[EmbeddedUpstream]:
    """One engine for the tests that neither count nor disturb; it outlives their event loops."""
    embedded = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint, "other": other_checkpoint})
    asyncio.run(embedded.start())
    yield embedded
    asyncio.run(embedded.close())


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


async def ask_many(upstream: EmbeddedUpstream, seeds: Iterable[int], **fields: Any) -> list[dict[str, Any]]:
    """What a sampler does: one plain call a candidate, all started together."""
    calls = (upstream.complete(body(seed=seed, **fields), f"r-{seed}") for seed in seeds)
    return await asyncio.gather(*calls)


def text_of(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


async def read_stream(upstream: EmbeddedUpstream, **fields: Any) -> list[Any]:
    async with upstream.stream(body(**fields), "s") as events:
        lines = [event.removeprefix(b"data: ").removesuffix(b"\n\n") async for event in events]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def streamed_text(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def until(condition: Any, limit_s: float = 5.0) -> float:
    """Seconds until the condition holds."""
    began = time.perf_counter()
    while not condition():
        assert time.perf_counter() - began < limit_s, "it never held"
        await asyncio.sleep(0.0005)
    return time.perf_counter() - began


class Steps:
    """Watches the forward passes of a loaded model: the shapes they were given, and a failure to inject."""

    def __init__(self, upstream: EmbeddedUpstream, name: str = "tiny") -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.failure: Exception | None = None
        self.pause_s = 0.0
        model = upstream._engine.checkpoints[name]._model
        self._handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        time.sleep(self.pause_s)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure


# ---- the reply ----


async def test_reply_is_a_whole_chat_completion(shared: EmbeddedUpstream) -> None:
    reply = await shared.complete(body(seed=1), "abc")
    assert reply["id"] == "chatcmpl-abc"
    assert reply["object"] == "chat.completion"
    assert abs(reply["created"] - time.time()) < 5
    assert reply["model"] == "tiny"
    [choice] = reply["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["logprobs"] is None
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "prompt_token_ids" not in reply
    assert "prompt_logprobs" not in reply


async def test_finish_reason_is_true_and_the_context_is_the_default_limit(
    shared: EmbeddedUpstream, checkpoint: Checkpoint
) -> None:
    replies = await ask_many(shared, range(48), max_tokens=None, return_token_ids=True)
    reasons = Counter(reply["choices"][0]["finish_reason"] for reply in replies)
    assert set(reasons) == {"stop", "length"}
    for reply in replies:
        [choice] = reply["choices"]
        ended = choice["token_ids"][-1] in checkpoint.eos_ids
        assert choice["finish_reason"] == ("stop" if ended else "length")
        assert len(choice["token_ids"]) == reply["usage"]["completion_tokens"]
        if not ended:
            assert reply["usage"]["total_tokens"] == CONTEXT


async def test_max_tokens_limits_and_its_newer_name_wins(shared: EmbeddedUpstream) -> None:
    older = await shared.complete(body(seed=3, max_tokens=5), "r")
    newer = await shared.complete(body(seed=3, max_tokens=5, max_completion_tokens=7), "r")
    assert [reply["usage"]["completion_tokens"] for reply in (older, newer)] == [5, 7]
    assert older["choices"][0]["finish_reason"] == "length"


async def test_max_tokens_beyond_the_context_is_cut_to_it(shared: EmbeddedUpstream) -> None:
    replies = await ask_many(shared, range(8), max_tokens=100_000)
    totals = [r["usage"]["total_tokens"] for r in replies if r["choices"][0]["finish_reason"] == "length"]
    assert totals
    assert set(totals) == {CONTEXT}


async def test_n_candidates_of_one_call_are_those_of_n_calls(shared: EmbeddedUpstream) -> None:
    together = await shared.complete(body(seed=40, n=3), "r")
    apart = await ask_many(shared, range(40, 43))
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in together["choices"]] == [text_of(reply) for reply in apart]
    assert together["usage"]["completion_tokens"] == sum(reply["usage"]["completion_tokens"] for reply in apart)


async def test_prompt_is_what_the_tokenizer_itself_makes_of_the_messages(
    shared: EmbeddedUpstream, tiny_checkpoint: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    messages = [{"role": "system", "content": "Count 日本."}, *QUESTION]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    reply = await shared.complete(body(messages=messages, return_token_ids=True), "r")
    assert reply["prompt_token_ids"] == expected
    assert reply["usage"]["prompt_tokens"] == len(expected)


async def test_text_parts_are_joined_by_a_line_break(shared: EmbeddedUpstream) -> None:
    parts = [{"type": "text", "text": "You are kind."}, {"type": "text", "text": "How many?"}]
    split = await shared.complete(body(messages=[{"role": "user", "content": parts}], return_token_ids=True), "r")
    whole = [{"role": "user", "content": "You are kind.\nHow many?"}]
    joined = await shared.complete(body(messages=whole, return_token_ids=True), "r")
    assert split["prompt_token_ids"] == joined["prompt_token_ids"]


async def test_chat_template_kwargs_reach_the_template(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    reply = await shared.complete(body(chat_template_kwargs={"mood": "eggs"}, return_token_ids=True), "r")
    assert checkpoint.decode(reply["prompt_token_ids"], with_special=True).startswith("<|im_start|>system\neggs")


async def test_trailing_assistant_message_is_teacher_forced(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    """The handshake's way to score a stored completion on the route that serves."""
    messages = [*QUESTION, {"role": "assistant", "content": "12+7=19"}]
    reply = await shared.complete(
        body(messages=messages, continue_final_message=True, add_generation_prompt=False, return_token_ids=True), "r"
    )
    prompt = checkpoint.decode(reply["prompt_token_ids"], with_special=True)
    assert prompt.endswith("<|im_start|>assistant\n12+7=19")


async def test_unknown_fields_and_nulls_are_ignored(shared: EmbeddedUpstream) -> None:
    plain = await shared.complete(body(seed=5), "r")
    decorated = await shared.complete(body(seed=5, stop=None, top_p=None, n=None, user="u", made_up=[1]), "r")
    assert text_of(decorated) == text_of(plain)


# ---- the numbers, against transformers itself ----


async def test_greedy_text_is_that_of_transformers_generate(shared: EmbeddedUpstream, tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reply = await shared.complete(body(temperature=0, max_tokens=40, return_token_ids=True), "r")
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    prompt = torch.tensor([reply["prompt_token_ids"]])
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40)
    assert reply["choices"][0]["token_ids"] == expected[0, prompt.shape[1] :].tolist()


async def test_log_probabilities_are_those_of_one_pass_over_prompt_and_text(
    shared: EmbeddedUpstream, tiny_checkpoint: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reply = await shared.complete(
        body(seed=2, logprobs=True, top_logprobs=2, prompt_logprobs=1, return_token_ids=True), "r"
    )
    prompt_ids, [choice] = reply["prompt_token_ids"], reply["choices"]
    token_ids = prompt_ids + choice["token_ids"]
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    assert reply["prompt_logprobs"][0] is None
    assert len(reply["prompt_logprobs"]) == len(prompt_ids)
    for place, entries in enumerate(reply["prompt_logprobs"][1:], start=1):
        before, token_id = expected[place - 1], token_ids[place]
        entry = entries[str(token_id)]
        assert entry["logprob"] == pytest.approx(before[token_id].item(), abs=1e-4)
        assert entry["rank"] == int((before > before[token_id]).sum()) + 1
        assert min(other["rank"] for other in entries.values()) == 1
    for place, entry in enumerate(choice["logprobs"]["content"], start=len(prompt_ids)):
        before = expected[place - 1]
        assert entry["logprob"] == pytest.approx(before[token_ids[place]].item(), abs=1e-4)
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(
            before.topk(2).values.tolist(), abs=1e-4
        )


async def test_first_tokens_follow_the_model_s_distribution(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    """2,048 seeds: each likely token appears within four standard deviations of its probability."""
    probe = await shared.complete(body(logprobs=True, top_logprobs=8, temperature=1, max_tokens=1), "r")
    tops = probe["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    asked = [
        shared.complete(body(n=64, seed=first, temperature=1, max_tokens=1, logprobs=True), "r")
        for first in range(0, 2048, 64)
    ]
    replies = [await one for one in asked]
    drawn = Counter(choice["logprobs"]["content"][0]["logprob"] for reply in replies for choice in reply["choices"])
    for top in tops:
        share = math.exp(top["logprob"])
        count = sum(times for logprob, times in drawn.items() if abs(logprob - top["logprob"]) < 1e-6)
        assert abs(count / 2048 - share) < 4 * math.sqrt(share * (1 - share) / 2048)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 0.81}, {0, 1, 2}),
        ({"min_p": 0.35}, {0, 1, 2}),
        ({"min_p": 0.5, "top_p": 0.6}, {0}),
        ({"top_k": 3, "top_p": 0.95}, {0, 1, 2}),
        ({}, {0, 1, 2, 3}),
        ({"temperature": 0}, {0}),
    ],
)
def test_filters_keep_the_likeliest_tokens(fields: dict[str, Any], kept: set[int]) -> None:
    torch = pytest.importorskip("torch")
    from its_proxy.upstreams.engine import Columns, choose_tokens
    from its_proxy.upstreams.rows import Sampling

    # Shuffled places, so that nothing rests on the vocabulary's order.
    places = {0: 3, 1: 0, 2: 4, 3: 1}
    logits = torch.full((1, 5), -math.inf)
    for rank, probability in enumerate([0.5, 0.24, 0.2, 0.06]):
        logits[0, places[rank]] = math.log(probability)
    columns = Columns([Sampling(seed=0, max_tokens=1, **fields)], vocab_size=5)
    drawn = {choose_tokens(logits, columns, [step / 1000]).item() for step in range(1000)}
    assert drawn == {places[rank] for rank in kept}


# ---- seeds ----


async def test_text_depends_on_its_own_seed_only(shared: EmbeddedUpstream) -> None:
    alone = [text_of(await shared.complete(body(seed=seed), "r")) for seed in range(24)]
    assert len(set(alone)) == 24
    eights = [await ask_many(shared, range(first, first + 8)) for first in (0, 8, 16)]
    assert [text_of(reply) for replies in eights for reply in replies] == alone
    twos = [await ask_many(shared, (seed, 1000 + seed), top_p=0.999999) for seed in range(0, 24, 6)]
    assert [text_of(replies[0]) for replies in twos] == alone[::6]
    backwards = await ask_many(shared, reversed(range(24)))
    assert [text_of(reply) for reply in reversed(backwards)] == alone


async def test_text_stays_the_same_when_neighbours_are_cancelled(upstream: EmbeddedUpstream) -> None:
    alone = {seed: text_of(await upstream.complete(body(seed=seed, max_tokens=60), "r")) for seed in range(8)}
    generated = upstream.stats.generated_tokens
    tasks = [asyncio.create_task(upstream.complete(body(seed=seed, max_tokens=60), "r")) for seed in range(8)]
    await until(lambda: upstream.stats.generated_tokens > generated + 16)
    for task in tasks[::3]:
        task.cancel()
    kept = [seed for seed in range(8) if seed % 3]
    assert [text_of(await tasks[seed]) for seed in kept] == [alone[seed] for seed in kept]
    assert upstream.stats.cancelled == 3


async def test_rows_of_a_batch_keep_their_own_settings(shared: EmbeddedUpstream) -> None:
    settings: list[dict[str, Any]] = [
        {"seed": 1, "temperature": 0},
        {"seed": 2, "temperature": 1.3, "max_tokens": 40},
        {"seed": 3, "top_k": 3},
        {"seed": 4, "stop": ["e", "a"]},
        {"seed": 5, "top_p": 0.7, "max_tokens": 9},
    ]
    together = await asyncio.gather(*(shared.complete(body(**fields), "r") for fields in settings))
    apart = [await shared.complete(body(**fields), "r") for fields in settings]
    assert [text_of(reply) for reply in together] == [text_of(reply) for reply in apart]


async def test_without_a_seed_texts_differ(shared: EmbeddedUpstream) -> None:
    replies = await asyncio.gather(*(shared.complete(body(), "r") for _ in range(4)))
    assert len({text_of(reply) for reply in replies}) == 4


async def test_neighbouring_and_negative_seeds_have_nothing_in_common(shared: EmbeddedUpstream) -> None:
    replies = await ask_many(shared, (-2, -1, 0, 1, 2, 2**63 - 1))
    assert len({text_of(reply) for reply in replies}) == 6


# ---- batches ----


async def test_candidates_started_together_read_their_prompt_once(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    replies = await ask_many(upstream, range(12), max_tokens=10)
    n_prompt = replies[0]["usage"]["prompt_tokens"]
    assert steps.shapes[0] == (1, n_prompt)
    assert steps.shapes[1] == (12, 1)
    assert max(tokens for _, tokens in steps.shapes[1:]) == 1


async def test_other_prompts_and_other_models_are_other_batches(upstream: EmbeddedUpstream) -> None:
    steps, others = Steps(upstream), Steps(upstream, "other")
    longer = [{"role": "user", "content": "How many eggs? 12 and 13 and 14"}]
    fields = [{}, {"model": "other"}, {"messages": longer}]
    first, second, third = await asyncio.gather(*(upstream.complete(body(seed=1, **f), "r") for f in fields))
    assert len({text_of(first), text_of(second), text_of(third)}) == 3
    assert [tokens for _, tokens in steps.shapes if tokens > 1] == [
        first["usage"]["prompt_tokens"],
        third["usage"]["prompt_tokens"],
    ]
    assert [tokens for _, tokens in others.shapes if tokens > 1] == [second["usage"]["prompt_tokens"]]


async def test_finished_rows_leave_the_batch(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    calls = [body(seed=seed, max_tokens=5 if seed < 12 else 20, stop=None) for seed in range(24)]
    await asyncio.gather(*(upstream.complete(call, "r") for call in calls))
    sizes = [rows for rows, tokens in steps.shapes if tokens == 1]
    assert sizes[0] > 12
    assert max(sizes[5:]) <= 12


# ---- stop strings and characters ----


async def test_stop_string_is_found_across_token_borders(shared: EmbeddedUpstream, checkpoint: Checkpoint) -> None:
    n_split = 0
    for seed in range(12):
        whole = await shared.complete(body(seed=seed, return_token_ids=True), "r")
        text = text_of(whole)
        stop = text[7:10]
        cut = await shared.complete(body(seed=seed, stop=stop, return_token_ids=True), "r")
        assert text_of(cut) == text[: text.index(stop)]
        assert cut["choices"][0]["finish_reason"] == "stop"
        token_ids = cut["choices"][0]["token_ids"]
        assert token_ids == whole["choices"][0]["token_ids"][: len(token_ids)]
        n_split += not any(stop in checkpoint.decode([token_id]) for token_id in token_ids)
    assert n_split > 6


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_scanner_gives_the_text_before_the_first_stop_however_it_arrives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(borders)]
    scanner, shown, is_stopped = StopScanner(stops), "", False
    for place, piece in enumerate(pieces):
        released, is_stopped = scanner.push(piece, is_last=place == len(pieces) - 1)
        shown += released
        if is_stopped:
            break
    ends = [text.find(stop) for stop in stops if stop in text]
    assert is_stopped == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert any(text.startswith(shown + stop) for stop in stops)


@given(data=st.data())
def test_detokenizer_pieces_add_up_to_the_whole_text(data: st.DataObject, checkpoint: Checkpoint) -> None:
    n_tokens = checkpoint.vocab_size
    text_ids = st.text(min_size=1, max_size=12).map(lambda text: list(checkpoint.encode(text)))
    token_ids = data.draw(st.one_of(text_ids, st.lists(st.integers(0, n_tokens - 1), max_size=20)))
    detokenizer = Detokenizer(checkpoint.decode)
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join(pieces) + detokenizer.flush() == checkpoint.decode(token_ids)


@given(text=st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=12))
def test_detokenizer_never_gives_half_a_character(text: str, checkpoint: Checkpoint) -> None:
    detokenizer = Detokenizer(checkpoint.decode)
    token_ids = list(checkpoint.encode(text))
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert not any("\ufffd" in piece for piece in pieces)
    # Nothing waits for a flush. Not `text` itself: a special token in it is decoded to nothing.
    assert "".join(pieces) == checkpoint.decode(token_ids)


# ---- streams ----


async def test_streamed_text_is_the_plain_text(shared: EmbeddedUpstream) -> None:
    for seed in range(16):
        fields: dict[str, Any] = {"seed": seed, "max_tokens": 40}
        if seed % 2:
            fields["stop"] = ["an", "e", "1"]
        plain = await shared.complete(body(**fields), "r")
        chunks = await read_stream(shared, **fields)
        assert streamed_text(chunks) == text_of(plain)
        assert chunks[-1]["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"]


async def test_stream_has_role_first_finish_last_and_one_id(shared: EmbeddedUpstream) -> None:
    chunks = await read_stream(shared, seed=1)
    assert chunks[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert len(chunks) > 5
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("chatcmpl-s", chunks[0]["created"], "tiny", "chat.completion.chunk")
    }


async def test_usage_chunk_comes_only_when_asked_for(shared: EmbeddedUpstream) -> None:
    silent = await read_stream(shared, seed=1)
    assert all(chunk["choices"] for chunk in silent)
    *_, usage = await read_stream(shared, seed=1, stream_options={"include_usage": True})
    plain = await shared.complete(body(seed=1), "r")
    assert usage["choices"] == []
    assert usage["usage"] == plain["usage"]


async def test_streamed_choices_keep_their_index(shared: EmbeddedUpstream) -> None:
    chunks = await read_stream(shared, seed=70, n=3)
    plain = await shared.complete(body(seed=70, n=3), "r")
    assert [streamed_text(chunks, index) for index in range(3)] == [
        choice["message"]["content"] for choice in plain["choices"]
    ]


async def test_streamed_tokens_and_log_probabilities_are_the_plain_ones(shared: EmbeddedUpstream) -> None:
    fields: dict[str, Any] = {"seed": 8, "logprobs": True, "return_token_ids": True}
    chunks = await read_stream(shared, **fields)
    plain = await shared.complete(body(**fields), "r")
    choices = [chunk["choices"][0] for chunk in chunks]
    assert chunks[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    assert [one for choice in choices for one in choice.get("token_ids", [])] == plain["choices"][0]["token_ids"]
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert entries == plain["choices"][0]["logprobs"]["content"]


async def test_first_text_comes_before_the_row_ends(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    steps.pause_s = 0.005
    async with upstream.stream(body(seed=1, max_tokens=30), "s") as events:
        await anext(events)
        await anext(events)
        assert upstream.stats.running == 1


async def test_streams_and_plain_calls_share_a_batch(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    plain, chunks = await asyncio.gather(upstream.complete(body(seed=1), "r"), read_stream(upstream, seed=2))
    assert [tokens for _, tokens in steps.shapes if tokens > 1] == [plain["usage"]["prompt_tokens"]]
    assert streamed_text(chunks) == text_of(await upstream.complete(body(seed=2), "r"))


# ---- cancelling, waiting, closing ----


async def test_20_of_20_cancelled_rows_are_gone_within_100_ms(upstream: EmbeddedUpstream) -> None:
    Steps(upstream).pause_s = 0.005
    for round_number in range(1, 21):
        tasks = [asyncio.create_task(upstream.complete(body(seed=k, max_tokens=None), "r")) for k in range(8)]
        await until(lambda: upstream.stats.running == 8)
        for task in tasks:
            task.cancel()
        assert await until(lambda: upstream.stats.running == 0) < 0.1
        assert upstream.stats.cancelled == 8 * round_number
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)


async def test_cancelled_row_takes_at_most_the_step_under_way(upstream: EmbeddedUpstream) -> None:
    steps = Steps(upstream)
    steps.pause_s = 0.02
    task = asyncio.create_task(upstream.complete(body(seed=1, max_tokens=None), "r"))
    await until(lambda: len(steps.shapes) >= 3)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    n_steps = len(steps.shapes)
    await until(lambda: upstream.stats.cancelled == 1)
    await asyncio.sleep(0.06)
    assert len(steps.shapes) - n_steps <= 1


async def test_leaving_a_stream_cancels_its_rows(upstream: EmbeddedUpstream) -> None:
    Steps(upstream).pause_s = 0.005
    async with upstream.stream(body(seed=1, n=3, max_tokens=None), "s") as events:
        await anext(events)
    await until(lambda: upstream.stats.running == 0)
    assert upstream.stats.cancelled == 3
    assert upstream.stats.finished == 0


async def test_row_cancelled_while_it_waits_never_starts(upstream: EmbeddedUpstream) -> None:
    Steps(upstream).pause_s = 0.01
    first = asyncio.create_task(upstream.complete(body(seed=1), "r"))
    await until(lambda: upstream.stats.running == 1)
    longer = [{"role": "user", "content": "another question"}]
    waiting = [asyncio.create_task(upstream.complete(body(messages=longer), "r")) for _ in range(5)]
    await until(lambda: upstream.stats.queued == 5)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert upstream.stats.queued == 0
    await first
    assert text_of(await upstream.complete(body(seed=2), "r"))
    assert upstream.stats.started == 2
    assert upstream.stats.cancelled == 5


async def test_call_cancelled_in_the_turn_it_arrived_leaves_nothing_behind(upstream: EmbeddedUpstream) -> None:
    task = asyncio.create_task(upstream.complete(body(), "r"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await upstream.complete(body(), "r")
    assert upstream.stats.started == 1


async def test_full_queue_refuses_a_whole_batch_and_says_when_to_come_back(tiny_checkpoint: Path) -> None:
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint}, max_queue=10)
    await upstream.start()
    Steps(upstream).pause_s = 0.01
    running = asyncio.create_task(upstream.complete(body(max_tokens=None), "r"))
    await until(lambda: upstream.stats.running == 1)
    waiting = [asyncio.create_task(upstream.complete(body(), "r")) for _ in range(6)]
    await until(lambda: upstream.stats.queued == 6)
    refused = await asyncio.gather(*(upstream.complete(body(), "r") for _ in range(5)), return_exceptions=True)
    for error in refused:
        assert isinstance(error, UpstreamBusy)
        assert error.status == 429
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
    assert len({id(error) for error in refused}) == 5
    assert upstream.stats.queued == 6
    with pytest.raises(UpstreamBusy):
        async with upstream.stream(body(n=5), "s"):
            pytest.fail("a refused stream must not open")
    running.cancel()
    assert all(text_of(reply) for reply in await asyncio.gather(*waiting))
    await upstream.close()


async def test_many_equal_requests_fill_the_queue_before_the_rest_is_refused(tiny_checkpoint: Path) -> None:
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint}, max_queue=8)
    await upstream.start()
    Steps(upstream).pause_s = 0.01
    results = await asyncio.gather(*(upstream.complete(body(seed=k), "r") for k in range(20)), return_exceptions=True)
    served = [result for result in results if isinstance(result, dict)]
    assert len(served) >= 8
    assert results[:8] == served[:8]
    assert all(isinstance(result, dict | UpstreamBusy) for result in results)
    await upstream.close()


async def test_failed_step_reaches_every_caller_and_the_worker_lives_on(upstream: EmbeddedUpstream) -> None:
    Steps(upstream).failure = RuntimeError("out of everything, also of the prompt's secrets")
    results = await asyncio.gather(*(upstream.complete(body(seed=k), "r") for k in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamError] * 3
    assert "secrets" not in str(results[0])
    assert upstream.stats.failed == 3
    assert upstream.stats.running == 0
    assert text_of(await upstream.complete(body(seed=1), "r"))


async def test_broken_weights_are_an_error_and_not_a_text(upstream: EmbeddedUpstream) -> None:
    import torch

    with torch.no_grad():
        upstream._engine.checkpoints["other"]._model.model.norm.weight.fill_(math.nan)
    with pytest.raises(UpstreamError, match="not a number"):
        await upstream.complete(body(model="other"), "r")


async def test_close_ends_running_and_waiting_rows_and_the_thread(tiny_checkpoint: Path) -> None:
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint})
    await upstream.start()
    Steps(upstream).pause_s = 0.02
    running = asyncio.create_task(upstream.complete(body(max_tokens=None), "r"))
    await until(lambda: upstream.stats.running == 1)
    waiting = asyncio.create_task(upstream.complete(body(), "r"))
    await until(lambda: upstream.stats.queued == 1)
    began = time.perf_counter()
    await upstream.close()
    assert time.perf_counter() - began < 0.5
    assert upstream._engine._thread is not None
    assert not upstream._engine._thread.is_alive()
    for task in (running, waiting):
        with pytest.raises(UpstreamUnreachable, match="closed"):
            await task
    with pytest.raises(UpstreamUnreachable, match="closed"):
        await upstream.complete(body(), "r")
    await upstream.close()


async def test_first_call_loads_what_start_did_not(tiny_checkpoint: Path) -> None:
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint})
    replies = await ask_many(upstream, range(4))
    assert all(text_of(reply) for reply in replies)
    await upstream.close()


async def test_caller_who_gives_up_while_loading_does_not_spoil_it_for_the_next(tiny_checkpoint: Path) -> None:
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint})
    impatient = asyncio.create_task(upstream.complete(body(), "r"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert text_of(await upstream.complete(body(), "r"))
    assert impatient.cancelled()
    await upstream.close()


def test_engine_works_under_uvloop(tiny_checkpoint: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def ask() -> list[str]:
        upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint})
        await upstream.start()
        steps = Steps(upstream)
        replies = await ask_many(upstream, range(4))
        chunks = await read_stream(upstream, seed=2)
        await upstream.close()
        assert [rows for rows, tokens in steps.shapes if tokens > 1] == [1, 1]
        return [text_of(replies[2]), streamed_text(chunks)]

    plain, streamed = uvloop.run(ask())
    assert plain == streamed


# ---- refusals ----


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": "7"}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"stream_options": []}, "stream_options"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "1" * CONTEXT}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 3_000_000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_bad_value_is_refused_by_name(shared: EmbeddedUpstream, fields: dict[str, Any], param: str) -> None:
    for ask in (lambda: shared.complete(body(**fields), "r"), lambda: read_stream(shared, **fields)):
        with pytest.raises(UpstreamRejected) as caught:
            await ask()
        assert (caught.value.status, caught.value.param) == (400, param)
        assert str(caught.value).startswith(param)
        assert len(str(caught.value)) < 200


async def test_template_s_own_words_reach_the_client(shared: EmbeddedUpstream) -> None:
    with pytest.raises(UpstreamRejected, match="a tool cannot begin"):
        await shared.complete(body(messages=[{"role": "tool", "content": "x"}]), "r")


async def test_prompt_log_probabilities_are_refused_on_a_stream(shared: EmbeddedUpstream) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await read_stream(shared, prompt_logprobs=0)
    assert caught.value.param == "prompt_logprobs"


async def test_unknown_model_is_a_404(shared: EmbeddedUpstream) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await shared.complete(body(model="huge"), "r")
    assert caught.value.status == 404


# ---- the other routes ----


async def test_model_cards_name_folder_and_context(shared: EmbeddedUpstream, tiny_checkpoint: Path) -> None:
    cards = await shared.models()
    assert [card["id"] for card in cards] == ["tiny", "other"]
    assert cards[0]["root"] == str(tiny_checkpoint)
    assert cards[0]["max_model_len"] == CONTEXT
    assert (cards[0]["object"], cards[0]["owned_by"], cards[0]["parent"]) == ("model", "its-proxy", None)


async def test_tokenize_gives_the_tokens_that_a_chat_reads(shared: EmbeddedUpstream) -> None:
    asked = json.dumps({"model": "tiny", "messages": QUESTION}).encode()
    reply = await shared.forward("POST", "tokenize", asked, "application/json")
    served = await shared.complete(body(return_token_ids=True), "r")
    assert reply.status == 200
    assert json.loads(reply.body) == {
        "count": served["usage"]["prompt_tokens"],
        "max_model_len": CONTEXT,
        "tokens": served["prompt_token_ids"],
    }


@pytest.mark.parametrize(
    ("method", "path", "payload", "status"),
    [
        ("POST", "embeddings", b"{}", 404),
        ("GET", "tokenize", b"", 404),
        ("POST", "tokenize", b"{", 400),
        ("POST", "tokenize", b"[]", 400),
        ("POST", "tokenize", b'{"model": "huge", "messages": []}', 404),
    ],
)
async def test_other_routes_are_refused(
    shared: EmbeddedUpstream, method: str, path: str, payload: bytes, status: int
) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await shared.forward(method, path, payload, "application/json")
    assert caught.value.status == status


# ---- loading ----


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, its_proxy.upstreams.embedded; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_missing_torch_is_said_with_the_way_to_get_it(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    upstream = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint})
    with pytest.raises(ConfigError, match=r"its-proxy\[embedded\]"):
        await upstream.start()
    with pytest.raises(UpstreamUnreachable, match=r"its-proxy\[embedded\]"):
        await upstream.complete(body(), "r")
    await upstream.close()


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_folder_without_its_files_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path, missing: str) -> None:
    for file in tiny_checkpoint.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    upstream = EmbeddedUpstream("embedded", {"tiny": tmp_path})
    with pytest.raises(ConfigError, match=Path(missing).suffix):
        await upstream.start()


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_broken_file_is_one_clear_line(tiny_checkpoint: Path, tmp_path: Path, broken: str) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(b"\x00\x01" if file.name == broken else file.read_bytes())
    upstream = EmbeddedUpstream("embedded", {"tiny": tmp_path})
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        await upstream.start()
    assert "\n" not in str(caught.value)


async def test_folder_without_a_chat_template_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    upstream = EmbeddedUpstream("embedded", {"tiny": tmp_path})
    with pytest.raises(ConfigError, match="chat template"):
        await upstream.start()


async def test_one_folder_that_cannot_be_loaded_leaves_the_others_serving(tiny_checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"cut")
    engine = EmbeddedUpstream("e", {"broken": broken, "tiny": tiny_checkpoint})
    try:
        await engine.start()
        assert [card["id"] for card in await engine.models()] == ["tiny"]
        with pytest.raises(UpstreamRejected, match="broken"):
            await engine.complete({"model": "broken", "messages": [{"role": "user", "content": "1"}]}, "r")
    finally:
        await engine.close()
