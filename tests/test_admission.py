"""Admission over a real event loop: who gets room, who waits, who is turned away. No clock decides any of it."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

import its_proxy.admission as module
import its_proxy.waiting as clocked
from its_proxy.admission import Admission, CallerLimits, Limits
from its_proxy.codesign.errors import NotAdmitted


def admission(candidates=8, queue=100, queue_s=60.0):
    return Admission(Limits(candidates, queue, queue_s))


class Request:
    """A request that begins when it may, and ends when it is told to."""

    def __init__(self, door, needs, begins_with=None, n_candidates=None):
        self.choice = None
        self.n_running = 0
        self._end = asyncio.Event()
        self._n_candidates = n_candidates
        self.task = asyncio.ensure_future(self._run(door, needs, begins_with))

    async def _run(self, door, needs, begins_with):
        async with door.admitted(needs, begins_with) as place, asyncio.TaskGroup() as group:
            self.choice = place.choice
            for _ in range(self._n_candidates or needs[place.choice]):
                group.create_task(self._candidate(place))

    async def _candidate(self, place):
        async with place.candidate():
            self.n_running += 1
            try:
                await self._end.wait()
            finally:
                self.n_running -= 1

    @property
    def is_admitted(self):
        return self.choice is not None

    async def end(self):
        self._end.set()
        await self.task

    async def leave(self):
        self.task.cancel()
        await asyncio.wait({self.task})


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def requests(*made):
    await settle()
    async with AsyncExitStack() as stack:
        for request in made:
            stack.push_async_callback(request.leave)
        yield made


# -- room --------------------------------------------------------------------------------------------------------------


async def test_candidates_are_counted_and_the_request_that_finds_no_room_waits_for_it():
    gate = admission(8)
    first, second = Request(gate.door("a"), [8]), Request(gate.door("a"), [8])
    async with requests(first, second):
        assert (first.is_admitted, second.is_admitted, gate.n_in_flight, gate.n_waiting) == (True, False, 8, 1)
        await first.end()
        await settle()
        assert (second.is_admitted, gate.n_in_flight, gate.n_waiting) == (True, 8, 0)
    assert gate.n_in_flight == 0


async def test_what_fits_exactly_is_admitted():
    gate = admission(8)
    async with requests(*(Request(gate.door("a"), [4]) for _ in range(2))) as pair:
        assert all(request.is_admitted for request in pair)


async def test_a_request_that_needs_more_than_there_ever_is_runs_its_candidates_one_after_the_other():
    gate = admission(3)
    request = Request(gate.door("a"), [8])
    async with requests(request):
        assert (request.n_running, gate.n_in_flight) == (3, 3)
        await request.end()
    assert gate.n_in_flight == 0


async def test_one_that_begins_with_one_candidate_holds_one_slot_and_takes_the_others_when_it_needs_them():
    gate = admission(8)
    first = Request(gate.door("a"), [8], begins_with=1, n_candidates=1)
    async with requests(first):
        assert gate.n_in_flight == 1
        other = Request(gate.door("b"), [7])
        async with requests(other):
            assert other.is_admitted


async def test_further_candidates_go_before_new_requests():
    gate = admission(4)
    running, begun = Request(gate.door("a"), [2]), Request(gate.door("a"), [2], n_candidates=4)
    new = Request(gate.door("b"), [1])
    async with requests(running, begun, new):
        assert (begun.n_running, new.is_admitted) == (2, False)
        await running.end()
        await settle()
        assert (begun.n_running, new.is_admitted) == (4, False)


async def test_who_needs_less_does_not_overtake_who_waits_longer():
    gate = admission(8)
    running = [Request(gate.door("a"), [4]) for _ in range(2)]
    large, small = Request(gate.door("b"), [8]), Request(gate.door("c"), [1])
    async with requests(*running, large, small):
        await running[0].end()
        await settle()
        assert not small.is_admitted
        await running[1].end()
        await settle()
        assert large.is_admitted


# -- fairness ----------------------------------------------------------------------------------------------------------


async def test_tenants_take_turns_however_much_one_of_them_sends():
    gate = admission(1)
    running = Request(gate.door("busy"), [1])
    await settle()
    busy = [Request(gate.door("busy"), [1]) for _ in range(5)]
    quiet = Request(gate.door("quiet"), [1])
    async with requests(running, *busy, quiet):
        await running.end()
        await settle()
        await busy[0].end()
        await settle()
        assert quiet.is_admitted
        assert sum(request.is_admitted for request in busy) == 1


async def test_a_tenant_at_its_own_limit_waits_and_does_not_stand_in_the_way():
    gate, limits = admission(8), CallerLimits(max_candidates=2)
    running, waiting = (Request(gate.door("a", limits), [2]) for _ in range(2))
    other = Request(gate.door("b"), [4])
    async with requests(running, waiting, other):
        assert (waiting.is_admitted, other.is_admitted) == (False, True)
        await running.end()
        await settle()
        assert waiting.is_admitted


async def test_a_full_queue_turns_away_the_last_of_whoever_has_most_in_it():
    gate = admission(1, queue=3)
    running = Request(gate.door("busy"), [1])
    await settle()
    busy = [Request(gate.door("busy"), [1]) for _ in range(3)]
    await settle()
    quiet = Request(gate.door("quiet"), [1])
    async with requests(running, *busy, quiet):
        assert isinstance(busy[-1].task.exception(), NotAdmitted)
        assert not quiet.task.done()
        assert gate.n_waiting == 3
        with pytest.raises(NotAdmitted):
            await Request(gate.door("busy"), [1]).task


# -- who is turned away ------------------------------------------------------------------------------------------------


async def test_a_full_server_is_503_and_a_callers_own_limit_429():
    gate = admission(2, queue=0)
    async with requests(Request(gate.door("a"), [2])):
        with pytest.raises(NotAdmitted) as full:
            await Request(gate.door("b"), [1]).task
    async with requests(Request(gate.door("a"), [1])):
        with pytest.raises(NotAdmitted) as own:
            await Request(gate.door("a", CallerLimits(max_candidates=1)), [1]).task
    assert [(e.value.status, e.value.code) for e in (full, own)] == [(503, "server_full"), (429, "rate_limit_exceeded")]
    assert all(e.value.retry_after_s >= 1 for e in (full, own))
    assert (gate.n_rejected["queue_full"], gate.n_rejected["own_candidates"]) == (1, 1)


async def test_the_time_in_the_queue_ends_with_the_deadline_of_the_request():
    gate = admission(1)
    async with requests(Request(gate.door("a"), [1])):
        with pytest.raises(NotAdmitted):
            async with gate.door("b").admitted([1], within_s=0.01):
                raise AssertionError("there was no room")
    assert (gate.n_waiting, gate.n_rejected["queue_time"]) == (0, 1)


async def test_who_would_wait_in_vain_is_turned_away_at_once(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(clocked, "monotonic", lambda: now)
    gate = admission(1, queue=100, queue_s=10.0)
    running = [Request(gate.door("a"), [1])]
    await settle()
    running += [Request(gate.door("a"), [1]) for _ in range(9)]
    async with requests(*running):
        for request in running[:3]:
            now += 2.0
            await request.end()
            await settle()
        assert gate.n_waiting == 6
        with pytest.raises(NotAdmitted):  # 2 s each: the seventh would wait for 14 s
            await Request(gate.door("a"), [1]).task
        for request in running[3:7]:
            await request.end()
            await settle()
        another = Request(gate.door("a"), [1])
        await settle()
        assert not another.task.done(), "it moves faster now"
        await another.leave()


async def test_more_requests_than_a_minute_allows_are_429_until_one_is_due(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(clocked, "monotonic", lambda: now)
    gate, limits = admission(), CallerLimits(requests_per_minute=3)
    for _ in range(3):
        gate.door("a", limits)
    with pytest.raises(NotAdmitted) as refused:
        gate.door("a", limits)
    assert (refused.value.status, refused.value.retry_after_s) == (429, pytest.approx(20.0))
    gate.door("b", limits)
    now += 20.0
    gate.door("a", limits)
    with pytest.raises(NotAdmitted):
        gate.door("a", limits)
    now += 3600.0
    for _ in range(3):
        gate.door("a", limits)
    with pytest.raises(NotAdmitted):
        gate.door("a", limits)


# -- pressure ----------------------------------------------------------------------------------------------------------


async def test_under_pressure_a_request_takes_what_there_is_before_anyone_is_turned_away():
    gate = admission(8, queue=1)
    first = Request(gate.door("a"), [5, 3])
    second = Request(gate.door("a"), [5, 3])
    async with requests(first, second):
        assert (first.choice, second.choice, gate.n_in_flight, gate.n_reduced) == (0, 1, 8, 1)


async def test_where_others_wait_too_each_takes_the_least_and_the_last_what_there_is():
    gate = admission(1)
    running = Request(gate.door("a"), [1])
    await settle()
    waiting = [Request(gate.door("b"), [8, 5, 3]) for _ in range(2)]
    async with requests(running, *waiting):
        gate.limits = Limits(9, 100, 60.0)
        await settle()
        assert [request.choice for request in waiting] == [2, 1]


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_who_leaves_the_queue_frees_its_place_and_lets_others_pass():
    gate = admission(8)
    running = [Request(gate.door("a"), [4]) for _ in range(2)]
    large, small = Request(gate.door("b"), [8]), Request(gate.door("c"), [1])
    async with requests(*running, large, small):
        await running[0].end()
        await settle()
        assert not small.is_admitted
        await large.leave()
        await settle()
        assert (small.is_admitted, gate.n_waiting) == (True, 0)


async def test_a_grant_that_comes_in_the_moment_of_leaving_is_given_back():
    gate = admission(1)
    running, waiting = Request(gate.door("a"), [1]), Request(gate.door("b"), [1])
    async with requests(running, waiting):
        running.task.cancel()
        await asyncio.wait({running.task})  # granted now, and the waiting task has not run since
        waiting.task.cancel()
        await asyncio.wait({waiting.task})
        assert waiting.task.cancelled()
        assert (gate.n_in_flight, gate.n_waiting) == (0, 0)


async def test_who_is_leaving_the_queue_makes_room_for_the_next_and_nobody_is_turned_away():
    gate = admission(1, queue=1)
    running, leaving = Request(gate.door("a"), [1]), Request(gate.door("b"), [1])
    async with requests(running, leaving):
        leaving.task.cancel()  # it has not run since
        gate_entered = Request(gate.door("b"), [1])
        async with requests(gate_entered):
            assert (leaving.task.cancelled(), gate_entered.task.done(), gate.n_waiting) == (True, False, 1)
    assert sum(gate.n_rejected.values()) == 0


async def test_a_candidate_that_leaves_the_line_of_further_ones_takes_nothing():
    gate = admission(1)
    request = Request(gate.door("a"), [1], n_candidates=3)
    async with requests(request):
        assert request.n_running == 1
    assert gate.n_in_flight == 0
    async with requests(Request(gate.door("a"), [1])) as (again,):
        assert again.is_admitted


async def test_after_10_000_requests_left_in_every_phase_nothing_is_counted_any_more():
    gate = admission(16, queue=64)
    for round_ in range(250):
        made = [
            Request(gate.door(f"tenant {k % 5}", CallerLimits(max_candidates=6)), [4, 2], n_candidates=5)
            for k in range(40)
        ]
        for _ in range(round_ % 7):
            await asyncio.sleep(0)
        for k, request in enumerate(made):
            if k % 3 == 0:
                request._end.set()
            else:
                request.task.cancel()
        for request in made:
            request._end.set()
        await asyncio.wait({request.task for request in made})
    assert (gate.n_in_flight, gate.n_waiting) == (0, 0)
    assert all(tenant.is_idle for tenant in gate._tenants.values())


# -- limits that change, tenants that come and go ----------------------------------------------------------------------


async def test_higher_limits_let_in_who_waits():
    gate = admission(1)
    running, waiting = Request(gate.door("a"), [1]), Request(gate.door("b"), [1])
    async with requests(running, waiting):
        gate.limits = Limits(2, 100, 60.0)
        await settle()
        assert waiting.is_admitted


async def test_any_number_of_tenants_is_forgotten_again(monkeypatch):
    monkeypatch.setattr(module, "MAX_IDLE_TENANTS", 100)
    gate = admission()
    for number in range(1000):
        gate.door(f"tenant {number}", CallerLimits(requests_per_minute=1))
    assert len(gate._tenants) <= 100
    with pytest.raises(NotAdmitted):
        gate.door("tenant 999", CallerLimits(requests_per_minute=1))


async def test_who_has_spent_its_requests_is_remembered_longer_than_who_has_not(monkeypatch):
    monkeypatch.setattr(module, "MAX_IDLE_TENANTS", 100)
    gate = admission()
    limits = CallerLimits(requests_per_minute=1)
    gate.door("busy", limits)
    for number in range(1000):
        async with gate.door(f"tenant {number}").admitted([1]):
            pass
    assert len(gate._tenants) <= 100
    with pytest.raises(NotAdmitted):
        gate.door("busy", limits)
