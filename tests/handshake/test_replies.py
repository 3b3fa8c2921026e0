"""The reply's shape: no parser has moved, cut or dropped it."""

from typing import Any

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.handshake import examine
from tests.handshake.examined import at, check_named, report_on, states
from tests.scripted_model import COMPLETION, REPLY, Model, recorded
from tests.serving import write_checkpoint

THOUGHT = {"content": "\\boxed{7}", "reasoning": "3+4=7"}


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"content": None, "reasoning": REPLY}, "a reasoning parser took text out"),
        ({"content": None, "reasoning_content": REPLY}, "a reasoning parser took text out"),
        ({"content": "\\boxed{7}", "reasoning": "3+4=7"}, "a reasoning parser took text out"),
        ({"content": None}, "cut or rewritten"),
        ({"content": ""}, "cut or rewritten"),
        ({"content": REPLY[:-3]}, "cut or rewritten"),
        ({"content": f"So: {REPLY}"}, "cut or rewritten"),
        ({"content": [REPLY]}, "cut or rewritten"),
        ({}, "cut or rewritten"),
    ],
)
async def test_a_parser_that_moves_cuts_or_drops_the_recorded_text_is_a_mismatch(tmp_path, message, what):
    report = await report_on(tmp_path, Model(message=message))
    assert report.verdict.state == "mismatch"
    assert what in report.verdict.reason
    assert "--reasoning-parser" in report.verdict.reason
    assert states(report) == {"listed": "ok", "tokens": "ok", "weights": "ok", "reply": "failed"}


@pytest.mark.parametrize(("message", "state"), [
    ({"content": "\\boxed{7}\n", "reasoning": "\n3+4=7\n"}, "ok"),
    ({"content": "\\boxed{7}", "reasoning_content": "3+4=7"}, "ok"),
    ({"content": "<think>3+4=7</think>\\boxed{7}", "reasoning": None}, "failed"),
    ({"content": "\\boxed{7}"}, "failed"),
    ({"content": None, "reasoning": "3+4=7\\boxed{7}"}, "failed"),
])  # fmt: skip
async def test_reasoning_recorded_apart_must_come_apart(tmp_path, message, state):
    document = recorded()
    document["probes"][0]["reply"] = THOUGHT
    report = await report_on(tmp_path, Model(message=message), document)
    assert states(report)["reply"] == state


@pytest.mark.parametrize("content", ["\\boxed{7}", "<think>3+4=7</think>\\boxed{7}"])
@pytest.mark.parametrize(("message", "state"), [
    ({"content": "\\boxed{7}", "reasoning": "3+4=7"}, "ok"),
    ({"content": "<think>\n3+4=7</think>\n\\boxed{7}"}, "ok"),
    ({"content": None, "reasoning": "<think>3+4=7</think>\\boxed{7}"}, "failed"),
    ({"content": "<think><think>3+4=7\\boxed{7}"}, "failed"),
    ({"content": "3+4=7"}, "failed"),
])  # fmt: skip
async def test_where_no_reasoning_is_recorded_it_is_what_a_vote_reads_that_counts(tmp_path, content, message, state):
    """A checkpoint that thinks, recorded without a server: thoughts may be parsed out, or stand before the answer."""
    document = recorded()
    document["probes"][0]["reply"] = {"content": content, "reasoning": None}
    report = await report_on(tmp_path, Model(message=message), document)
    assert states(report)["reply"] == state


async def test_space_at_the_ends_of_a_reply_is_nobodys_parser(tmp_path):
    report = await report_on(tmp_path, Model(message={"content": f"\n {REPLY} "}))
    assert states(report)["reply"] == "ok"


async def test_a_greedy_reply_of_other_tokens_says_nothing_about_parsers(tmp_path):
    """Another dtype may decode another way: asked of a few probes, then left open, and no reason to distrust."""
    document = recorded()
    document["probes"] *= 6
    model = Model(completion=[1, 2, 3], message={"content": None, "reasoning": "other"})
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at(model.script) as (upstream, scripted):
        report = await examine(checkpoint, upstream, "model", is_local=False)
    assert (report.verdict.state, states(report)["reply"]) == ("verified", "unknown")
    assert len([body for body in scripted.bodies if body["max_tokens"] > 1]) == 4


async def test_a_reply_that_ends_early_on_the_recorded_way_was_cut(tmp_path):
    """By a cap of the server's own, or of something before it."""
    model = Model(completion=list(COMPLETION[:-1]), message={"content": REPLY[:-1]})
    report = await report_on(tmp_path, model)
    assert report.verdict.state == "mismatch"
    assert report.verdict.reason.startswith("the reply was cut or rewritten")


async def test_a_reply_longer_than_the_servers_context_is_not_asked_for(tmp_path):
    document = recorded()
    room = len(document["probes"][0]["prompt_token_ids"]) + len(COMPLETION)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    cut = Model(completion=list(COMPLETION[:-1]), message={"content": REPLY[:-1]})

    async def state_with(room: int) -> str:
        async def listed() -> list[dict[str, Any]]:
            return [{"id": "model", "max_model_len": room}]

        async with at(cut.script) as (upstream, _):
            upstream.models = listed
            return states(await examine(checkpoint, upstream, "model", is_local=False))["reply"]

    assert (await state_with(room - 1), await state_with(room)) == ("skipped", "failed")


async def test_two_replies_are_enough(tmp_path):
    document = recorded()
    document["probes"] *= 6
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document))
    async with at(Model().script) as (upstream, scripted):
        report = await examine(checkpoint, upstream, "model", is_local=False)
    assert check_named(report, "reply").evidence == "2 greedy replies as recorded"
    greedy = [body for body in scripted.bodies if body["max_tokens"] > 1]
    assert [(body["max_tokens"], body["temperature"], body["return_token_ids"]) for body in greedy] == [
        (len(COMPLETION), 0, True)
    ] * 2


async def test_a_manifest_without_replies_skips_them(tmp_path):
    document = recorded()
    document["probes"][0]["reply"] = None
    report = await report_on(tmp_path, Model(message={"content": None}), document)
    assert (report.verdict.state, states(report)["reply"]) == ("verified", "skipped")
