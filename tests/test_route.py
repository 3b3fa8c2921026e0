"""A query's way to a model: the target it is sent to, and where its calls go that were not taken there."""

import pytest

from its_proxy.codesign.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.handshake import Verdict
from its_proxy.health import FAILURES_TO_EJECT
from its_proxy.route import Missing, Route, choose
from its_proxy.targets import Policy, Target
from its_proxy.upstreams.http import HttpUpstream
from its_proxy.upstreams.retries import RetryBudget
from tests.scripted import Say, scripted_upstream
from tests.targets import BODY, REFUSED, Scripted, checkpoint_in, fail_with, target_at


@pytest.fixture
def checkpoint(tmp_path):
    return checkpoint_in(tmp_path / "checkpoint")


# -- the choice --------------------------------------------------------------------------------------------------------


def test_the_least_loaded_healthy_target_is_chosen(checkpoint):
    one, two, three = (target_at(Scripted(name), checkpoint) for name in "abc")
    one.n_in_flight, two.n_in_flight, three.n_in_flight = 5, 2, 9
    assert choose([one, two, three]) is two
    assert choose([one, two, three], besides=two) is one
    two.verdict = Verdict("mismatch", "why")
    assert choose([one, two, three]) is one
    one.policy = Policy(is_drained=True)
    assert choose([one, two, three]) is three
    assert choose([one, two]) is one, "a drained target is better than none"
    assert choose([two]) is None


def test_idle_targets_share_what_comes_at_once(checkpoint):
    targets = [target_at(Scripted(name), checkpoint) for name in "abc"]
    assert {choose(targets).upstream.name for _ in range(200)} == set("abc")


# -- a query's way -----------------------------------------------------------------------------------------------------


def route_over(*upstreams, checkpoint, salt=None):
    targets = [target_at(upstream, checkpoint) for upstream in upstreams]
    return Route(targets[0], targets, salt)


@pytest.mark.parametrize("error", [REFUSED, UpstreamBusy("full"), UpstreamRejected("no such model", status=404)])
async def test_a_call_that_cost_nothing_is_asked_once_elsewhere_and_the_others_follow(error, checkpoint):
    a, b = Scripted("a", error), Scripted("b")
    route = route_over(a, b, checkpoint=checkpoint)
    for _ in range(3):
        assert (await route.complete(BODY, "r"))["choices"][0]["message"]["content"] == "b"
    assert (len(a.bodies), len(b.bodies), route.name) == (1, 3, "b")
    assert b.bodies[0]["model"] == "m@pair"


@pytest.mark.parametrize("error", [UpstreamError("broke"), UpstreamTimeout("late"), UpstreamRejected("no", status=400)])
async def test_a_call_that_may_have_cost_something_is_lost(error, checkpoint):
    a, b = Scripted("a", error), Scripted("b")
    route = route_over(a, b, checkpoint=checkpoint)
    with pytest.raises(type(error)):
        await route.complete(BODY, "r")
    assert (b.bodies, route.was_begun) == ([], True)


async def test_a_call_is_moved_only_once(checkpoint):
    a, b, c = Scripted("a", REFUSED), Scripted("b", REFUSED), Scripted("c")
    route = route_over(a, b, c, checkpoint=checkpoint)
    route.targets[2].n_in_flight = 9
    with pytest.raises(UpstreamUnreachable):
        await route.complete(BODY, "r")
    assert (c.bodies, route.was_begun) == ([], False)


async def test_a_busy_target_is_left_for_another_only_as_often_as_the_budget_pays(checkpoint):
    """In an outage of all targets together, half of the tries would be in vain."""
    a, b = (Scripted(name, *[UpstreamBusy("full", status=503)] * 2000) for name in "ab")
    targets = [target_at(upstream, checkpoint) for upstream in (a, b)]
    budget = RetryBudget(10)
    for _ in range(200):
        with pytest.raises(UpstreamBusy):
            await Route(choose(targets), targets, budget=budget).complete(BODY, "r")
    assert 200 < len(a.bodies) + len(b.bodies) <= 250


async def test_a_call_has_two_tries_and_not_two_at_each_place(checkpoint):
    def busy(body, number):
        return Say(status=503)

    async with scripted_upstream(busy, ["m@pair"]) as one, scripted_upstream(busy, ["m@pair"]) as two:
        upstreams = [HttpUpstream(name, scripted.url) for name, scripted in (("a", one), ("b", two))]
        with pytest.raises(UpstreamBusy):
            await route_over(*upstreams, checkpoint=checkpoint).complete(BODY, "r")
        assert (len(one.bodies), len(two.bodies)) == (1, 1)
        with pytest.raises(UpstreamBusy):
            await route_over(upstreams[0], checkpoint=checkpoint).complete(BODY, "r")
        assert len(one.bodies) == 3, "where there is no elsewhere, it is asked once more"
        for upstream in upstreams:
            await upstream.close()


