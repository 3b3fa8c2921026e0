"""A completion told as a Response, whatever the upstream put where a text or an object should be."""

import pytest

from its_proxy.protocol.responses.reply import response_of

ASKED = {"model": "model", "input": "What is 2 + 5?"}


def told(message, **fields):
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return response_of(ASKED, {"choices": [choice], **fields}, "req")


def test_what_the_upstream_does_not_say_is_taken_from_the_request():
    response = told({"content": "7"})
    assert (response["model"], response["created_at"], response["status"]) == ("model", 0, "completed")


@pytest.mark.parametrize("calls", [5, "add", ["add"], {"a": 1}, [None]])
def test_tool_calls_that_are_none_are_not_told(calls):
    assert told({"content": "7", "tool_calls": calls})["output"][0]["content"][0]["text"] == "7"


@pytest.mark.parametrize("function", [None, 5, {}, {"name": 5, "arguments": []}])
def test_a_call_of_no_function_has_an_empty_name(function):
    [call] = told({"content": None, "tool_calls": [{"id": "call_1", "function": function}]})["output"]
    assert (call["name"], call["arguments"], call["call_id"]) == ("", "", "call_1")


@pytest.mark.parametrize("finish_reason", [["stop"], {}, 5, None])
def test_a_finish_reason_that_is_no_word_completes(finish_reason):
    choice = {"message": {"content": "7"}, "finish_reason": finish_reason}
    assert response_of(ASKED, {"choices": [choice]}, "req")["status"] == "completed"


@pytest.mark.parametrize("logprobs", [5, {"content": 5}, {"content": ["7"]}, {"content": [{"top_logprobs": 5}]}])
def test_log_probabilities_that_are_none_are_not_told(logprobs):
    choice = {"message": {"content": "7"}, "finish_reason": "stop", "logprobs": logprobs}
    [item] = response_of(ASKED, {"choices": [choice]}, "req")["output"]
    assert [told.get("token") for told in item["content"][0]["logprobs"]] in ([], [None])
