"""Simon Willison's `llm`, the command."""

import json

import pytest
import yaml

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
from tests.clients.world import KEY, MODELS, QUERY, TEXT, N

CLIENT, DISTRIBUTION, ENVIRONMENT = "llm", "llm", "llm"
NOT_APPLICABLE: dict[str, str] = {}
ADD = "def add(a: int, b: int) -> int:\n    return a + b\n"
SUM = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def llm(installed, world, tmp_path):
    """The command, its models in the file that its documentation names."""
    models = [
        {"model_id": f"its/{name}", "model_name": name, "api_base": world.url, "api_key_name": "its",
         "supports_tools": True, "supports_schema": True}
        for name in MODELS
    ]  # fmt: skip
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    (tmp_path / "keys.json").write_text(json.dumps({"its": KEY}))

    async def ask(model: str, *options: str) -> str:
        command = (installed.program("llm"), "prompt", "-m", f"its/{model}", *options, QUERY)
        return (await run(*command, LLM_USER_PATH=str(tmp_path))).out.strip()

    return ask


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("options", [("--no-stream",), ()])
async def test_pass_through(llm, world, options):
    assert await llm("plain", *options) == TEXT
    one_as_it_came(world)


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("options", [("--no-stream",), ()])
async def test_rewritten(llm, world, options):
    assert await llm("rewritten", *options) == TEXT
    one_with_persona(world)


@pytest.mark.cell(VOTED)
async def test_voted(llm, world):
    assert await llm("voted", "--no-stream") == TEXT
    all_with_persona(world)


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(llm, world):
    """The command streams unless it is told otherwise."""
    assert await llm("voted") == TEXT
    all_with_persona(world)


@pytest.mark.cell(TOOLS)
@pytest.mark.parametrize("options", [("--no-stream",), ()])
async def test_tools(llm, world, options):
    """The function is called here, and its result goes back."""
    assert await llm("plain", "--functions", ADD, *options) == TEXT
    assert [body["messages"][-1]["role"] for body in world.asked] == ["user", "tool"]
    assert world.asked[-1]["messages"][-1]["content"] == "7"


@pytest.mark.cell(TOOLS)
async def test_tools_voted_on(llm, world):
    assert await llm("calling", "--functions", ADD) == TEXT
    assert [body["messages"][-1]["role"] for body in world.asked].count("user") == N
    assert {body["messages"][-1]["content"] for body in world.asked if body["messages"][-1]["role"] == "tool"} == {"7"}


@pytest.mark.cell(SCHEMA)
@pytest.mark.parametrize("model", ["plain", "voted"])
async def test_json_schema(llm, world, model):
    assert json.loads(await llm(model, "--schema", json.dumps(SUM))) == {"answer": 7}
    assert len(world.asked) == (N if model == "voted" else 1)
