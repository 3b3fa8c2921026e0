"""A stream told as events, and a reply told whole: both as the openai package reads them."""

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from its_proxy.protocol.responses.events import Telling
from its_proxy.protocol.responses.reply import response_of

EVENT = TypeAdapter(ResponseStreamEvent)
REQUEST = {"model": "m", "input": "?", "metadata": {"a": "b"}}
CALL = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"at":"sea"}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
MESSAGES = [
    {"content": "so it is 7"},
    {"content": "7", "reasoning": "five and two"},
    {"content": "7", "reasoning_content": "five and two"},
    {"content": None, "tool_calls": [CALL, {**CALL, "id": "call_b"}]},
    {"content": "let me look", "tool_calls": [CALL]},
    {"content": None, "refusal": "no"},
    {"content": ""},
]


def completion(message, finish_reason="stop"):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason, "logprobs": None}
    return {"id": "c", "created": 5, "model": "m", "choices": [choice], "usage": USAGE, "its": {"answer": "7"}}


def chunks_of(message, finish_reason="stop"):
    """Each text in two pieces, as a server would stream it."""
    head = {"id": "c", "created": 5, "model": "m"}
    deltas = [{"role": "assistant", "content": ""}]
    for key in ("reasoning", "reasoning_content", "content", "refusal"):
        if text := message.get(key):
            deltas += [{key: text[:2]}, *([{key: text[2:]}] if text[2:] else [])]
    for number, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        function = {**call["function"], "arguments": arguments[:3]}
        deltas += [{"tool_calls": [{**call, "index": number, "function": function}]}]
        deltas += [{"tool_calls": [{"index": number, "function": {"arguments": arguments[3:]}}]}]
    for delta in deltas:
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}], "its": {"answer": "7"}}
    yield {**head, "choices": [], "usage": USAGE}


def told(message, finish_reason="stop"):
    telling = Telling(REQUEST, "req")
    raw = b"".join([*(telling.tell(chunk) for chunk in chunks_of(message, finish_reason)), *telling.end()])
    events = []
    for block in raw.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_stream_ends_with_the_response_that_a_plain_call_would_have_got(message):
    events = told(message)
    whole = response_of(REQUEST, completion(message), "req")
    if message == {"content": ""}:
        whole["output"] = []  # a stream in which nothing was said has no item
    assert events[-1]["response"] == whole
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_each_event_and_the_reply_are_what_the_openai_package_declares(message):
    for event in told(message):
        EVENT.validate_python(event)
    response = Response.model_validate(response_of(REQUEST, completion(message), "req"))
    assert response.output_text == (message.get("content") or "")
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert response.metadata == {"a": "b"}


def test_items_are_opened_grown_and_closed_in_turn():
    kinds = [event["type"].removeprefix("response.") for event in told({"content": "7 it is", "reasoning": "why"})]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip


def test_a_reply_that_was_cut_off_is_incomplete():
    [*_, last] = told({"content": "so it"}, finish_reason="length")
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response_of(REQUEST, completion({"content": "so"}, "length"), "req")["status"] == "incomplete"


def test_log_probabilities_are_kept():
    token = {"token": "7", "logprob": -0.5, "bytes": [55], "top_logprobs": [{"token": "8", "logprob": -1.0}]}
    document = completion({"content": "7"})
    document["choices"][0]["logprobs"] = {"content": [token]}
    response = Response.model_validate(response_of(REQUEST, document, "req"))
    assert response.output[0].content[0].logprobs[0].top_logprobs[0].logprob == -1.0


def test_a_stream_that_breaks_says_so():
    telling = Telling(REQUEST, "req")
    telling.tell(next(chunks_of({"content": "x"})))
    name, data = telling.fail({"message": "gone", "type": "upstream_error", "param": None, "code": "x"}).split(b"\n")[
        :2
    ]
    assert name == b"event: error"
    assert orjson.loads(data.removeprefix(b"data: "))["message"] == "gone"


@pytest.mark.parametrize("odd", [[None], "3", {"a": 1}, 2.5])
def test_counts_that_are_none_count_nothing(odd):
    document = {**completion({"content": "7"}), "usage": {"prompt_tokens": odd, "completion_tokens": 4}}
    usage = Response.model_validate(response_of(REQUEST, document, "req")).usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (0, 4, 4)
