"""An outcome told: what the winner, the vote and the cost look like to a client."""

import pytest
from pydantic import TypeAdapter

from its_proxy.codesign.errors import UpstreamError
from its_proxy.handshake import NO_MANIFEST
from its_proxy.outcome import Candidate, Outcome
from its_proxy.plan import Member, Plan, PlannedMember, VoteRules
from its_proxy.protocol.its import ItsReply
from its_proxy.reply import completion_of, explanation, headers_of, report, wasted_tokens
from its_proxy.upstreams.http import HttpUpstream
from its_proxy.voting.answers import read_answer
from its_proxy.voting.tally import Ballot, majority_vote

UPSTREAM = HttpUpstream("gpu", "http://127.0.0.1:9/v1")


def member(name="model"):
    return Member(name, UPSTREAM, name, None, NO_MANIFEST)


def plan(n, n_choices=1, members=("model",), is_forced=False, **rules):
    body = {"model": "model", "messages": [{"role": "user", "content": "2 + 5?"}], "temperature": 0.8}
    planned = tuple(PlannedMember(member(name), "none", body, n // len(members), is_forced) for name in members)
    asked = (n, n_choices, 100, {"temperature": 0.8}, True, False, True)
    return Plan("model", planned, VoteRules(**rules), *asked, is_forced, ("forced",) * is_forced)


def received(index, value=None, finish_reason="stop", prompt_tokens=7, finished_s=1.0):
    text = f"so it is \\boxed{{{value}}}" if value is not None else "hm"
    answer = read_answer(text, "boxed")
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 10, "total_tokens": prompt_tokens + 10}
    message = {"role": "assistant", "content": text}
    choice = {"index": 5, "message": message, "finish_reason": finish_reason}
    completion = {"id": "theirs", "created": 1, "model": "theirs", "choices": [choice], "usage": usage}
    state = "truncated" if finish_reason == "length" else "ok" if answer else "no_answer"
    return Candidate(index, 100 + index, 1, state, completion, answer if state == "ok" else None, None, finished_s)


def cancelled(index, spent=None, started_s=0.0):
    return Candidate(index, 100 + index, 1, "cancelled", spent=spent, started_s=started_s)


def lost(index, spent):
    return Candidate(index, 100 + index, 1, "lost", error=UpstreamError("broke"), spent=spent)


def spent(completion_tokens, prompt_tokens=7):
    total_tokens = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total_tokens}


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


