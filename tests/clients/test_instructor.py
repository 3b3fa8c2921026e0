"""instructor: each answer is a pydantic model, read from a tool call or from JSON, and never a plain text."""

import pytest

from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED,
    VOTED_STREAM,
    passed_through,
    rewritten,
    voted,
    voted_stream,
)  # fmt: skip
from tests.clients.program import FOLDER, running

CLIENT, DISTRIBUTION, ENVIRONMENT = "instructor", "instructor", "instructor"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_instructor.py")


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("kind", ["tools", "schema", "stream"])
async def test_pass_through(program, kind):
    await passed_through(program, kind)


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("kind", ["tools", "schema", "stream"])
async def test_rewritten(program, kind):
    await rewritten(program, kind)


@pytest.mark.cell(VOTED)
async def test_voted(program):
    await voted(program, "schema")


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(program):
    """The pieces of a model that is not whole yet (create_partial)."""
    await voted_stream(program)


@pytest.mark.cell(TOOLS)
async def test_tools_voted_on(program):
    await voted(program, "tools", model="calling")


@pytest.mark.cell(SCHEMA)
async def test_json_schema(program):
    await voted(program, "schema")