async def test_a_target_that_asked_for_a_pause_is_spared_and_the_others_are_used(checkpoint):
    a, b = Scripted("a", UpstreamBusy("full", status=429, retry_after_s=7.0)), Scripted("b")
    targets = [target_at(upstream, checkpoint) for upstream in (a, b)]
    await Route(targets[0], targets).complete(BODY, "r")
    for _ in range(50):
        await Route(targets[0], targets).complete(BODY, "r")
    assert (len(a.bodies), len(b.bodies)) == (1, 51)


async def test_where_all_targets_pause_the_longest_wait_is_told_and_nobody_is_asked(checkpoint):
    waits = [UpstreamBusy("full", status=503, retry_after_s=seconds) for seconds in (3.0, 7.0)]
    a, b = (Scripted(name, wait) for name, wait in zip("ab", waits, strict=True))
    targets = [target_at(upstream, checkpoint) for upstream in (a, b)]
    with pytest.raises(UpstreamBusy):
        await Route(targets[0], targets).complete(BODY, "r")
    for _ in range(5):
        with pytest.raises(UpstreamBusy) as told:
            await Route(choose(targets), targets).complete(BODY, "r")
        assert 6 < told.value.retry_after_s <= 7
    assert (len(a.bodies), len(b.bodies)) == (1, 1)


async def test_a_blocked_target_that_is_doubted_as_well_is_not_asked(checkpoint):
    target = target_at(Scripted("a"), checkpoint)
    route = Route(target, [target])
    await fail_with(target, UpstreamBusy("full", retry_after_s=7.0))
    target.suspect("it cannot be reached")
    with pytest.raises(UpstreamBusy, match="pause"):
        await route.complete(BODY, "r")
    assert len(target.upstream.bodies) == 1


async def test_a_target_that_does_not_answer_is_tried_by_one_whole_query_at_a_time(checkpoint):
    target = target_at(Scripted("a"), checkpoint)
    await fail_with(target, *[UpstreamTimeout("late")] * FAILURES_TO_EJECT)
    target.upstream.bodies.clear()
    with pytest.raises(UpstreamBusy, match="does not answer"):
        await Route(target, [target]).complete(BODY, "r")
    assert target.upstream.bodies == []
    target.health._ejected_until = 0.0
    probing, other = Route(target, [target]), Route(target, [target])
    target.upstream.errors = [UpstreamTimeout("late")]
    with pytest.raises(UpstreamTimeout):
        await probing.complete(BODY, "r-0")
    with pytest.raises(UpstreamBusy):
        await other.complete(BODY, "r-0")
    await probing.complete(BODY, "r-1")
    await other.complete(BODY, "r-1")
    assert len(target.upstream.bodies) == 3


async def test_a_stream_moves_before_its_first_byte(checkpoint):
    a, b = Scripted("a", REFUSED), Scripted("b")
    async with route_over(a, b, checkpoint=checkpoint).stream(BODY, "r") as chunks:
        assert [chunk async for chunk in chunks] == [b"b"]


async def test_a_clients_own_unknown_model_is_not_asked_for_everywhere():
    a, b = Scripted("a", UpstreamRejected("no such model", status=404)), Scripted("b")
    targets = [Target("m", upstream, "m", None) for upstream in (a, b)]
    with pytest.raises(UpstreamRejected):
        await Route(targets[0], targets).complete(BODY, "r")
    assert b.bodies == []


async def test_a_salt_goes_only_where_it_is_known_to_be_taken(checkpoint):
    a, b = Scripted("a", REFUSED), Scripted("b")
    a.takes_cache_salt = True
    await route_over(a, b, checkpoint=checkpoint, salt="s" * 32).complete(BODY, "r")
    assert a.bodies[0]["cache_salt"] == "s" * 32
    assert "cache_salt" not in b.bodies[0]


async def test_a_missing_member_loses_its_candidates_at_once():
    missing = Missing("gpu", "m serves nowhere: why")
    with pytest.raises(UpstreamUnreachable, match="why"):
        await missing.complete(BODY, "r")
    with pytest.raises(UpstreamUnreachable, match="why"):
        async with missing.stream(BODY, "r"):
            pass
