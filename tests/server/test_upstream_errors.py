"""What goes wrong behind its-proxy: the status is kept, the words are ours, and a client knows whether to try again."""

import pytest

from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, model_settings, serving, serving_script, write_checkpoint

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(params=["voted", "single", "passed through"])
async def asking(request, tmp_path):
    """How a test asks: (checkpoint, fields), for each of the three ways a request can take."""
    if request.param == "passed through":
        return None, {}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    return checkpoint, {"its": {"vote": "always" if request.param == "voted" else "off"}}


async def reply_to(say, asking):
    checkpoint, fields = asking
    async with serving_script(say, checkpoint) as (server, _):
        reply = await server.ask(**fields)
    assert b"secret" not in reply.raw
    assert "secret" not in str(reply.headers)
    assert reply.headers["Content-Type"].startswith("application/json")
    return reply


@pytest.mark.parametrize(("status", "told"), [(400, 400), (404, 404), (422, 422), (500, 500), (502, 502), (504, 504),
                                              (401, 502), (403, 502), (302, 502), (204, 502)])  # fmt: skip
async def test_the_status_is_kept_but_for_the_upstreams_own_key_and_what_is_no_error(asking, status, told):
    reply = await reply_to(Say(status=status, headers={"Location": "http://secret/"}), asking)
    assert reply.status == told
    assert reply.error["code"] == "upstream_rejected"
    assert reply.error["type"] == ("invalid_request_error" if told < 500 else "upstream_error")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("hint", ["30", None, "Wed, 21 Oct 2026 07:28:00 GMT", "-5", "9" * 30])
async def test_a_busy_upstream_says_when_to_come_back(asking, status, hint):
    reply = await reply_to(Say(status=status, headers={"Retry-After": hint} if hint else {}), asking)
    assert reply.status in (status, 429), "a vote that is refused for load as a whole is a 429"
    assert reply.error["message"]
    assert int(reply.headers["Retry-After"]) >= (30 if hint == "30" else 1)
    assert "x-should-retry" not in reply.headers


async def test_an_upstream_that_asked_for_a_pause_is_not_asked_and_clients_hear_when_to_come_back(asking):
    checkpoint, fields = asking
    async with serving_script(Say(status=429, headers={"Retry-After": "7"}), checkpoint) as (server, upstream):
        await server.ask(**fields)
        asked = len(upstream.bodies)
        for more in ({}, {"stream": True}):
            reply = await server.ask(**fields, **more)
            assert reply.status == 429
            assert 6 <= int(reply.headers["Retry-After"]) <= 9
        assert len(upstream.bodies) == asked


BAD_PAYLOADS = {
    "HTML": b"<html>secret</html>",
    "empty": b"",
    "cut off": b'{"choices": [{"message": {"content": "secret"',
    "a list": b"[]",
    "no choices": b'{"choices": []}',
    "choices of another type": b'{"choices": {"secret": 1}}',
    "a choice of another type": b'{"choices": ["secret"]}',
    "no message": b'{"choices": [{"finish_reason": "stop"}]}',
    "an error with status 200": b'{"error": {"message": "secret"}}',
    "not UTF-8": b'{"choices": [{"message": {"content": "\xff"}, "finish_reason": "stop"}]}',
}


@pytest.mark.parametrize("raw", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
async def test_a_200_that_is_no_completion_is_a_bad_gateway(asking, raw):
    reply = await reply_to(Say(raw=raw), asking)
    assert reply.status == 502
    assert reply.error["code"] in ("bad_upstream_payload", "quorum_lost")


async def test_an_upstream_that_counts_less_than_no_tokens_has_answered_all_the_same(asking):
    reply = await reply_to(Say(completion_tokens=-5), asking)
    assert reply.status == 200
    assert reply.json["choices"][0]["message"]["content"] == "\\boxed{1}"


async def test_an_unreachable_upstream_is_a_bad_gateway():
    async with serving(model_settings(NOWHERE, None)) as server:
        for reply in (await server.ask(), await server.ask(stream=True)):
            assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
            assert "127.0.0.1" not in reply.error["message"], "clients need not know where models live"


async def test_a_model_whose_upstream_was_never_reached_is_pending(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with serving(model_settings(NOWHERE, checkpoint), wait=False) as server:
        reply = await server.ask()
    assert (reply.status, reply.error["code"]) == (503, "model_pending")
    assert int(reply.headers["Retry-After"]) >= 1
    assert "x-should-retry" not in reply.headers


async def test_a_vote_past_its_deadline_is_not_to_be_asked_again(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))
    async with serving_script(Say(delay_s=60), checkpoint, vote={"deadline_s": 0.2}) as (server, upstream):
        reply = await server.ask()
        await upstream.until(lambda: upstream.n_cancelled == 8)
    assert reply.status == 504
    assert reply.error["code"] == "quorum_lost"
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("models", [{"model": {"upstream": "gpu"}}, {}], ids=["named", "listed"])
async def test_what_is_passed_through_has_the_same_deadline(models):
    async with scripted_upstream(lambda body, number: Say(delay_s=60)) as upstream:
        settings = {"upstreams": {"gpu": {"url": upstream.url}}, "models": models, "vote": {"deadline_s": 0.2}}
        async with serving(settings) as server:
            for reply in (await server.ask(), await server.ask(stream=True)):
                assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
                assert reply.headers["x-should-retry"] == "false"
        await upstream.until(lambda: upstream.n_cancelled == 2)


async def test_lost_candidates_above_the_quorum_are_marked(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", manifest("random"))

    def script(body, number):
        return Say(status=500) if body["seed"] % 4 == 0 else Say("\\boxed{7}")

    async with serving_script(script, checkpoint) as (server, _):
        reply = await server.ask(seed=100, its={"stop": "none"})
    assert reply.status == 200
    assert reply.json["its"]["lost"] == 2
    assert reply.json["its"]["degraded"] == "lost 2"
    assert reply.headers["x-its-degraded"] == "lost 2"
    assert reply.headers["x-its-votes"] == "6/6/8"


@pytest.mark.parametrize(("status", "told"), [(400, 400), (401, 502), (429, 429), (500, 500), (503, 503)])
async def test_an_error_on_a_forwarded_route_keeps_its_status_and_loses_its_text(status, told):
    async with serving_script(Say(status=status), None) as (server, _):
        reply = await server.send("POST", "/v1/completions", {"model": "model", "prompt": "2 + 5 ="})
    assert reply.status == told
    assert reply.error["type"]
    assert b"secret" not in reply.raw
    assert ("Retry-After" in reply.headers) == (told in (429, 503))
