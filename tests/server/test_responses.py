"""`/v1/responses` by the real openai package: a voted model, and one that is passed through."""

import json

import openai
import pytest

from tests.scripted import Say
from tests.server.test_openai_client import both_models
from tests.serving import manifest, serving_script, write_checkpoint

QUESTION = "What is 2 + 5?"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"at":"sea"}'}}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture(params=["voted", "plain"])
def model(request):
    return request.param


async def test_a_question_is_answered(tmp_path, model):
    async with both_models(tmp_path) as client:
        response = await client.responses.create(model=model, input=QUESTION, instructions="Be short.")
    assert response.output_text == "so it is \\boxed{7}"
    assert response.status == "completed"
    assert response.instructions == "Be short."
    assert response.store is False
    assert response.usage.output_tokens > 0
    if model == "voted":
        assert response.its["answer"] == "7"


async def test_a_stream_tells_the_same_as_events(tmp_path, model):
    async with both_models(tmp_path) as client, client.responses.stream(model=model, input=QUESTION) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert "".join(deltas) == response.output_text
    assert response.output_text.rstrip() == "so it is \\boxed{7}"
    assert response.usage.total_tokens > 0
    if model == "voted":
        assert response.its["answer"] == "7"


async def test_a_failure_before_the_first_event_has_its_status(tmp_path, model):
    async with both_models(tmp_path) as client:
        for is_stream in (False, True):
            with pytest.raises(openai.RateLimitError):
                await client.responses.create(model=model, input=QUESTION, user="fail 429", stream=is_stream)


async def test_a_field_that_cannot_be_served_is_a_400_that_names_it(tmp_path, model):
    async with both_models(tmp_path) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=model, input=QUESTION, previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


async def test_what_is_asked_is_the_chat_request_rewritten(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    body = {"model": "model", "input": QUESTION, "max_output_tokens": 40, "its": {"n": 2}}
    async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, upstream):
        reply = await server.send("POST", "/v1/responses", body)
        assert reply.status == 200
        assert reply.headers["x-its-votes"] == "2/2/2"
        asked = upstream.bodies[0]
        chat = await server.ask(QUESTION, max_completion_tokens=40, its={"n": 2})
        assert chat.status == 200
    assert asked["messages"] == upstream.bodies[2]["messages"]
    assert asked["messages"][0]["content"].endswith(QUESTION)
    assert asked["messages"][0]["content"] != QUESTION
    assert asked["max_completion_tokens"] == 40
    assert "input" not in asked


async def test_explain_shows_the_plan(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, upstream):
        body = {"model": "model", "input": QUESTION, "its": {"explain": True}}
        reply = await server.send("POST", "/v1/responses", body)
    assert reply.json["object"] == "its.plan"
    assert upstream.bodies == []


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_tool_is_called_and_its_output_taken(is_stream):
    def script(body, number):
        is_answered = body["messages"][-1]["role"] == "tool"
        return (
            Say("rain at sea") if is_answered else Say(None, finish_reason="tool_calls", message={"tool_calls": [CALL]})
        )

    async with serving_script(script, None) as (server, upstream):
        client = openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0)
        async with client:
            given = [{"role": "user", "content": "weather?"}]

            async def ask():
                if not is_stream:
                    return await client.responses.create(model="model", input=given, tools=[WEATHER])
                async with client.responses.stream(model="model", input=given, tools=[WEATHER]) as stream:
                    return await stream.get_final_response()

            [call] = [item for item in (await ask()).output if item.type == "function_call"]
            assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"at": "sea"})
            given += [call.model_dump(exclude_none=True, exclude={"parsed_arguments"})]
            given += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
            assert (await ask()).output_text.rstrip() == "rain at sea"
    assert upstream.bodies[-1]["tools"][0]["function"]["name"] == "weather"


async def test_a_stream_that_breaks_raises_at_the_client():
    broken = Say("so it is 7 " * 50, chunk_delay_s=0.001, finish_reason=None)
    kinds = []
    async with (
        serving_script(broken, None) as (server, _),
        openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        stream = await client.responses.create(model="model", input=QUESTION, stream=True)
        with pytest.raises(openai.APIError):
            kinds += [event.type async for event in stream]
    assert "response.completed" not in kinds
