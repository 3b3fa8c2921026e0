"""Errors as OpenAI's clients expect them."""

import pytest

from its_proxy.codesign import errors
from its_proxy.protocol.envelope import defect_reply, error_reply

RETRY_HINTS = [0.001, 1.0, 2.005, 7.0, 29.5]


def every_error(kind=errors.ItsError):
    """Of the tree itself: a plug-in's own are below these."""
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(found for child in children for found in every_error(child))]


def made(kind):
    if kind in (errors.UpstreamRejected, errors.QuorumLost):
        return kind("what happened", status=500)
    if kind is errors.ModelUnavailable:
        return kind("what happened", code="model_pending")
    if kind is errors.NotAdmitted:
        return kind("what happened", is_callers=False, retry_after_s=1.0)
    return kind("what happened")


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_status_and_the_whole_envelope(kind):
    reply = error_reply(made(kind))
    assert 400 <= reply.status <= 599
    assert set(reply.body["error"]) == {"message", "type", "param", "code"}
    assert reply.body["error"]["message"] == "what happened"
    assert reply.body["error"]["code"]


@pytest.mark.parametrize("hint", RETRY_HINTS)
def test_retry_after_is_whole_seconds_and_never_below_the_hint(hint):
    for _ in range(200):
        seconds = error_reply(errors.UpstreamBusy("busy", retry_after_s=hint)).headers["Retry-After"]
        assert hint <= int(seconds) <= 1.25 * hint + 1


@pytest.mark.parametrize(("status", "told"), [(400, 400), (401, 502), (403, 502), (404, 404), (200, 502), (302, 502),
                                              (503, 503), (599, 599), (999, 502), (0, 502)])  # fmt: skip
def test_an_upstreams_status_is_kept_where_it_is_about_the_request(status, told):
    assert error_reply(errors.UpstreamRejected("x", status=status)).status == told


@pytest.mark.parametrize(
    ("error", "is_final"),
    [
        (errors.NoVote("x"), True),
        (errors.NoConsensus("x"), True),
        (errors.UpstreamTimeout("x"), True),
        (errors.QuorumLost("x", status=504), True),
        (errors.ModelUnavailable("x", code="model_mismatch"), True),
        (errors.ModelUnavailable("x", code="model_pending", retry_after_s=1.0), False),
        (errors.NotAdmitted("x", is_callers=False, retry_after_s=1.0), False),
        (errors.NotAdmitted("x", is_callers=True, retry_after_s=1.0), False),
        (errors.QuorumLost("x", status=502), False),
        (errors.QuorumLost("x", status=429), False),
        (errors.UpstreamBusy("x"), False),
        (errors.UpstreamUnreachable("x"), False),
    ],
)
def test_a_client_is_told_where_trying_again_only_costs_more(error, is_final):
    assert (error_reply(error).headers.get("x-should-retry") == "false") == is_final


def test_a_defect_is_one_sentence_and_not_tried_again():
    reply = defect_reply()
    assert (reply.status, reply.headers["x-should-retry"]) == (500, "false")
    assert reply.body["error"]["code"] == "internal_error"
