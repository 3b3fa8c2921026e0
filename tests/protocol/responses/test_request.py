"""A Responses request read as the chat request that asks the same."""

import pytest

from its_proxy.codesign.errors import RequestError
from its_proxy.protocol.responses.request import chat_body

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


def messages(given, **fields):
    return chat_body({"model": "m", "input": given, **fields})["messages"]


def test_a_text_is_the_user_s():
    assert messages("2 + 2?") == [{"role": "user", "content": "2 + 2?"}]


def test_instructions_come_first():
    assert messages("2 + 2?", instructions="Be short.")[0] == {"role": "system", "content": "Be short."}


def test_a_conversation_keeps_its_turns_and_a_single_text_part_becomes_a_string():
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4", "annotations": []}]},
        {"role": "user", "content": "sure?"},
    ]
    assert messages(given) == [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "sure?"},
    ]


def test_images_stand_among_the_texts():
    parts = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
    ]
    [message] = messages([{"role": "user", "content": parts}])
    assert message["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]


def test_calls_made_side_by_side_are_one_message_and_thoughts_are_left_out():
    call = {"type": "function_call", "name": "weather", "arguments": "{}"}
    given = [
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "summary": []},
        {**call, "call_id": "a"},
        {**call, "call_id": "b"},
        {"type": "function_call_output", "call_id": "a", "output": "rain"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    asked, calling, first, second = messages(given)
    assert asked["role"] == "user"
    assert [made["id"] for made in calling["tool_calls"]] == ["a", "b"]
    assert calling["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert first == {"role": "tool", "tool_call_id": "a", "content": "rain"}
    assert second == {"role": "tool", "tool_call_id": "b", "content": "sun"}


def test_every_other_field_has_its_place():
    chat = chat_body(
        {
            "model": "m",
            "input": "?",
            "max_output_tokens": 9,
            "temperature": 0.5,
            "seed": 3,
            "its": {"n": 2},
            "reasoning": {"effort": "low"},
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "name": "weather"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
            "include": ["message.output_text.logprobs"],
            "store": True,
            "metadata": {"a": "b"},
            "stream": True,
        }
    )
    function = {key: value for key, value in WEATHER.items() if key != "type"}
    assert chat == {
        "model": "m", "messages": [{"role": "user", "content": "?"}], "max_completion_tokens": 9, "temperature": 0.5,
        "seed": 3, "its": {"n": 2}, "reasoning_effort": "low", "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "verbosity": "low", "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"instructions": 3}, "instructions"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"text": 3}, "text"),
        ({"reasoning": 3}, "reasoning"),
        ({"include": 3}, "include"),
    ],
)
def test_what_cannot_be_served_is_named(fields, param):
    with pytest.raises(RequestError) as refused:
        chat_body({"model": "m", "input": "?", **fields})
    assert refused.value.param == param
