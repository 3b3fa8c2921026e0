"""The `its` object: what a client may write, and what a reply holds."""

import json
from pathlib import Path
from typing import get_args

import pytest

from its_proxy.codesign.errors import RequestError
from its_proxy.codesign.manifest import VoteAdvice
from its_proxy.protocol.its import ItsReply, ItsRequest, json_schema, read_its
from its_proxy.voting.answers import AnswerKind
from its_proxy.voting.stop import StopName


def test_nothing_asked_is_nothing_overridden():
    assert read_its(None) == read_its({}) == ItsRequest()


def test_what_was_asked_is_told_from_what_was_not():
    assert read_its({"n": 4, "vote": "always"}).model_fields_set == {"n", "vote"}


def test_a_whole_number_is_an_agreement_too():
    assert read_its({"min_agreement": 1}).min_agreement == 1.0


@pytest.mark.parametrize(
    ("value", "param", "words"),
    [
        ([], "its", "should be an object"),
        ({"N": 4}, "its.N", "unknown key"),
        ({"k" * 1_000: 1}, ("its." + "k" * 1_000)[:100], "unknown key"),
        ({"n": True}, "its.n", "integer"),
        ({"n": 4.0}, "its.n", "integer"),
        ({"answer": "essay"}, "its.answer", "'boxed'"),
        ({"stop": "sometimes"}, "its.stop", "'beta'"),
        ({"min_agreement": 0}, "its.min_agreement", "greater than 0"),
    ],
)
def test_a_refusal_names_the_key_and_the_known_ones(value, param, words):
    with pytest.raises(RequestError, match=words) as refused:
        read_its(value)
    assert refused.value.param == param
    assert "known keys: version, n, vote" in refused.value.hint


def test_what_was_asked_before_is_no_excuse_for_what_only_looks_like_it():
    assert read_its({"n": 1}).n == 1
    for alike in (True, 1.0, "1"):
        with pytest.raises(RequestError, match="integer"):
            read_its({"n": alike})
    assert read_its({"force": True, "n": 1}) == read_its({"n": 1, "force": True})


def test_every_key_of_the_design_is_in_a_reply():
    designed = """version strategy pair_id handshake target n answer agreement votes abstained lost stopped tie seed
    sampling cancelled usage_winner forced degraded consensus members"""
    assert set(designed.split()) <= set(ItsReply.__annotations__)


def test_a_manifest_knows_the_same_rules_and_kinds_as_a_vote():
    """The manifest spells them out itself: both sides read it, and it imports nothing of a vote's."""
    advice = VoteAdvice.model_fields
    assert get_args(advice["answer"].annotation) == get_args(AnswerKind)
    assert get_args(advice["stop"].annotation) == get_args(StopName)


def test_the_published_schema_is_that_of_the_code():
    published = Path(__file__).parents[2] / "docs" / "its.schema.json"
    assert json.loads(published.read_text()) == json_schema(), "write it anew with: make schema"
