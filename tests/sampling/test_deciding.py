"""When a vote is decided, over which answers, and which candidate is the reply."""

import pytest

from its_proxy.codesign.errors import BadPayload, NoConsensus, NoVote
from its_proxy.outcome import read_candidate
from its_proxy.sampling import sample
from its_proxy.upstreams.base import Completion
from tests.sampling.candidates import BROKEN, CUT_OFF, NO_ANSWER, Scripted, box, plan_of, said, sampled, states

# -- deciding ----------------------------------------------------------------------------------------------------------


async def test_a_decided_vote_cancels_the_rest():
    upstream = Scripted([box(1)] * 3 + [box(2)] * 2, turns=[0, 1, 2, None, None])
    outcome = await sample(plan_of(upstream), "req")
    assert outcome.stopped == "decided"
    assert states(outcome) == ["ok", "ok", "ok", "cancelled", "cancelled"]
    assert upstream.cancelled == {"req-3", "req-4"}


async def test_an_undecided_vote_waits_for_all():
    outcome = await sampled([box(1), box(2), box(1), box(2)])
    assert outcome.stopped == "complete"
    assert outcome.vote.is_tie
    assert outcome.winner.index == 0


async def test_the_reply_is_the_first_received_candidate_of_the_winning_class():
    upstream = Scripted([box(2), box(1), box("1.0"), box(1)], turns=[3, None, 2, 1])
    outcome = await sample(plan_of(upstream, quorum=0, stop="exact", deadline_s=0.05), "req")
    assert (outcome.winner.index, outcome.winner.text) == (2, "so \\boxed{1.0}")


async def test_candidates_of_one_moment_are_all_heard_before_a_verdict():
    outcome = await sampled([NO_ANSWER, NO_ANSWER, box(1), box(1)], gives_up=True)
    assert (outcome.stopped, outcome.vote.answer.text) == ("complete", "1")


async def test_each_candidate_has_its_own_seed_and_request_id():
    upstream = Scripted([box(1), box(2), box(3)])
    outcome = await sample(plan_of(upstream), "req")
    asked = sorted((request_id, body["seed"]) for request_id, body in upstream.asked)
    assert asked == [("req-0", 100), ("req-1", 101), ("req-2", 102)]
    assert [candidate.seed for candidate in outcome.candidates] == [100, 101, 102]


async def test_members_take_turns_and_weigh_as_configured():
    outcome = await sampled([box(1), box(2), box(1), box(2)], weights=(1, 3))
    assert [candidate.weight for candidate in outcome.candidates] == [1, 3, 1, 3]
    assert outcome.vote.votes == {"2": 6, "1": 2}


async def test_a_cut_off_candidate_never_votes():
    outcome = await sampled([CUT_OFF, CUT_OFF, CUT_OFF, box(2)])
    assert states(outcome) == ["truncated"] * 3 + ["ok"]
    assert outcome.vote.answer.text == "2"
    assert outcome.vote.agreement == 1.0


async def test_an_abstaining_candidate_counts_for_agreement_and_a_cut_off_one_does_not():
    outcome = await sampled([box(1), box(1), NO_ANSWER, CUT_OFF], min_agreement=0.6, stop="none")
    assert outcome.vote.agreement == pytest.approx(2 / 3)
    assert outcome.vote.consensus


@pytest.mark.parametrize("reason", ["length", "content_filter", "error", "", ["stop"], 1])
def test_only_a_truthful_end_is_eligible(reason):
    assert read_candidate(said("\\boxed{1}", reason), "boxed") == ("truncated", None)


@pytest.mark.parametrize(
    "completion",
    [{}, {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{"message": {}}]},
     {"choices": [{"message": [], "finish_reason": "stop"}]}, {"choices": {"0": 1}}, said("\\boxed{1}", None)],
)  # fmt: skip
def test_a_completion_without_a_choice_or_an_end_is_a_bad_payload(completion):
    with pytest.raises(BadPayload):
        read_candidate(completion, "boxed")


async def test_a_reply_that_cannot_be_read_is_a_lost_candidate():
    outcome = await sampled([box(1), {"choices": []}, box(1)], stop="none")
    assert states(outcome) == ["ok", "lost", "ok"]


async def test_content_that_is_no_text_abstains():
    parts = said(None)
    parts["choices"][0]["message"]["content"] = [{"type": "text", "text": "\\boxed{1}"}]
    outcome = await sampled([parts, said(None), said(None, "tool_calls"), box(2)], stop="none")
    assert states(outcome) == ["no_answer", "no_answer", "no_answer", "ok"]


# -- no answer ---------------------------------------------------------------------------------------------------------


async def test_two_finished_candidates_without_an_answer_end_an_automatic_vote():
    upstream = Scripted([box(1)] + [NO_ANSWER] * 7, turns=[None, 1, 2] + [None] * 5)
    outcome = await sample(plan_of(upstream, gives_up=True), "req")
    assert outcome.stopped == "no_answer"
    assert outcome.winner.index == 1
    assert states(outcome).count("cancelled") == 6


