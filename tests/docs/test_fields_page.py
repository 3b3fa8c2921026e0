"""docs/fields.md: every row of its tables is asked of a server, plainly and as a stream."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.scripted import Say
from tests.serving import Reply, Server, manifest, serving_script, write_checkpoint

PAGE = (Path(__file__).parents[2] / "docs" / "fields.md").read_text("utf-8")
QUESTION = [{"role": "user", "content": "What is 2 + 5?"}]
N = 4
PLAIN, STREAMED = {}, {"stream": True, "stream_options": {"include_usage": True}}
ASKED_ONCE, VOTED = {"vote": "off"}, {"vote": "always", "stop": "none"}

TOKENS = [
    {"token": "\\boxed", "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": "So", "logprob": -3.0}]},
    {"token": "{7}", "logprob": -0.2, "bytes": None, "top_logprobs": []},
]
CALLS = [
    {"id": f"call_{a}", "type": "function", "function": {"name": "add", "arguments": f'{{"a": {a}}}'}} for a in (2, 5)
]
MESSAGE = {
    "role": "assistant",
    "content": "\\boxed{7}",
    "reasoning": "Two and five make seven.",
    "refusal": "Not in words.",
    "annotations": [{"type": "url_citation"}],
    "audio": {"id": "a", "data": "AA==", "expires_at": 5},
    "function_call": {"name": "add", "arguments": "{}"},
    "tool_calls": CALLS,
}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 10,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COMPLETION = {
    "id": "cmpl-upstream",
    "object": "chat.completion",
    "created": 1,
    "model": "model-upstream",
    "system_fingerprint": "fp_1",
    "service_tier": "default",
    "a_new_field": {"x": [1]},
    "choices": [
        {
            "index": 0,
            "message": MESSAGE,
            "logprobs": {"content": TOKENS, "refusal": None},
            "finish_reason": "stop",
            "stop_reason": "END",
            "token_ids": [1, 2],
        }
    ],
    "usage": USAGE,
}


def rows_below(heading: str) -> list[list[str]]:
    """The cells of a section's only table, without its head."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(heading + "\n")]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def fields_of(cell: str) -> dict[str, Any]:
    return json.loads("{" + cell.strip("`") + "}")


def pair(folder: Path, strategy: str = "random") -> Path:
    document = manifest(strategy)
    return write_checkpoint(folder, {**document, "vote": {**document["vote"], "n": N}})


def refusal_of(reply: Reply) -> str:
    return f"{reply.status} `{reply.error['code']}`"


# --- what the upstream gets ---------------------------------------------------------------------


def word_of(sent: Mapping[str, Any], bodies: list[dict[str, Any]]) -> str:
    """What became of the fields that were sent, which all calls must agree on."""
    words = set()
    for key, value in sent.items():
        kept = [body.get(key) for body in bodies]
        words.add("left out" if kept == [None] * len(kept) else "as it came" if kept == [value] * len(kept) else "ours")
    assert len(words) == 1, (sent, words)
    return words.pop()


async def fate(server: Server, upstream: Any, path: str, body: dict[str, Any]) -> str:
    words = set()
    for how in (PLAIN, STREAMED):
        upstream.forget()
        reply = await server.send("POST", path, {**body, **how})
        words.add(refusal_of(reply) if reply.status != 200 else "sent")
        if reply.status != 200:
            assert not upstream.bodies
    assert len(words) == 1, (body, words)
    return words.pop()


@pytest.mark.parametrize(
    ("column", "its"), [(1, None), (2, ASKED_ONCE), (3, VOTED)], ids=["passed_through", "one_candidate", "voted"]
)
async def test_request_fields_go_where_the_page_says(tmp_path, column, its):
    checkpoint = None if its is None else pair(tmp_path)
    async with serving_script(Say(document=COMPLETION), checkpoint) as (server, upstream):
        for row in rows_below("Requests to `/v1/chat/completions`"):
            sent = fields_of(row[0])
            own = {} if its is None else {"its": {**its, **sent.get("its", {})}}
            told = await fate(
                server, upstream, "/v1/chat/completions", {"model": "model", "messages": QUESTION, **sent} | own
            )
            assert (row[0], word_of(sent, upstream.bodies) if told == "sent" else told) == (row[0], row[column])
            if its is VOTED and told == "sent" and "its" not in sent:
                assert len(upstream.bodies) == N


