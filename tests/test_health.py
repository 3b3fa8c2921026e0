"""A target's health over a clock that only the test moves."""

import random
from types import SimpleNamespace

import pytest

import its_proxy.health as module
from its_proxy.codesign.errors import (
    BadPayload,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from its_proxy.health import FAILURES_TO_EJECT, LAST_PAUSE_S, LONGEST_REST_S, Health

BROKE, ANSWERED = UpstreamBroken("broke"), UpstreamRejected("no", status=500)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module.random, "uniform", lambda low, high: (low + high) / 2)
    return clock


def failing(error=BROKE, times=FAILURES_TO_EJECT):
    health = Health()
    for _ in range(times):
        health.failed(error)
    return health


def test_a_server_that_does_not_answer_is_blocked_and_then_tried_by_one_query(clock):
    health = failing()
    assert (health.is_ejected, health.is_blocked, health.n_ejections) == (True, True, 1)
    assert not health.begin_probe(), "not before its time"
    clock.now += 1.0
    assert not health.is_blocked
    assert health.begin_probe()
    assert health.is_blocked, "for all others, until the probe is answered"
    assert not health.begin_probe()
    health.answered()
    assert (health.is_ejected, health.is_blocked, health.begin_probe()) == (False, False, False)


def test_each_probe_in_vain_doubles_the_wait_up_to_its_longest(clock):
    health, waits = failing(), []
    for _ in range(2000):
        wait = health.blocked("gpu").retry_after_s
        waits.append(wait)
        clock.now += wait
        assert health.begin_probe()
        health.failed(BROKE)
    assert waits[:5] == [1, 2, 4, 8, LAST_PAUSE_S]
    assert set(waits[4:]) == {LAST_PAUSE_S}


def test_a_probe_that_nobody_waited_for_leaves_the_next_one_to_another_query(clock):
    health = failing()
    clock.now += 1.0
    assert health.begin_probe()
    clock.now += 2.0
    assert health.begin_probe()


@pytest.mark.parametrize("error", [ANSWERED, BadPayload("odd"), UpstreamError("broke off in the middle")])
def test_a_server_that_answers_with_errors_is_avoided_and_never_blocked(clock, error):
    health = failing(error)
    assert (health.is_avoided, health.is_blocked) == (True, False)


def test_one_answer_among_the_failures_tells_that_somebody_is_there(clock):
    health = Health()
    for error in (UpstreamTimeout("late"), ANSWERED, BROKE):
        health.failed(error)
    assert (health.is_avoided, health.is_blocked) == (True, False)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(clock, status):
    health = Health()
    health.refused(UpstreamBusy("full", status=status, retry_after_s=7.0))
    health.refused(UpstreamBusy("full", status=status, retry_after_s=2.0))
    health.answered()
    clock.now += 6.9
    assert health.is_blocked
    assert (health.blocked("gpu").status, health.is_ejected) == (status, False)
    clock.now += 0.1
    assert not health.is_blocked


def test_no_server_can_have_itself_left_alone_for_years(clock):
    health = Health()
    health.refused(UpstreamBusy("full", retry_after_s=3e8))
    assert health.blocked("gpu").retry_after_s == LONGEST_REST_S
    clock.now += LONGEST_REST_S
    assert not health.is_blocked


def test_a_busy_server_that_does_not_say_how_long_is_only_avoided(clock):
    health = Health()
    health.refused(UpstreamBusy("full"))
    assert (health.is_avoided, health.is_blocked) == (True, False)
    clock.now += 1.0
    assert not health.is_avoided


def test_a_server_that_stays_busy_is_avoided_longer_each_time_and_an_answer_forgives(clock):
    health, waits = Health(), []
    for _ in range(6):
        for _ in range(8):  # the candidates of one vote
            health.refused(UpstreamBusy("full"))
        waits.append(health._avoided_until - clock.now)
        clock.now = health._avoided_until
    assert waits == [1, 2, 4, 8, LAST_PAUSE_S, LAST_PAUSE_S]
    health.answered()
    health.refused(UpstreamBusy("full"))
    assert health._avoided_until - clock.now == 1


def test_the_first_failure_turns_queries_to_others_for_a_while(clock):
    health = failing(times=1)
    assert (health.is_avoided, health.is_ejected) == (True, False)
    clock.now += 1.0
    assert not health.is_avoided


def test_whoever_is_well_is_neither_blocked_nor_to_be_tried_nor_has_anything_to_be_forgiven(clock):
    chance, n_well, n_ill = random.Random(7), 0, 0
    health, times = Health(), (0.1, 1.0, 3.0, 9.0, 80.0)
    for _ in range(5000):
        happens = chance.randrange(5)
        if happens == 0:
            health.failed(chance.choice([BROKE, ANSWERED]))
        elif happens == 1:
            health.refused(UpstreamBusy("full", retry_after_s=chance.choice([None, 2.0, 7.0])))
        elif happens == 2:
            health.answered()
        elif happens == 3:
            health.begin_probe()
        clock.now += chance.choice(times) if chance.random() < 0.5 else 0.0
        if not health.is_well:
            n_ill += 1
            continue
        n_well += 1
        known = dict(vars(health))
        assert (health.is_ejected, health.begin_probe()) == (False, False)
        assert clock.now >= health._rests_until
        health.answered()
        assert vars(health) == known
    assert min(n_well, n_ill) > 500


def test_whoever_has_rested_is_well_again_with_its_next_answer(clock):
    health = Health()
    health.refused(UpstreamBusy("full", retry_after_s=7.0))
    health.answered()
    assert not health.is_well
    clock.now += 7.0
    assert (health.is_blocked, health.is_well) == (False, False)
    health.answered()
    assert health.is_well
