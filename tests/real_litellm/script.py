"""What the scripted engine says: a number in a box, or whatever a query's own words ask of it."""

import re
from typing import Any

from tests.scripted import Say

QUERY = "What is 2 + 5?"
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 5}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "sum", "schema": {"type": "object", "properties": {"answer": {"type": "integer"}}}},
}
USAGE = (7, 10)
"""Prompt and completion tokens of every candidate."""


def say(body: dict[str, Any], number: int) -> Say:
    if body.get("return_token_ids"):
        return Say("x", finish_reason="length")
    query = str(body["messages"][-1]["content"])
    if (failure := re.search(r"fail (\d+)", query)) is not None:
        return Say(status=int(failure[1]))
    if "slowly" in query:
        return Say("\\boxed{7}", delay_s=60)
    if "cut" in query:
        return Say("so it", finish_reason=None)
    if "patiently" in query:
        return Say("\\boxed{7}", delay_s=3)
    if body.get("tools"):
        return Say(None, finish_reason="tool_calls", message={"tool_calls": [CALL]})
    if body.get("response_format"):
        return Say('{"answer": 7}')
    return Say("so it is \\boxed{7}", message={"reasoning": "I add them up."})


def messages(query: str = QUERY) -> list[dict[str, Any]]:
    return [{"role": "user", "content": query}]