async def test_seeds_and_choices_of_a_vote_are_numbered(tmp_path):
    async with serving_script(Say(document=COMPLETION), pair(tmp_path)) as (server, upstream):
        reply = await server.ask(seed=5, n=2, its=VOTED)
    assert sorted(body["seed"] for body in upstream.bodies) == [5, 6, 7, 8]
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1]


@pytest.mark.parametrize("name", ["tools", "functions"])
async def test_a_request_with_tools_is_one_candidate_by_either_name(tmp_path, name):
    async with serving_script(Say(document=COMPLETION), pair(tmp_path)) as (server, upstream):
        reply = await server.ask(**{name: [{"type": "function", "name": "add", "function": {"name": "add"}}]})
    assert len(upstream.bodies) == 1
    assert reply.json["its"]["degraded"] == "tools"


@pytest.mark.parametrize("its", [ASKED_ONCE, VOTED])
@pytest.mark.parametrize("how", [PLAIN, STREAMED])
async def test_of_a_conversation_the_users_words_alone_are_touched(tmp_path, its, how):
    rows = [(json.loads(message.strip("`")), word) for message, word in rows_below("Messages")]
    async with serving_script(Say(document=COMPLETION), pair(tmp_path)) as (server, upstream):
        reply = await server.ask([message for message, _ in rows], its=its, **how)
    assert reply.status == 200
    for body in upstream.bodies:
        for (message, word), got in zip(rows, body["messages"], strict=True):
            touched, text, prefix = without_persona(message, got)
            assert (touched, text) == (message, word)
            assert bool(prefix) == (word != "as it came")


