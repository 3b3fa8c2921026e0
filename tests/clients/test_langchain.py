"""LangChain's ChatOpenAI. It drops what it does not know, `its` among it: the vote reaches it in the headers alone."""

import pytest

from tests.clients.cells import VOTED, all_with_persona, voted
from tests.clients.program import FOLDER, running
from tests.clients.usual import *  # noqa: F403
from tests.clients.world import EMBEDDING, TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "LangChain", "langchain-openai", "langchain"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_langchain.py")


@pytest.mark.cell(VOTED)
async def test_voted(program):
    headers = (await voted(program))["headers"]
    assert (headers["x-its-votes"], headers["x-its-agreement"]) == (f"{N}/{N}/{N}", "0.7500")


async def test_several_choices(program):
    assert (await program.ask("several", "voted"))["texts"] == [TEXT] * 3
    all_with_persona(program.world)


async def test_overrides_by_extra_body(program):
    assert (await program.ask("overridden", "voted"))["headers"]["x-its-votes"] == "2/2/2"


async def test_embeddings(program):
    assert (await program.ask("embeddings", "plain"))["embedding"] == EMBEDDING
