"""LlamaIndex's OpenAILike, which asks for a temperature of 0.1 unless it is told another."""

import pytest

from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED,
    VOTED_STREAM,
    answer_of,
    calls_of,
    passed_through,
    rewritten,
    voted,
    voted_stream,
)  # fmt: skip
from tests.clients.program import FOLDER, running
from tests.clients.world import QUERY, TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "LlamaIndex", "llama-index-llms-openai-like", "llama-index"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_llama_index.py")


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("kind", ["text", "stream"])
async def test_pass_through(program, kind):
    await passed_through(program, kind)


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("kind", ["text", "stream"])
async def test_rewritten(program, kind):
    await rewritten(program, kind)


@pytest.mark.cell(VOTED)
async def test_voted(program):
    await voted(program)
    assert {body["temperature"] for body in program.world.asked} == {0.8}, "the manifest owns a vote's temperature"


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(program):
    await voted_stream(program)


@pytest.mark.cell(TOOLS)
@pytest.mark.parametrize("model", ["plain", "calling"])
async def test_tools(program, model):
    assert calls_of(await program.ask("tools", model)) == [("add", {"a": 2, "b": 5})]
    assert len(program.world.asked) == (N if model == "calling" else 1)


@pytest.mark.cell(SCHEMA)
@pytest.mark.parametrize("model", ["plain", "voted"])
async def test_json_schema(program, model):
    assert answer_of(await program.ask("schema", model)) == 7
    assert len(program.world.asked) == (N if model == "voted" else 1)


async def test_completions(program):
    """Asked for no chat model, it uses /v1/completions."""
    assert (await program.ask("completion", "untouched"))["text"] == TEXT
    assert [body["prompt"] for body in program.world.asked] == [QUERY] * N
