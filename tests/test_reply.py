"""An outcome told: what the winner, the vote and the cost look like to a client."""

from its_proxy.handshake import NO_MANIFEST, Handshake
from its_proxy.plan import Member, Plan, PlannedMember, VoteRules
from its_proxy.reply import completion_of, explanation, headers_of, report
from its_proxy.sampling import Candidate, Outcome
from its_proxy.upstreams.http import HttpUpstream
from its_proxy.voting.answers import read_answer
from its_proxy.voting.tally import Ballot, majority_vote

UPSTREAM = HttpUpstream("gpu", "http://127.0.0.1:9/v1")


def member(name="model"):
    return Member(name, UPSTREAM, name, None, Handshake(NO_MANIFEST))


def plan(n, n_choices=1, members=("model",), is_forced=False):
    body = {"model": "model", "messages": [{"role": "user", "content": "2 + 5?"}], "temperature": 0.8}
    planned = tuple(PlannedMember(member(name), "none", body, n // len(members), is_forced) for name in members)
    return Plan("model", planned, VoteRules(), n, n_choices, 100, {"temperature": 0.8}, True, False, True)


def received(index, value=None, finish_reason="stop", prompt_tokens=7, finished_s=1.0):
    text = f"so it is \\boxed{{{value}}}" if value is not None else "hm"
    answer = read_answer(text, "boxed")
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 10, "total_tokens": prompt_tokens + 10}
    message = {"role": "assistant", "content": text}
    choice = {"index": 5, "message": message, "finish_reason": finish_reason}
    completion = {"id": "theirs", "created": 1, "model": "theirs", "choices": [choice], "usage": usage}
    state = "truncated" if finish_reason == "length" else "ok" if answer else "no_answer"
    return Candidate(index, 100 + index, 1, state, completion, answer if state == "ok" else None, None, finished_s)


def cancelled(index):
    return Candidate(index, 100 + index, 1, "cancelled")


def outcome(candidates, **planned):
    ballots = [Ballot(c.index, c.answer) for c in candidates if c.answer is not None]
    vote = majority_vote(ballots, sum(c.state == "no_answer" for c in candidates))
    winner = candidates[vote.winner if vote.winner is not None else 0]
    return Outcome(plan(len(candidates), **planned), tuple(candidates), vote, winner, "decided", 2.0)


def told(candidates, **planned):
    return completion_of(outcome(candidates, **planned), completion_id="ours", created=2, with_candidates=False)


def test_id_time_and_model_are_ours_and_the_choice_is_the_winners():
    completion = told([received(0, 5), received(1, 7), received(2, 7)])
    assert (completion["id"], completion["created"], completion["model"]) == ("ours", 2, "model")
    assert completion["choices"][0]["message"]["content"] == "so it is \\boxed{7}"
    assert completion["choices"][0]["index"] == 0


def test_choices_follow_the_weight_of_their_class_then_their_order():
    candidates = [received(0), received(1, 9), received(2, 7), received(3, 9), received(4, 7), received(5, 7)]
    completion = told([*candidates, cancelled(6)], n_choices=7)
    answers = [choice["message"]["content"][-2:] for choice in completion["choices"]]
    assert answers == ["7}", "7}", "7}", "9}", "9}", "hm"]


def test_cancelled_prompts_are_counted_once_for_each_candidate_of_their_member():
    """Members' prompts differ in length: each cancelled candidate costs what its own member's prompt does."""
    candidates = [received(0, 7, prompt_tokens=10), received(1, 7, prompt_tokens=20), cancelled(2), cancelled(3)]
    completion = told([*candidates, cancelled(4), cancelled(5)], members=("a", "b"))
    assert completion["usage"] == {"prompt_tokens": 30 + 2 * 10 + 2 * 20, "completion_tokens": 20, "total_tokens": 110}
    assert completion["its"]["cancelled"]["prompt_tokens"] == 60


def test_generated_tokens_of_cancelled_candidates_are_estimated_by_the_pace_of_the_others():
    its = report(outcome([received(0, 7, finished_s=1.0), received(1, 7, finished_s=0.5), cancelled(2)]))
    assert its.cancelled.completion_tokens_estimated == round(2.0 * (10 + 20) / 2)


def test_states_are_counted_by_reason():
    its = report(outcome([received(0, 7), received(1), received(2, 7, "length"), cancelled(3)]))
    assert its.abstained == {"no_answer": 1, "truncated": 1}
    assert its.agreement == 0.5


def test_headers_count_valid_received_and_requested():
    told_by = outcome([received(0, 7), received(1), received(2, 7, "length"), cancelled(3)], is_forced=True)
    headers = headers_of(told_by.plan, told_by)
    assert headers == {"x-its-votes": "2/3/4", "x-its-agreement": "0.5000", "x-its-degraded": "forced"}


def test_an_explanation_holds_the_messages_and_the_seeds_in_order():
    explained = explanation(plan(3))
    assert explained["seeds"] == [100, 101, 102]
    assert explained["members"][0]["messages"] == [{"role": "user", "content": "2 + 5?"}]
    assert "messages" not in explained["members"][0]["body"]
