"""guidellm, a load generator that asks for /health and the models before it begins."""

import json

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
from tests.clients.world import KEY, QUERY

CLIENT, DISTRIBUTION, ENVIRONMENT = "guidellm", "guidellm", "guidellm"
NOT_APPLICABLE = {TOOLS: "it sends no tools", SCHEMA: "it sends no response_format"}
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def benchmark(installed, world, tmp_path):
    """Sends one query; its requests that were answered."""

    async def measure(model: str, *, is_stream: bool):
        (tmp_path / "queries.jsonl").write_text(json.dumps({"prompt": QUERY}) + "\n")
        backend = {"api_key": KEY, "stream": is_stream}
        await run(
            installed.program("guidellm"), "benchmark", "run", "--target", world.root, "--model", model,
            "--request-type", "chat_completions", "--profile", "synchronous", "--max-requests", 1,
            "--data", tmp_path / "queries.jsonl", "--backend-kwargs", json.dumps(backend),
            "--outputs", "json", "--output-dir", tmp_path,
            cwd=tmp_path, HOME=str(tmp_path),
        )  # fmt: skip
        [benchmark] = json.loads((tmp_path / "benchmarks.json").read_text())["benchmarks"]
        return benchmark["requests"]

    return measure


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_pass_through(benchmark, world, is_stream):
    assert len((await benchmark("plain", is_stream=is_stream))["successful"]) == 1
    one_as_it_came(world)


@pytest.mark.cell(REWRITTEN)
async def test_rewritten(benchmark, world):
    assert len((await benchmark("rewritten", is_stream=True))["successful"]) == 1
    one_with_persona(world)


@pytest.mark.cell(VOTED)
async def test_voted(benchmark, world):
    assert len((await benchmark("voted", is_stream=False))["successful"]) == 1
    all_with_persona(world)


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(benchmark, world):
    assert len((await benchmark("voted", is_stream=True))["successful"]) == 1
    all_with_persona(world)
