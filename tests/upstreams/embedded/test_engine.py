"""The engine's thread: who shares its batches, who leaves them, and how it ends."""

import asyncio
import contextlib
import math
import time
from pathlib import Path

import pytest

from its_proxy.codesign.errors import UpstreamBusy, UpstreamError, UpstreamUnreachable
from its_proxy.upstreams.embedded import EmbeddedUpstream
from tests.upstreams.embedded.asking import Steps, ask_many, body, read_stream, streamed_text, text_of, until

# -- batches -----------------------------------------------------------------------------------------------------------


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


# -- cancelling, waiting, closing --------------------------------------------------------------------------------------


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
