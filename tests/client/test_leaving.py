"""Whoever leaves a call or a stream, in any way, ends its candidates."""

import asyncio
import gc

import pytest

from its_proxy.client import wrap
from tests.client.wrapped import ASK, checkpoint, client_at, engine, wrapped


async def test_a_cancelled_call_cancels_its_candidates(tmp_path):
    async with wrapped(tmp_path) as (client, upstream):
        asking = asyncio.create_task(client.chat.completions.create(**ASK, user="wait 30"))
        await upstream.until(lambda: len(upstream.bodies) == 8)
        asking.cancel()
        await upstream.until(lambda: upstream.n_cancelled == 8)


@pytest.mark.parametrize("way", ["close", "with", "unread"])
async def test_a_stream_that_is_left_cancels_its_candidates(tmp_path, monkeypatch, way):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)
    async with wrapped(tmp_path) as (client, upstream):
        stream = await client.chat.completions.create(**ASK, stream=True, user="wait 30")
        await upstream.until(lambda: len(upstream.bodies) == 8)
        if way == "unread":
            await stream.close()
        elif way == "close":
            await anext(stream)
            await stream.close()
        else:
            async with stream:
                await anext(stream)
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_a_stream_that_is_dropped_cancels_its_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)
    async with wrapped(tmp_path) as (client, upstream):
        stream = await client.chat.completions.create(**ASK, stream=True, user="wait 30")
        await upstream.until(lambda: len(upstream.bodies) == 8)
        async for _ in stream:
            break
        del stream

        def is_cancelled():
            gc.collect()  # as Python does by itself, sooner or later
            return upstream.n_cancelled == 8

        await upstream.until(is_cancelled)


async def test_whoever_still_reads_a_stream_that_another_closes_comes_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("its_proxy.exchange.STREAM_BEGINS_S", 0.01)
    async with wrapped(tmp_path) as (client, upstream):
        response = await client.chat.completions.with_raw_response.create(**ASK, stream=True, user="wait 30")
        stream = response.parse()
        await upstream.until(lambda: len(upstream.bodies) == 8)
        await anext(stream)
        reading = asyncio.create_task(anext(stream, "end"))
        await asyncio.sleep(0)
        await response.http_response.aclose()
        assert await asyncio.wait_for(reading, 5) == "end"
        await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_closing_leaves_no_task_behind(tmp_path):
    async with engine() as upstream:
        before = asyncio.all_tasks()
        async with wrap(client_at(upstream), checkpoint=checkpoint(tmp_path)) as client:
            await client.chat.completions.create(**ASK)
            left = await client.chat.completions.create(**ASK, stream=True)
            await anext(left)
            await left.close()
            assert asyncio.all_tasks() > before
        assert {task for task in asyncio.all_tasks() - before if "its_proxy" in repr(task)} == set()
