"""The ends of a real vLLM under `--engine vllm` that each take a start of their own; `make test-vllm` leaves them out.

ITS_VLLM=... .venv/bin/python -m pytest tests/real_vllm/torture_engine.py
"""

import asyncio
import os
import signal

import pytest

from tests.engine import error_line
from tests.processes import command_line
from tests.real_vllm.conftest import QUERIES
from tests.real_vllm.test_engine import START_S, ask, vllm_of

READY = "its-proxy serves demo-random at"


def process_of(server, word):
    """The process id of the one process of vLLM whose command line holds `word`."""
    lines = {pid: command_line(pid) for pid in server.engines()}
    found = [pid for pid, line in lines.items() if word in line and not any("guard.py" in part for part in line)]
    assert len(found) == 1, lines
    return found[0]


@pytest.mark.parametrize("words", ["non-default args", "Initializing a V1 LLM engine", "Starting to load model"])
async def test_an_interrupt_while_it_starts_leaves_no_process(checkpoint, words):
    async with vllm_of(checkpoint) as server:
        await server.hear(words, START_S)
        done = await server.end(signal.SIGINT)
        assert server.engines() == []
    assert done.code == 0, done.err


async def test_a_second_interrupt_leaves_no_process_either(checkpoint):
    async with vllm_of(checkpoint) as server:
        await server.hear(READY, START_S)
        done = await server.end(signal.SIGINT, signal.SIGINT)
        assert server.engines() == []
    assert done.code in (0, 1), done.err


@pytest.mark.parametrize("words", ["non-default args", "Initializing a V1 LLM engine", READY])
async def test_a_killed_proxy_leaves_no_process(checkpoint, words):
    async with vllm_of(checkpoint) as server:
        await server.hear(words, START_S)
        server.process.kill()
        await server.process.wait()
        await server.until_nobody_is_left()


@pytest.mark.parametrize(("victim", "words"), [
    ("serve", "Error: vLLM was killed by signal 9: "),
    ("VLLM::EngineCore", "Error: vLLM ended with exit code "),
    ("VLLM::Worker", "Error: vLLM ended with exit code 0: Worker proc VllmWorker-0 died unexpectedly "),
])  # fmt: skip
async def test_whichever_of_its_processes_is_killed_the_proxy_ends_with_it(checkpoint, victim, words):
    async with vllm_of(checkpoint) as server:
        await server.hear(READY, START_S)
        await ask(server, QUERIES[0])
        os.kill(process_of(server, victim), signal.SIGKILL)
        done = await server.end(timeout_s=60)
        assert server.engines() == []
    assert error_line(done).startswith(words)


async def test_more_memory_than_there_is_is_one_clear_end(checkpoint):
    async with vllm_of(checkpoint, VLLM_CPU_KVCACHE_SPACE="4000") as server:
        done = await server.end(timeout_s=START_S)
    assert "before it was ready: ValueError: Available memory on node 0" in error_line(done)


async def test_a_longer_context_than_the_model_has_is_one_clear_end(checkpoint):
    async with vllm_of(checkpoint, "--max-model-len", "2048") as server:
        done = await server.end(timeout_s=START_S)
    assert "User-specified max_model_len (2048) is greater than" in error_line(done)


async def test_a_port_that_was_taken_meanwhile_is_one_clear_end(checkpoint):
    """The port is ours to choose, so it takes someone who is faster than vLLM."""
    async with vllm_of(checkpoint) as server:
        port = int((await server.hear("--port ")).rpartition("--port ")[2].split()[0])
        other = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
        async with other:
            done = await server.end(timeout_s=START_S)
    assert "ddress already in use" in error_line(done)
