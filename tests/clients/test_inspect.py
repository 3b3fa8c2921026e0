"""inspect-ai, as `openai-api/its/NAME`, by a task of one sum; `make test-eval` tests its-proxy's own task for it."""

import pytest

from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED,
    VOTED_STREAM,
    answer_of,
    passed_through,
    rewritten,
    voted,
    voted_stream,
)
from tests.clients.program import FOLDER, running
from tests.clients.world import TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "inspect-ai", "inspect-ai", "inspect"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_inspect.py")


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("kind", ["text", "stream"])
async def test_pass_through(program, kind):
    assert (await passed_through(program, kind))["is_right"]


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("kind", ["text", "stream"])
async def test_rewritten(program, kind):
    assert (await rewritten(program, kind))["is_right"]


@pytest.mark.cell(VOTED)
async def test_voted(program):
    assert (await voted(program))["is_right"]


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(program):
    await voted_stream(program)


@pytest.mark.cell(TOOLS)
@pytest.mark.parametrize(("model", "n"), [("plain", 1), ("calling", N)])
async def test_tools(program, model, n):
    """The tool is called here, and its result goes back in a second turn."""
    assert (await program.ask("tools", model))["text"] == TEXT
    results = [body["messages"][-1] for body in program.world.asked if body["messages"][-1]["role"] == "tool"]
    assert {result["content"] for result in results} == {"7"}
    assert len(program.world.asked) - len(results) == n


@pytest.mark.cell(SCHEMA)
@pytest.mark.parametrize(("model", "n"), [("plain", 1), ("voted", N)])
async def test_json_schema(program, model, n):
    assert answer_of(await program.ask("schema", model)) == 7
    assert [body["response_format"]["type"] for body in program.world.asked] == ["json_schema"] * n
