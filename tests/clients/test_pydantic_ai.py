"""pydantic-ai's Agent, which calls its tools itself."""

import pytest

from tests.clients.cells import SCHEMA, TOOLS, VOTED, answer_of, calls_of, last_text, voted
from tests.clients.program import FOLDER, running
from tests.clients.usual import test_pass_through, test_rewritten, test_voted_stream  # noqa: F401
from tests.clients.world import QUERY, TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "pydantic-ai", "pydantic-ai-slim", "pydantic-ai"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_pydantic_ai.py")


@pytest.mark.cell(VOTED)
async def test_voted(program):
    await voted(program)


@pytest.mark.cell(TOOLS)
async def test_tools(program):
    """The tool is called here, and its result goes back in a second turn."""
    told = await program.ask("tools", "plain")
    assert (told["text"], calls_of(told)) == (TEXT, [("adding", {"a": 2, "b": 5})])
    first, second = program.world.asked
    assert (last_text(first), second["messages"][-1]["content"]) == (QUERY, "7")


@pytest.mark.cell(TOOLS)
async def test_tools_voted_on(program):
    """The turn that calls is voted on; the one that ends it has no call, so two candidates are enough of it."""
    told = await program.ask("tools", "calling")
    assert (told["text"], calls_of(told)) == (TEXT, [("adding", {"a": 2, "b": 5})])
    assert [body["messages"][-1]["role"] for body in program.world.asked] == ["user"] * N + ["tool"] * N


@pytest.mark.cell(SCHEMA)
@pytest.mark.parametrize("model", ["plain", "voted"])
async def test_json_schema(program, model):
    assert answer_of(await program.ask("schema", model)) == 7
    assert len(program.world.asked) == (N if model == "voted" else 1)
