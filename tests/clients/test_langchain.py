"""LangChain's ChatOpenAI. It drops what it does not know, `its` among it: the vote reaches it in the headers alone."""

import pytest

from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED,
    VOTED_STREAM,
    all_with_persona,
    answer_of,
    calls_of,
    passed_through,
    rewritten,
    voted,
    voted_stream,
)  # fmt: skip
from tests.clients.program import FOLDER, running
from tests.clients.world import EMBEDDING, TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "LangChain", "langchain-openai", "langchain"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_langchain.py")


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
    headers = (await voted(program))["headers"]
    assert (headers["x-its-votes"], headers["x-its-agreement"]) == (f"{N}/{N}/{N}", "0.7500")


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


async def test_several_choices(program):
    assert (await program.ask("several", "voted"))["texts"] == [TEXT] * 3
    all_with_persona(program.world)


async def test_overrides_by_extra_body(program):
    assert (await program.ask("overridden", "voted"))["headers"]["x-its-votes"] == "2/2/2"


async def test_embeddings(program):
    assert (await program.ask("embeddings", "plain"))["embedding"] == EMBEDDING
