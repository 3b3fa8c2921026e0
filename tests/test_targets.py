"""Targets: what a verdict allows, when it is looked at again, and how failures are borne."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from its_proxy.codesign.errors import (
    BadPayload,
    ModelUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from its_proxy.handshake import Verdict
from its_proxy.health import FAILURES_TO_EJECT
from its_proxy.targets import Policy, Target
from its_proxy.upstreams.http import HttpUpstream
from tests.scripted import Say, scripted_upstream
from tests.serving import tokens_of
from tests.targets import BODY, REFUSED, Scripted, checkpoint_in, fail_with, target_at


@pytest.fixture
def checkpoint(tmp_path):
    return checkpoint_in(tmp_path / "checkpoint")


# -- what a state allows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "serves", "serves_strictly"), [
    ("verified", True, True), ("unverified", True, False), ("none", True, True),
    ("pending", False, False), ("mismatch", False, False),
])  # fmt: skip
def test_only_examined_targets_serve(state, serves, serves_strictly, checkpoint):
    for strictly, allowed in ((False, serves), (True, serves_strictly)):
        target = target_at(Scripted("a"), checkpoint, Verdict(state, "why"), policy=Policy(needs_verified=strictly))
        assert target.is_serving is allowed
        if allowed:
            target.require_serving()
        else:
            with pytest.raises(ModelUnavailable, match=r"m is not .*: why"):
                target.require_serving()


def test_pending_asks_to_come_back_and_a_mismatch_does_not(checkpoint):
    with pytest.raises(ModelUnavailable) as pending:
        Target("m", Scripted("a"), "m", checkpoint).require_serving()
    assert (pending.value.code, pending.value.retry_after_s, pending.value.is_retryable) == ("model_pending", 0.5, True)
    with pytest.raises(ModelUnavailable) as mismatch:
        target_at(Scripted("a"), checkpoint, Verdict("mismatch", "why")).require_serving()
    assert (mismatch.value.code, mismatch.value.is_retryable) == ("model_mismatch", False)


async def test_without_a_manifest_there_is_nothing_to_examine():
    target = Target("m", Scripted("a"), "m", None)
    await asyncio.wait_for(target.watch(lambda verdict: None), 5)
    assert (target.state, target.is_serving) == ("none", True)


# -- the verdict over time ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(checkpoint, **fields):
    """A target at a scripted upstream, its verdicts as they come, and the script."""

    async with scripted_upstream(lambda body, number: Say("x", finish_reason="length"), ["m@pair"]) as scripted:
        scripted.tokens = lambda body: tokens_of(body["messages"])
        upstream = HttpUpstream("gpu", scripted.url)
        target = Target("m", upstream, "m@pair", checkpoint, **fields)
        target.retry_in_s = 0.01
        verdicts: list[Verdict] = []
        running = asyncio.create_task(target.watch(verdicts.append))
        try:
            yield target, verdicts, scripted
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await upstream.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_model_that_appears_later_is_found(checkpoint):
    async with watched(checkpoint) as (target, verdicts, scripted):
        scripted.models[:] = ["another"]
        await until(lambda: verdicts and verdicts[-1].state == "pending")
        assert target.state == "pending"
        scripted.models.append("m@pair")
        await until(lambda: target.state == "unverified")
    assert [verdict.state for verdict in verdicts][-2:] == ["pending", "unverified"]


async def test_an_unreachable_upstream_is_pending_and_recovers(checkpoint, unused_tcp_port):
    upstream = HttpUpstream("gpu", f"http://127.0.0.1:{unused_tcp_port}/v1")
    target = Target("m", upstream, "m@pair", checkpoint)
    target.retry_in_s = 0.01
    verdicts: list[Verdict] = []
    running = asyncio.create_task(target.watch(verdicts.append))
    await until(lambda: verdicts)
    assert "cannot be reached" in verdicts[0].reason
    async with watched(checkpoint) as (_, _, scripted):
        target.upstream = reached = HttpUpstream("gpu", scripted.url)
        await until(lambda: target.state == "unverified")
    running.cancel()
    await asyncio.wait({running})
    await upstream.close()
    await reached.close()


async def test_a_recheck_finds_what_has_changed_while_the_old_verdict_serves(checkpoint):
    async with watched(checkpoint) as (target, verdicts, scripted):
        await until(lambda: target.state == "unverified")
        scripted.tokens = lambda body: [1, 2, 3]
        await asyncio.sleep(0.05)
        assert target.is_serving, "nobody has asked yet"
        target.recheck()
        await until(lambda: target.state == "mismatch")
        scripted.tokens = lambda body: tokens_of(body["messages"])
        target.recheck()
        await until(lambda: target.state == "unverified")
    assert [verdict.state for verdict in verdicts] == ["unverified", "mismatch", "unverified"]


async def test_a_routine_recheck_needs_no_one_to_ask_for_it(checkpoint):
    async with watched(checkpoint, policy=Policy(recheck_s=0.02)) as (target, _, scripted):
        await until(lambda: target.state == "unverified")
        scripted.tokens = lambda body: [1, 2, 3]
        await until(lambda: target.state == "mismatch")


async def test_load_is_no_reason_to_leave_a_server_that_was_examined(checkpoint):
    async with watched(checkpoint) as (target, verdicts, scripted):
        await until(lambda: target.state == "unverified")
        asked = len(scripted.bodies)
        scripted.script = lambda body, number: Say(status=503)
        target.recheck()
        await until(lambda: len(scripted.bodies) > asked)
        await asyncio.sleep(0.2)
        assert target.state == "unverified"
    assert [verdict.state for verdict in verdicts] == ["unverified"]


async def test_a_watch_after_another_one_asks_nothing_that_is_known(checkpoint):
    """As after a reload: a server that was drained, to be stopped, must not be busy with probes."""
    async with watched(checkpoint) as (target, _, scripted):
        await until(lambda: target.state == "unverified")
        n_asked = len(scripted.bodies)
        async with watching(target):
            await asyncio.sleep(0.1)
        assert (len(scripted.bodies), target.state) == (n_asked, "unverified")


async def test_an_examination_that_a_reload_cuts_short_is_made_up_for(checkpoint):
    delays = {"delay_s": 0.0}

    def say(body, number):
        return Say("x", finish_reason="length", **delays)

    async with scripted_upstream(say, ["m@pair"]) as scripted:
        scripted.tokens = lambda body: tokens_of(body["messages"])
        upstream = HttpUpstream("gpu", scripted.url)
        target = Target("m", upstream, "m@pair", checkpoint)
        async with watching(target):
            await until(lambda: target.state == "unverified")
        scripted.tokens, delays["delay_s"] = lambda body: [1, 2, 3], 60
        target.recheck()
        async with watching(target):
            await until(lambda: scripted.n_open == 1)
        delays["delay_s"] = 0
        async with watching(target):
            await until(lambda: target.state == "mismatch")
        await upstream.close()


async def test_a_doubt_ends_an_examination_that_waits_for_what_is_there_no_more(checkpoint):
    async with watched(checkpoint) as (target, _, scripted):
        await until(lambda: target.state == "unverified")
        say = scripted.script
        scripted.script = lambda body, number: Say("x", delay_s=60)
        target.recheck()
        await until(lambda: scripted.n_open == 1)
        scripted.script = say
        assert target.suspect("it cannot be reached")
        assert not target.suspect("it cannot be reached"), "twice in a moment"
        await until(lambda: target.state == "unverified")
        assert scripted.n_cancelled == 1


@asynccontextmanager
async def watching(target):
    running = asyncio.create_task(target.watch(lambda verdict: None))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_suspected_target_gets_nothing_until_it_is_examined_again(checkpoint):
    async with watched(checkpoint) as (target, verdicts, _):
        await until(lambda: target.state == "unverified")
        assert target.suspect("it answered 404")
        assert (target.is_serving, target.verdict.reason) == (False, "it answered 404")
        assert not target.suspect("again"), "only the first doubt changes anything"
        await until(lambda: target.state == "unverified")
    assert verdicts[-1].state == "unverified"


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_failures_in_a_row_eject_and_a_success_forgives(checkpoint):
    target = target_at(Scripted("a"), checkpoint)
    broken = [UpstreamError("broke"), UpstreamTimeout("late"), BadPayload("odd"), UpstreamRejected("500", status=500)]
    await fail_with(target, *broken[: FAILURES_TO_EJECT - 1])
    await target.complete(BODY, "r")
    await fail_with(target, *broken[: FAILURES_TO_EJECT - 1])
    assert not target.health.is_ejected
    await fail_with(target, broken[-1])
    assert (target.health.is_ejected, target.health.n_ejections) == (True, 1)
    assert target.state == "verified", "an ejection is about health, a verdict about the pair"


async def test_the_candidates_of_one_query_that_fail_together_are_one_failure(checkpoint):
    """Else eight of them would count as eight failures in a row, and keep the target away for half a minute."""
    target = target_at(Scripted("a"), checkpoint)
    await fail_with(target, *[UpstreamError("broke")] * 8)
    assert (target.health.is_ejected, target.health.n_ejections) == (True, 1)


@pytest.mark.parametrize("error", [
    *[UpstreamRejected("no", status=status) for status in (400, 401, 404, 413, 422)],
    UpstreamBusy("full", status=429), UpstreamBusy("full", status=503),
])  # fmt: skip
async def test_what_is_about_the_request_never_ejects(error):
    target = Target("m", Scripted("a"), "m", None)
    await fail_with(target, *[error] * 20)
    assert (target.health.is_ejected, target.state) == (False, "none")


async def test_a_404_on_a_route_that_the_upstream_may_lack_says_nothing_about_the_model(checkpoint):
    target = target_at(Scripted("a", UpstreamRejected("no such route", status=404)), checkpoint)
    with pytest.raises(UpstreamRejected):
        await target.forward("POST", "embeddings", b"{}", "application/json")
    assert target.is_serving


async def test_a_404_to_a_text_completion_says_nothing_about_the_chat(checkpoint):
    """Many servers chat only: a client that asks one for more takes the model from nobody."""
    missing = UpstreamRejected("no such route", status=404)
    target = target_at(Scripted("a", missing, missing), checkpoint)
    with pytest.raises(UpstreamRejected):
        await target.complete({"prompt": "2 + 5 ="}, "r")
    with pytest.raises(UpstreamRejected):
        async with target.stream({"prompt": "2 + 5 ="}, "r"):
            pass
    assert target.is_serving


@pytest.mark.parametrize("error", [UpstreamRejected("no such model", status=404), REFUSED])
async def test_nothing_casts_doubt_on_what_this_process_computes(error, checkpoint):
    target = target_at(Scripted("a"), checkpoint, is_local=True)
    await fail_with(target, error)
    assert not target.suspect("a doubt")
    assert target.is_serving


@pytest.mark.parametrize("error", [UpstreamRejected("no such model", status=404), REFUSED])
async def test_a_404_for_the_pairs_name_or_a_lost_server_calls_for_a_new_handshake(error, checkpoint):
    target = target_at(Scripted("a"), checkpoint)
    await fail_with(target, error)
    assert (target.state, target.is_serving) == ("pending", False)


async def test_a_cancelled_call_says_nothing_about_its_target(checkpoint):
    class Slow(Scripted):
        async def complete(self, body, request_id):
            await asyncio.sleep(60)

    target = target_at(Slow("a"), checkpoint)
    call = asyncio.create_task(target.complete(BODY, "r"))
    await asyncio.sleep(0)
    assert target.n_in_flight == 1
    call.cancel()
    await asyncio.wait({call})
    assert (target.n_in_flight, target.health.is_ejected, target.state) == (0, False, "verified")
