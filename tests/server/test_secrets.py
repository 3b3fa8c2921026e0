"""Whatever is secret of a client, an operator or an upstream is told nowhere, by whichever path a request fails."""

import pytest

from benchmarks.reliability import secrets

UPSTREAM_GETS = (
    "a query", "a system prompt", "an earlier answer", "a user id", "a tool's name", "a tool's arguments",
    "a stop sequence", "a persona", "an upstream's key",
)  # fmt: skip
CODES = {
    "bad_upstream_payload", "body_too_large", "field_not_allowed", "internal_error", "invalid_api_key",
    "invalid_json", "invalid_request", "method_not_allowed", "model_not_found", "n_too_large", "no_vote", "not_found",
    "pair_mismatch", "quorum_lost", "rate_limit_exceeded", "unsupported_encoding", "upstream_busy", "upstream_error",
    "upstream_rejected", "upstream_timeout", "upstream_tls", "upstream_unreachable",
}  # fmt: skip


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return secrets.gather(tmp_path_factory.mktemp("secrets"))


def test_every_path_was_walked_and_the_secrets_were_there(evidence):
    assert evidence.statuses >= {200, 400, 401, 404, 405, 413, 415, 422, 429, 500, 502, 503, 504}
    assert evidence.codes >= CODES
    assert [name for name in UPSTREAM_GETS if secrets.SECRETS[name] not in evidence.reached] == []
    assert all(place for place in evidence.places().values())
    for event in ('"request"', '"a defect of its-proxy"', '"a stream ended with an error"', '"code":499', "refused"):
        assert event in evidence.log


def test_a_secret_that_is_told_would_be_found():
    told = secrets.Evidence(log=secrets.secret("a query").upper(), traces=secrets.secret("a cookie")[:-3].encode())
    assert told.found("a query") == ["log"]
    assert told.found("a cookie") == ["traces"]
    assert told.found("a persona") == []


@pytest.mark.parametrize("name", secrets.SECRETS)
def test_nowhere(evidence, name):
    assert evidence.found(name) == []
