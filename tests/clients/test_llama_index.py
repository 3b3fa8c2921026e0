"""LlamaIndex's OpenAILike, which asks for a temperature of 0.1 unless it is told another."""

import pytest

from tests.clients.cells import VOTED, voted
from tests.clients.program import FOLDER, running
from tests.clients.usual import *  # noqa: F403
from tests.clients.world import QUERY, TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "LlamaIndex", "llama-index-llms-openai-like", "llama-index"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_llama_index.py")


@pytest.mark.cell(VOTED)
async def test_voted(program):
    await voted(program)
    assert {body["temperature"] for body in program.world.asked} == {0.8}, "the manifest owns a vote's temperature"


async def test_completions(program):
    """Asked for no chat model, it uses /v1/completions."""
    assert (await program.ask("completion", "untouched"))["text"] == TEXT
    assert [body["prompt"] for body in program.world.asked] == [QUERY] * N
