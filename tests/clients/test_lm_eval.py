"""lm-evaluation-harness, `local-chat-completions` and `local-completions`, by a task of one sum."""

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
)
from tests.clients.program import FOLDER, running
from tests.clients.world import N

CLIENT, DISTRIBUTION, ENVIRONMENT = "lm-evaluation-harness", "lm_eval", "lm-eval"
NOT_APPLICABLE = {
    VOTED_STREAM: "it never streams",
    TOOLS: "it sends no tools",
    SCHEMA: "it sends no response_format",
}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_lm_eval.py")


@pytest.mark.cell(PLAIN)
async def test_pass_through(program):
    assert (await passed_through(program))["score"] == 1.0
    assert program.world.asked[0]["seed"] == 1234


@pytest.mark.cell(REWRITTEN)
async def test_rewritten(program):
    assert (await rewritten(program))["score"] == 1.0


@pytest.mark.cell(VOTED)
async def test_voted(program):
    """It sends one seed with every item: the candidates count on from it."""
    assert (await voted(program))["score"] == 1.0
    assert sorted(body["seed"] for body in program.world.asked) == [1234 + k for k in range(N)]


async def test_completions_voted(program):
    """`local-completions`, which knows no chat."""
    assert (await program.ask("completion", "untouched"))["score"] == 1.0
    assert len(program.world.asked) == N