async def test_an_answer_among_the_first_two_keeps_the_vote_going():
    outcome = await sampled([NO_ANSWER, box(5), box(5), box(5)], turns=[0, 1, 2, 3], gives_up=True)
    assert (outcome.stopped, outcome.vote.answer.text) == ("decided", "5")


async def test_a_lost_candidate_says_nothing_about_answers():
    outcome = await sampled([BROKEN, BROKEN, box(5), box(5)], turns=[0, 0, 1, 2], gives_up=True)
    assert outcome.vote.answer.text == "5"


async def test_a_vote_that_was_ordered_waits_even_if_nobody_answers():
    outcome = await sampled([NO_ANSWER] * 4)
    assert outcome.stopped == "no_answer"
    assert states(outcome) == ["no_answer"] * 4


async def test_without_answers_a_whole_reply_comes_before_a_cut_off_one():
    outcome = await sampled([CUT_OFF, CUT_OFF, NO_ANSWER, CUT_OFF])
    assert (outcome.stopped, outcome.winner.index) == ("no_answer", 2)
    outcome = await sampled([CUT_OFF, CUT_OFF])
    assert (outcome.stopped, outcome.winner.index) == ("no_answer", 0)


async def test_a_client_may_insist_on_an_answer():
    with pytest.raises(NoVote, match="none of 2 candidates holds an answer"):
        await sampled([NO_ANSWER, CUT_OFF], on_no_answer="error")


async def test_a_client_may_insist_on_consensus():
    with pytest.raises(NoConsensus, match=r"agreement is 0\.50"):
        await sampled([box(1), box(2)], on_no_consensus="error", min_agreement=0.6)
    outcome = await sampled([box(1), box(2)], min_agreement=0.6)
    assert not outcome.vote.consensus


# -- kinds of answer ---------------------------------------------------------------------------------------------------


def called(*calls: tuple[str, str], finish_reason: str = "tool_calls", text: str | None = None) -> Completion:
    made = [{"id": f"call-{k}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for k, (name, arguments) in enumerate(calls)]  # fmt: skip
    completion = said(text, finish_reason)
    completion["choices"][0]["message"]["tool_calls"] = made
    return completion


async def test_parallel_calls_in_any_order_are_one_answer():
    there, back = ("go", '{"to": "x", "n": 1}'), ("go", '{"n": 1.0, "to": "y"}')
    outcome = await sampled(
        [called(there, back), called(back, there), called(there), said("I would rather not.")],
        answer="tool_calls", stop="none",
    )  # fmt: skip
    assert [answer_class.weight for answer_class in outcome.vote.classes] == [2, 1, 1]
    assert outcome.winner.index == 0
    assert outcome.vote.votes["no call"] == 1


async def test_the_winner_of_a_vote_over_calls_keeps_its_own_call_ids():
    outcome = await sampled([called(("f", "{}"))] * 3, answer="tool_calls")
    assert outcome.winner.completion["choices"][0]["message"]["tool_calls"][0]["id"] == "call-0"


async def test_only_valid_json_votes():
    lines = [said('{"a": 1}'), said('{"a": "x"}'), said('{"a": "x"}'), said('Sure: {"a": 1}'), said('{"a":1.0}')]
    outcome = await sampled(lines, answer="json", stop="none", is_valid=lambda text: '"x"' not in text)
    assert states(outcome) == ["ok", "no_answer", "no_answer", "no_answer", "ok"]
    assert outcome.vote.votes == {'{"a":1}': 2}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_is_no_answer(name):
    thought = said(None)
    thought["choices"][0]["message"][name] = "so \\boxed{1}"
    outcome = await sampled([thought, thought, box(2)], stop="none")
    assert states(outcome) == ["no_answer", "no_answer", "ok"]
    assert outcome.vote.answer.text == "2"


# -- more than one choice ----------------------------------------------------------------------------------------------


async def test_no_verdict_comes_before_the_choices_that_the_client_asked_for():
    upstream = Scripted([box(1)] * 4, turns=[0, 1, 2, 3])
    outcome = await sample(plan_of(upstream, n_choices=4), "req")
    assert (outcome.stopped, states(outcome)) == ("complete", ["ok"] * 4)


async def test_a_decided_vote_with_enough_choices_ends_early():
    outcome = await sampled([box(1)] * 8, [0, 1, 2, 3, 4, None, None, None], n_choices=3)
    assert outcome.stopped == "decided"


async def test_chat_with_three_choices_costs_three_candidates():
    upstream = Scripted([NO_ANSWER] * 8, turns=[0, 1, 2] + [None] * 5)
    outcome = await sample(plan_of(upstream, n_choices=3, gives_up=True), "req")
    assert (outcome.stopped, states(outcome).count("no_answer")) == ("no_answer", 3)
