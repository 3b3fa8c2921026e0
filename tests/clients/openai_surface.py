"""What OpenAI's own packages offer for a chat model, the same for Python and for JavaScript: tests for both modules."""

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
    one_as_it_came,
    passed_through,
    rewritten,
    voted,
    voted_stream,
)  # fmt: skip
from tests.clients.world import EMBEDDING, MODELS, TEXT, N

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.cell(PLAIN)
@pytest.mark.parametrize("kind", ["text", "stream", "stream_helper", "raw", "responses", "responses_stream"])
async def test_pass_through(program, kind):
    told = await passed_through(program, kind)
    assert told.get("its") is None


@pytest.mark.cell(REWRITTEN)
@pytest.mark.parametrize("kind", ["text", "stream", "stream_helper", "raw", "responses", "responses_stream"])
async def test_rewritten(program, kind):
    await rewritten(program, kind)


@pytest.mark.cell(VOTED)
async def test_voted(program):
    told = await voted(program)
    assert (told["finish_reason"], told["n_choices"]) == ("stop", 1)
    assert told["its"]["votes"] == {"7": 3, "9": 1}
    assert told["total_tokens"] == N * 17
    assert told["request_id"]


@pytest.mark.cell(VOTED)
async def test_raw_response_has_the_vote_in_its_headers(program):
    headers = (await voted(program, "raw"))["headers"]
    assert (headers["x-its-votes"], headers["x-its-agreement"]) == (f"{N}/{N}/{N}", "0.7500")
    assert headers["x-its-pair"]


@pytest.mark.cell(VOTED)
async def test_voted_response(program):
    told = await voted(program, "responses")
    assert (told["status"], told["total_tokens"]) == ("completed", N * 17)


@pytest.mark.cell(VOTED)
async def test_overrides_by_extra_body(program):
    told = await program.ask("text", "voted", extra_body={"its": {"n": 2}, "n": 2})
    assert told["n_choices"] == 2
    assert len(program.world.asked) == 2


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream(program):
    told = await voted_stream(program)
    assert told["its"]["votes"] == {"7": 3, "9": 1}
    assert told["total_tokens"] == N * 17


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_stream_helper(program):
    told = await voted_stream(program, "stream_helper")
    assert {"content.delta", "content.done"} <= set(told["events"])


@pytest.mark.cell(VOTED_STREAM)
async def test_voted_response_as_a_stream(program):
    told = await voted_stream(program, "responses_stream")
    assert (told["events"][0], told["events"][-1]) == ("response.created", "response.completed")


@pytest.mark.cell(TOOLS)
@pytest.mark.parametrize("kind", ["tools", "tools_stream"])
async def test_tools(program, kind):
    told = await program.ask(kind, "plain")
    assert calls_of(told) == [("add", {"a": 2, "b": 5})]
    assert told["calls"][0]["id"]
    one_as_it_came(program.world)


@pytest.mark.cell(TOOLS)
@pytest.mark.parametrize("kind", ["tools", "tools_stream"])
async def test_tools_voted_on(program, kind):
    assert calls_of(await program.ask(kind, "calling")) == [("add", {"a": 2, "b": 5})]
    all_with_persona(program.world)


@pytest.mark.cell(SCHEMA)
@pytest.mark.parametrize("kind", ["schema", "parse"])
@pytest.mark.parametrize("model", ["plain", "voted"])
async def test_json_schema(program, kind, model):
    assert answer_of(await program.ask(kind, model)) == 7
    assert len(program.world.asked) == (N if model == "voted" else 1)


@pytest.mark.cell(SCHEMA)
async def test_parsed_response(program):
    assert answer_of(await program.ask("responses_parse", "voted")) == 7
    all_with_persona(program.world)


async def test_embeddings(program):
    """Asked for as base64, which this package does by itself."""
    assert (await program.ask("embeddings", "plain"))["embedding"] == EMBEDDING


async def test_models(program):
    told = await program.ask("models", "voted")
    assert told["names"] == list(MODELS)
    assert told["its"]["strategy"] == "random"


async def test_completions_passed_through(program):
    assert (await program.ask("completion", "plain"))["text"] == TEXT
    told = await program.ask("completion_stream", "plain")
    assert told["text"].strip() == TEXT
    assert told["n_pieces"] > 1


async def test_completions_voted(program):
    told = await program.ask("completion", "untouched")
    assert (told["text"], told["finish_reason"]) == (TEXT, "stop")
    assert len(program.world.asked) == N


async def test_completions_of_a_model_with_personas_are_refused(program):
    told = await program.try_to_ask("completion", "voted")
    assert told["raised"] == "BadRequestError"
    assert "strategy" in told["message"]