def test_details_are_summed_as_far_as_they_are_numbers():
    candidates = [received(index, 7) for index in range(4)]
    strange = [{"cached_tokens": 4}, {"cached_tokens": 3, "x": "y", "z": -1}, 5, None]
    for candidate, details in zip(candidates, strange, strict=True):
        candidate.completion["usage"] |= {"prompt_tokens_details": details, "completion_tokens_details": None}
    usage = told(candidates)["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 7}
    assert "completion_tokens_details" not in usage


@pytest.mark.parametrize("count", [-5, 2.5, "many", None])
def test_a_count_that_cannot_be_wastes_nothing(count):
    told = {"completion_tokens": count}
    candidates = [received(0, 7), cancelled(1, told), cancelled(2, spent(3)), lost(3, told)]
    assert wasted_tokens(outcome(candidates)) == 3


class TestWhatCancelledCandidatesCost:
    """The vote ends after 2 s, and every received candidate has 10 tokens."""

    def estimate(self, *candidates, **planned):
        return report(outcome(list(candidates), **planned))["cancelled"]["completion_tokens_estimated"]

    def test_it_is_estimated_by_the_one_that_ran_for_as_long(self):
        slow, quick = received(0, 7, finished_s=2.0), received(1, 7, finished_s=0.5)
        assert self.estimate(slow, quick, cancelled(2)) == 10
        assert self.estimate(slow, quick, cancelled(2), cancelled(3)) == 20

    def test_one_that_started_late_ran_for_less(self):
        slow, quick = received(0, 7, finished_s=2.0), received(1, 7, finished_s=0.5)
        assert self.estimate(slow, quick, cancelled(2, started_s=1.5)) == 10
        assert self.estimate(slow, quick, cancelled(2, started_s=1.75)) == 5

    def test_its_own_member_is_the_better_measure(self):
        near, own = received(0, 7, finished_s=2.0), received(1, 7, finished_s=0.5)
        assert self.estimate(near, own, cancelled(2), cancelled(3), members=("a", "b")) == 10 + 40

    def test_without_a_measure_nothing_is_estimated(self):
        assert self.estimate(received(0, 7, finished_s=0.0), cancelled(1)) == 0

    def test_what_was_counted_is_told_and_summed(self):
        candidates = [received(0, 7), received(1, 7), cancelled(2, spent(4)), cancelled(3, {"completion_tokens": 0})]
        completion = told(candidates, usage_policy="exact")
        assert completion["its"]["cancelled"]["completion_tokens"] == 4
        assert completion["usage"] == {"prompt_tokens": 28, "completion_tokens": 24, "total_tokens": 52}

    def test_a_count_that_is_not_whole_is_none(self):
        candidates = [received(0, 7), received(1, 7), cancelled(2, spent(4)), cancelled(3)]
        completion = told(candidates, usage_policy="exact")
        assert completion["its"]["cancelled"]["completion_tokens"] is None
        assert completion["usage"] == {"prompt_tokens": 28, "completion_tokens": 24, "total_tokens": 52}
        assert told(candidates)["its"]["cancelled"]["completion_tokens"] is None

    def test_a_lost_candidates_tokens_were_spent_too(self):
        completion = told([received(0, 7), received(1, 7), lost(2, spent(5)), lost(3, None)])
        assert completion["usage"] == {"prompt_tokens": 21, "completion_tokens": 25, "total_tokens": 46}


def test_a_reply_tells_the_rule_the_kind_and_how_many_were_started():
    its = report(outcome([received(0, 7), received(1, 7)], stop="beta", answer="number"), with_candidates=True)
    assert (its["stop"], its["answer_kind"], its["n_started"]) == ("beta", "number", 2)
    assert its["candidates"][0]["answer_kind"] == "number"


def test_a_candidate_that_was_cut_off_has_no_finish():
    its = report(outcome([received(0, 7, finished_s=1.25), cancelled(1, started_s=0.5)]), with_candidates=True)
    assert [(c["started_s"], c["finished_s"]) for c in its["candidates"]] == [(0.0, 1.25), (0.5, None)]


@pytest.mark.parametrize("members", [("a",), ("a", "b")])
def test_a_reply_is_what_its_schema_says(members):
    """A plain dict is all that is made for it; nothing else checks that it holds every key and no other."""
    told = outcome([received(0, 7), received(1), cancelled(2), cancelled(3)], members=members)
    for with_candidates in (False, True):
        its = report(told, with_candidates=with_candidates)
        assert TypeAdapter(ItsReply).validate_python(its, strict=True) == its, "unknown keys would be left out"


def test_states_are_counted_by_reason():
    its = report(outcome([received(0, 7), received(1), received(2, 7, "length"), cancelled(3)]))
    assert its["abstained"] == {"no_answer": 1, "truncated": 1}
    assert its["agreement"] == 0.5


def test_headers_count_valid_received_and_requested():
    told_by = outcome([received(0, 7), received(1), received(2, 7, "length"), cancelled(3)], is_forced=True)
    headers = headers_of(told_by.plan, told_by)
    assert headers == {"x-its-votes": "2/3/4", "x-its-agreement": "0.5000", "x-its-degraded": "forced"}


def test_an_explanation_holds_the_messages_and_the_seeds_in_order():
    explained = explanation(plan(3))
    assert explained["seeds"] == [100, 101, 102]
    assert explained["members"][0]["messages"] == [{"role": "user", "content": "2 + 5?"}]
    assert "messages" not in explained["members"][0]["body"]
