"""vLLM's own load generator, `vllm bench serve`, which reads streams by hand and stumbles over named events."""

from pathlib import Path

import pytest

import its_proxy
from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED,
    VOTED_STREAM,
    passed_through,
    rewritten,
    voted_stream,
)
from tests.clients.program import FOLDER, running
from tests.clients.world import TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "vllm bench serve", "vllm", "vllm"
NOT_APPLICABLE = {VOTED: "it always streams", TOOLS: "it sends no tools", SCHEMA: "it sends no response_format"}
TOKENIZER = Path(its_proxy.__file__).parent / "demo/demo-none"
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_bench_serve.py", TOKENIZER=str(TOKENIZER))


@pytest.mark.cell(PLAIN)
async def test_pass_through(program):
    told = await passed_through(program, "stream")
    assert (told["completed"], told["failed"], told["total_output_tokens"]) == (1, 0, 10)
    assert program.world.asked[0]["stream_options"]["include_usage"] is True


@pytest.mark.cell(REWRITTEN)
async def test_rewritten(program):
    await rewritten(program, "stream")


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(program):
    """Its output tokens are those of all candidates, which is what the answer has cost."""
    told = await voted_stream(program)
    assert (told["completed"], told["total_output_tokens"]) == (1, N * 10)


@pytest.mark.parametrize(("model", "n"), [("plain", 1), ("untouched", N)])
async def test_completions(program, model, n):
    """Its other backend, streamed as well."""
    told = await program.ask("completion", model)
    assert (told["text"].strip(), told["completed"]) == (TEXT, 1)
    assert len(program.world.asked) == n
