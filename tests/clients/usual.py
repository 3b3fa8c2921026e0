"""What most libraries offer for a chat model: tests for their modules, which ask a program by name."""

import pytest

from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED_STREAM,
    answer_of,
    calls_of,
    passed_through,
    rewritten,
    voted_stream,
)  # fmt: skip
from tests.clients.world import N


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("kind", ["text", "stream"])
async def test_pass_through(program, kind):
    await passed_through(program, kind)


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("kind", ["text", "stream"])
async def test_rewritten(program, kind):
    await rewritten(program, kind)


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
