"""aider, which streams and asks for a temperature of 0 unless it is told otherwise."""

import pytest

from tests.clients.cells import (
    PLAIN,
    REWRITTEN,
    SCHEMA,
    TOOLS,
    VOTED,
    VOTED_STREAM,
    all_with_persona,
    one_as_it_came,
    one_with_persona,
)  # fmt: skip
from tests.clients.program import run
from tests.clients.world import KEY

CLIENT, DISTRIBUTION, ENVIRONMENT = "aider", "aider-chat", "aider"
NOT_APPLICABLE = {TOOLS: "it edits files by text", SCHEMA: "it asks for no JSON"}
QUERY = "What is 2 + 5? Write it to sum.txt"
QUIET = (
    "--yes-always", "--no-git", "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings",
    "--no-detect-urls", "--no-pretty", "--no-analytics", "--no-suggest-shell-commands", "--map-tokens", "0",
)  # fmt: skip
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def edit(installed, world, tmp_path):
    """One message in an empty folder; what then stands in the file that it asks for."""

    async def send(model: str, *options: str) -> str:
        await run(
            installed.program("aider"), "--model", f"openai/{model}", "--openai-api-base", world.url,
            "--openai-api-key", KEY, "--edit-format", "whole", *QUIET, *options, "--message", QUERY,
            cwd=tmp_path, HOME=str(tmp_path),
        )  # fmt: skip
        return (tmp_path / "sum.txt").read_text().strip()

    return send


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("options", [(), ("--no-stream",)])
async def test_pass_through(edit, world, options):
    assert await edit("plain", *options) == "7"
    one_as_it_came(world, QUERY)


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("options", [(), ("--no-stream",)])
async def test_rewritten(edit, world, options):
    assert await edit("rewritten", *options) == "7"
    one_with_persona(world, QUERY)


@pytest.mark.cell(VOTED)
async def test_voted(edit, world):
    assert await edit("voted", "--no-stream") == "7"
    bodies = all_with_persona(world, QUERY)
    assert {body["temperature"] for body in bodies} == {0.8}, "the manifest owns a vote's temperature"


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(edit, world):
    assert await edit("voted") == "7"
    all_with_persona(world, QUERY)
