"""Reads the answer of a whole message: of its text, or of the tools that it calls.

    >>> call = {"type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1.0}'}}
    >>> read_message({"content": None, "tool_calls": [call]}, "tool_calls").text
    '[{"arguments":{"a":1,"b":2},"name":"add"}]'

What a server puts apart as reasoning (`reasoning`, `reasoning_content`) is never read: it is not the
answer, and a message with nothing beside it abstains.
"""

from collections.abc import Mapping
from typing import Any

from its_proxy.voting.answers import NO_CALL, Answer, AnswerKind, after_reasoning, answer_of, read_answer
from its_proxy.voting.json_answers import IsValid, read_json, shown, spelled, spelled_text


def read_message(message: Mapping[str, Any], kind: AnswerKind, is_valid: IsValid | None = None) -> Answer | None:
    """The answer of an assistant's message, or None: then its candidate abstains.

    With `is_valid`, which a request's `response_format` asks for, a JSON answer must be the whole text,
    because that is what the client will read, and it must be valid.
    """
    if kind == "tool_calls":
        return _calls(message)
    content = message.get("content")
    if not isinstance(content, str):
        return None
    if kind == "json" and is_valid is not None:
        final_part = after_reasoning(content)
        written = None if final_part is None else read_json(final_part, whole=True, is_valid=is_valid)
        return None if written is None else answer_of(written, "json")
    return read_answer(content, kind)


def _calls(message: Mapping[str, Any]) -> Answer | None:
    """All calls as a multiset: calls made side by side have no order, but the same call twice is two calls.

    A message of words and no call is an answer of its own kind: "no call".
    """
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        return None
    spellings = [_call(call) for call in calls]
    if not spellings:
        content = message.get("content")
        has_words = isinstance(content, str) and (after_reasoning(content) or "").strip()
        return answer_of(NO_CALL, "tool_calls") if has_words else None
    known = sorted(spelling for spelling in spellings if spelling is not None)
    return answer_of(shown(f"[{','.join(known)}]"), "tool_calls") if len(known) == len(spellings) else None


def _call(call: Any) -> str | None:
    """One call's canonical spelling; None where its arguments are not a JSON object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        arguments = "{}"  # a call without arguments, as some servers write it
    if not isinstance(arguments, str) or not arguments.lstrip().startswith("{"):
        return None
    given, name = spelled(arguments), spelled_text(function["name"])
    return None if given is None or name is None else f'{{"arguments":{given},"name":{name}}}'
