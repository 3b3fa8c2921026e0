"""What holds of every client, cell by cell: what it made of its answer, and what reached the engine.

A cell's name is its column in docs/clients.md; `@pytest.mark.cell(PLAIN)` says which one a test fills.
"""

import json
from typing import Any

from tests.clients.program import Program
from tests.clients.world import QUERY, TEXT, N, World

PLAIN, REWRITTEN, VOTED, VOTED_STREAM = "pass-through", "rewritten", "voted", "voted stream"
TOOLS, SCHEMA = "tools", "JSON schema"
CELLS = (PLAIN, REWRITTEN, VOTED, VOTED_STREAM, TOOLS, SCHEMA)


async def passed_through(program: Program, kind: str = "text") -> dict[str, Any]:
    told = await program.ask(kind, "plain")
    one_as_it_came(program.world)
    return _with_answer(told)


async def rewritten(program: Program, kind: str = "text") -> dict[str, Any]:
    told = await program.ask(kind, "rewritten")
    one_with_persona(program.world)
    return _with_answer(told)


async def voted(program: Program, kind: str = "text", model: str = "voted") -> dict[str, Any]:
    told = await program.ask(kind, model)
    all_with_persona(program.world)
    return _with_answer(told)


async def voted_stream(program: Program, kind: str = "stream", model: str = "voted") -> dict[str, Any]:
    """In pieces; the candidates behind it are plain calls."""
    told = await program.ask(kind, model)
    all_with_persona(program.world)
    assert not any(body.get("stream") for body in program.world.asked)
    assert told.get("n_pieces", 2) > 1
    return _with_answer(told)


def one_as_it_came(world: World, query: str = QUERY) -> dict[str, Any]:
    """One call, its query the client's own; returns its body."""
    [body] = world.asked
    assert persona_of(body, query) == ""
    return body


def one_with_persona(world: World, query: str = QUERY) -> dict[str, Any]:
    [body] = world.asked
    assert persona_of(body, query)
    return body


def all_with_persona(world: World, query: str = QUERY, n: int = N) -> list[dict[str, Any]]:
    """n candidates of one prompt, with seeds of their own."""
    bodies = world.asked
    assert len(bodies) == n
    assert len({body["seed"] for body in bodies}) == n
    [prompt] = {json.dumps(body["messages"]) for body in bodies}
    assert persona_of({"messages": json.loads(prompt)}, query)
    return bodies


def persona_of(body: dict[str, Any], query: str = QUERY) -> str:
    """What stands before the query in the last of the user's turns."""
    before, found, _ = last_text(body).rpartition(query)
    assert found, f"the engine was asked something else: {last_text(body)[:500]}"
    return before.strip()


def last_text(body: dict[str, Any]) -> str:
    content = [message["content"] for message in body["messages"] if message["role"] == "user"][-1]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def calls_of(told: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """Names and arguments, which some clients have read already."""
    arguments = [call["arguments"] for call in told["calls"]]
    read = [json.loads(one) if isinstance(one, str) else one for one in arguments]
    return [(call["name"], one) for call, one in zip(told["calls"], read, strict=True)]


def answer_of(told: dict[str, Any]) -> int:
    """Of a client that asked for JSON: the number that it read, or that its text holds."""
    answer: int = told["answer"] if "answer" in told else json.loads(told["text"])["answer"]
    return answer


def _with_answer(told: dict[str, Any]) -> dict[str, Any]:
    """The majority's answer has arrived, whatever form the client gives it."""
    if "answer" in told:
        assert told["answer"] == 7
    else:
        assert told["text"].strip() == TEXT
    return told
