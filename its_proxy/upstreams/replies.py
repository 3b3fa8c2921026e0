"""Reads what an upstream answered; raises BadPayload for what is no answer, whichever way it came."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from its_proxy.codesign.errors import BadPayload
from its_proxy.upstreams.base import Completion


def read_object(data: bytes, who: str = "the upstream") -> dict[str, Any]:
    """The JSON object that a body holds. `who` sent it, for the message."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadPayload(f"{who} sent something that is not JSON") from None
    if not isinstance(document, dict):
        raise BadPayload(f"{who} sent something that is not a JSON object")
    return document


def check_completion(completion: Completion, who: str = "the upstream") -> Completion:
    """The completion itself, if it holds a choice with a message whose tool calls, where there are any, are objects."""
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadPayload(f"{who} sent a completion without choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise BadPayload(f"{who} sent a choice without a message")
    calls = message.get("tool_calls")
    if calls and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise BadPayload(f"{who} sent tool calls that are none")
    return completion


def check_text_completion(completion: Completion, who: str = "the upstream") -> Completion:
    """The same of a text completion, whose choices hold texts."""
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BadPayload(f"{who} sent a completion without choices")
    if not all(isinstance(choice.get("text"), str) for choice in choices):
        raise BadPayload(f"{who} sent a choice without a text")
    return completion


def read_cards(document: Mapping[str, Any], who: str = "the upstream") -> Sequence[dict[str, Any]]:
    """The model cards of a reply to `GET /v1/models`."""
    cards = document.get("data")
    if not isinstance(cards, list):
        raise BadPayload(f"{who} sent a model list that is not a list")
    return [card for card in cards if isinstance(card, dict)]
