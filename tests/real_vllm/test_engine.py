"""`its-proxy serve CHECKPOINT --engine vllm` with the real vLLM: one whole life, and one that never begins.

What takes a start for each moment of it (kills, signals, memory) stands in torture_engine.py.
"""

import asyncio
import re
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.engine import Starting, error_line, starting
from tests.real_vllm.conftest import QUERIES, pair_name
from tests.real_vllm.server import VARIABLES, vllm_command

FLAGS = ("--enforce-eager",)
START_S = 300.0


@asynccontextmanager
async def vllm_of(checkpoint, *flags, **variables):
    """its-proxy whose port is open and whose vLLM is starting; at the end no process of it is left."""
    async with starting(checkpoint, *FLAGS, *flags, vllm=str(vllm_command()), **VARIABLES | variables) as server:
        yield server


def shared_memory_of(pids: list[int]) -> set[Path]:
    """The files in /dev/shm that these processes have mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return {Path(name) for name in re.findall(r" (/dev/shm/\S+)$", maps, re.MULTILINE)}


async def ask(server: Starting, query: str) -> dict:
    """The voted reply, as soon as there is one."""
    body = {"model": "demo-random", "messages": [{"role": "user", "content": query}], "its": {"n": 8}}
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.post(f"{server.url}/chat/completions", json=body) as reply:
                document = await reply.json()
                if reply.status == 200:
                    return document
                assert document["error"]["code"] == "model_pending"
            await asyncio.sleep(0.2)


async def test_from_the_command_to_a_voted_answer_and_an_interrupt_leaves_no_process(checkpoint):
    async with vllm_of(checkpoint) as server:
        heard = await server.hear("its-proxy serves demo-random at", START_S)
        assert f"--served-model-name {pair_name(checkpoint)}" in heard
        assert "\nvLLM is ready after " in heard
        reply = await ask(server, QUERIES[0])
        assert reply["its"]["handshake"] == "verified"
        assert sum(reply["its"]["votes"].values()) + sum(reply["its"]["abstained"].values()) > 0
        assert len(server.engines()) >= 4, "guard, API server, engine core, worker"
        memory = shared_memory_of(server.engines())
        assert memory
        done = await server.end(signal.SIGINT)
        assert server.engines() == []
    assert done.code == 0, done.err
    assert not [file for file in memory if file.exists()]


async def test_a_flag_that_vllm_does_not_know_is_one_clear_end(checkpoint):
    async with vllm_of(checkpoint, "--no-such-flag") as server:
        done = await server.end(timeout_s=START_S)
    assert error_line(done) == (
        "Error: vLLM ended with exit code 2 before it was ready: unrecognized arguments: --no-such-flag"
    )