def without_persona(message: dict[str, Any], got: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
    """What the upstream got without what was added before its first text."""
    if got == message:
        return got, "as it came", ""
    if isinstance(got["content"], str):
        before, found, after = got["content"].partition(message["content"])
        assert not after
        return {**got, "content": found}, "a persona in its text", before
    [own] = [part["text"] for part in message["content"] if "text" in part]
    [added] = [part["text"].removesuffix(own) for part in got["content"] if "text" in part]
    parts = [{**part, "text": own} if "text" in part else part for part in got["content"]]
    return {**got, "content": parts}, "a persona in its text", added


# --- what the client gets -----------------------------------------------------------------------


def whole(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream of one choice, put together as any client would."""
    told: dict[str, Any] = {}
    choice: dict[str, Any] = {"message": {}}
    for chunk in chunks:
        told |= {key: value for key, value in chunk.items() if key != "choices"}
        for piece in chunk["choices"]:
            assert piece["index"] == 0
            for key, value in piece["delta"].items():
                add(choice["message"], key, value)
            if piece["logprobs"] is not None:
                assert "logprobs" not in choice
                choice["logprobs"] = piece["logprobs"]
            choice |= {
                key: value for key, value in piece.items() if key not in ("delta", "logprobs") and value is not None
            }
    return {**told, "choices": [choice]}


def add(message: dict[str, Any], key: str, value: Any) -> None:
    if key == "tool_calls":
        calls = message.setdefault(key, [])
        assert [call["index"] for call in value] == [len(calls)]
        calls += [{name: part for name, part in call.items() if name != "index"} for call in value]
    elif isinstance(value, str) and isinstance(message.get(key), str) and key != "role":
        message[key] += value
    else:
        message[key] = value


def value_at(completion: Mapping[str, Any], field: str) -> Any:
    [choice] = completion["choices"]
    if field.startswith("message."):
        return choice["message"].get(field.removeprefix("message."))
    return completion.get(field) if field in completion else choice.get(field)


@pytest.mark.parametrize(
    ("column", "its", "how"),
    [
        (1, None, PLAIN),
        (1, None, STREAMED),
        (2, ASKED_ONCE, PLAIN),
        (3, ASKED_ONCE, STREAMED),
        (4, VOTED, PLAIN),
        (5, VOTED, STREAMED),
        (6, {**VOTED, "stream": "leader"}, STREAMED),
    ],
)
async def test_reply_fields_come_back_as_the_page_says(tmp_path, column, its, how):
    checkpoint = None if its is None else pair(tmp_path)
    async with serving_script(Say(document=COMPLETION), checkpoint) as (server, _):
        reply = await server.ask(**({} if its is None else {"its": its}), **how)
    assert reply.status == 200
    told = whole(reply.chunks) if how else reply.json
    for row in rows_below("Replies"):
        field = row[0].strip("`")
        value, original = value_at(told, field), value_at(COMPLETION, field)
        word = "left out" if value is None else "as it came" if value == original else "ours"
        assert (field, word) == (field, row[column])


@pytest.mark.parametrize("its", [VOTED, {**VOTED, "stream": "leader"}])
@pytest.mark.parametrize("how", [PLAIN, STREAMED])
async def test_usage_of_a_vote_is_the_sum_with_its_details(tmp_path, its, how):
    async with serving_script(Say(document=COMPLETION), pair(tmp_path)) as (server, _):
        reply = await server.ask(its=its, **how)
    told = whole(reply.chunks) if how else reply.json
    assert told["usage"] == {
        "prompt_tokens": 7 * N,
        "completion_tokens": 10 * N,
        "total_tokens": 17 * N,
        "prompt_tokens_details": {"cached_tokens": 4 * N},
        "completion_tokens_details": {"reasoning_tokens": 3 * N},
    }
    assert told["its"]["usage_winner"] == USAGE


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
@pytest.mark.parametrize("its", [ASKED_ONCE, VOTED, {**VOTED, "stream": "leader"}])
async def test_a_stream_tells_usage_once_and_only_where_it_is_asked_to(tmp_path, its, options):
    say = Say(document={key: value for key, value in COMPLETION.items() if key != "its"})
    async with serving_script(say, pair(tmp_path)) as (server, _):
        chunks = (await server.ask(its=its, stream=True, stream_options=options)).chunks
    is_asked = options == {"include_usage": True}
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [is_asked]
    assert (chunks[-1]["choices"] == []) == is_asked


@pytest.mark.parametrize(
    ("finish_reason", "message", "why"),
    [
        ("stop", {"content": None, "refusal": "No."}, "no_answer"),
        ("stop", {"content": "Hello."}, "no_answer"),
        ("length", {"content": "\\boxed{7}"}, "truncated"),
        ("content_filter", {"content": "\\boxed{7}"}, "truncated"),
        ("function_call", {"content": None, "function_call": {"name": "add"}}, "truncated"),
    ],
)
async def test_what_abstains_is_the_reply_where_none_votes(tmp_path, finish_reason, message, why):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish_reason}
    async with serving_script(Say(document={**COMPLETION, "choices": [choice]}), pair(tmp_path)) as (server, _):
        reply = await server.ask(its=VOTED)
    assert reply.status == 200
    assert reply.json["choices"] == [choice]
    assert reply.json["its"]["abstained"] == {why: N}


# --- the other routes ---------------------------------------------------------------------------


async def test_fields_of_a_response_become_what_the_page_says():
    async with serving_script(Say(document=COMPLETION), None) as (server, upstream):
        for field, becomes, _ in rows_below("`/v1/responses`"):
            sent = fields_of(field)
            told = await fate(server, upstream, "/v1/responses", {"model": "model", "input": "Hi", **sent})
            if told != "sent":
                assert (field, told) == (field, becomes)
                continue
            for body in upstream.bodies:
                if becomes == "left out":
                    assert sent.keys().isdisjoint(body), field
                else:
                    expected = fields_of(becomes)
                    assert (field, {key: body.get(key) for key in expected}) == (field, expected)


@pytest.mark.parametrize("how", [PLAIN, STREAMED])
async def test_a_voted_response_has_its_log_probabilities_its_calls_and_its_thoughts(tmp_path, how):
    body = {
        "model": "model",
        "input": "What is 2 + 5?",
        "its": VOTED,
        "include": ["message.output_text.logprobs"],
        **how,
    }
    async with serving_script(Say(document=COMPLETION), pair(tmp_path)) as (server, _):
        reply = await server.send("POST", "/v1/responses", body)
    response = reply.json if not how else json.loads(reply.raw.decode().rstrip().rpartition("data: ")[2])["response"]
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    assert [token["logprob"] for token in parts[0]["logprobs"]] == [-0.1, -0.2]
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert [(call["call_id"], call["arguments"]) for call in calls] == [("call_2", '{"a": 2}'), ("call_5", '{"a": 5}')]
    assert response["output"][0]["type"] == "reasoning"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3 * N}
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4 * N


@pytest.mark.parametrize("how", [PLAIN, STREAMED])
async def test_a_response_that_was_cut_off_says_so_in_its_last_item(how):
    [choice] = COMPLETION["choices"]
    cut_off = {**COMPLETION, "choices": [{**choice, "finish_reason": "length"}]}
    async with serving_script(Say(document=cut_off), None) as (server, _):
        reply = await server.send("POST", "/v1/responses", {"model": "model", "input": "Hi", **how})
    response = reply.json if not how else json.loads(reply.raw.decode().rstrip().rpartition("data: ")[2])["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    *others, last = [item["status"] for item in response["output"]]
    assert (set(others), last) == ({"completed"}, "incomplete")
    done = [
        line for line in reply.raw.decode().splitlines() if "response.output_item.done" in line and "data: " in line
    ]
    assert [json.loads(line[6:])["item"]["status"] for line in done] == ([*others, last] if how else [])


async def test_a_voted_text_has_its_log_probabilities(tmp_path):
    logprobs = {"tokens": ["7"], "token_logprobs": [-0.1], "top_logprobs": [{"7": -0.1}], "text_offset": [0]}
    choice = {"index": 0, "text": "\\boxed{7}", "logprobs": logprobs, "finish_reason": "stop"}
    body = {"model": "model", "prompt": "What is 2 + 5?", "logprobs": 1}
    say = Say(raw=json.dumps({"object": "text_completion", "choices": [choice]}).encode())
    async with serving_script(say, pair(tmp_path, "none")) as (server, _):
        plain = await server.send("POST", "/v1/completions", body)
        streamed = await server.send("POST", "/v1/completions", {**body, "stream": True})
    assert plain.json["choices"] == [choice]
    told = [chunk["choices"][0] for chunk in streamed.chunks]
    assert [(piece["text"], piece["logprobs"]) for piece in told] == [("", None), ("\\boxed{7}", logprobs), ("", None)]


@pytest.mark.parametrize(("column", "strategy"), [(1, None), (2, "none"), (3, "random")])
async def test_fields_of_a_text_completion_do_what_the_page_says(tmp_path, column, strategy):
    checkpoint = None if strategy is None else pair(tmp_path, strategy)
    async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, upstream):
        for row in rows_below("`/v1/completions`"):
            body = {"model": "model", "prompt": "What is 2 + 5?", "max_tokens": 100, **fields_of(row[0])}
            told = await fate(server, upstream, "/v1/completions", body)
            if told == "sent":
                told = "as it came" if upstream.bodies[-1] == body | STREAMED else "voted"
                assert len(upstream.bodies) > 1 if told == "voted" else len(upstream.bodies) == 1
            assert (row[0], told) == (row[0], row[column])
