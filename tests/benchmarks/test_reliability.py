"""The tools that measure what its-proxy survives: they see what really happens, and miss nothing."""

import json

import aiohttp
import pytest

from benchmarks.reliability import bombs, disconnects, soak, workers
from benchmarks.reliability.clients import Bare, quantile, steady_load
from benchmarks.reliability.results import save
from benchmarks.reliability.wishes import Wish, wish_of
from benchmarks.reliability.world import N, world

QUERY = "How many are 3 + 4?"


def asked(model: str, wish: Wish, **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": wish.written(QUERY)}], "seed": 0, **fields}


async def test_a_world_votes_fails_and_cancels_as_each_query_wishes(tmp_path):
    async with world(tmp_path, {"max_n": N}) as (proxy, upstream):
        async with aiohttp.ClientSession() as http:
            body = asked("voted", Wish(faults={"1": "500-text"}), its={"vote": "always", "stop": "none"})
            async with http.post(f"{proxy.url}/chat/completions", json=body) as reply:
                its = (await reply.json())["its"]
        assert (its["votes"], its["lost"]) == ({"7": N - 1}, 1)

        client = await Bare.asking(proxy.url, asked("voted", Wish(n_answering=0)), "leaving")
        assert (await upstream.calls("leaving", running=N)).n_running == N
        left_at = client.leave("rst")
        seen = await upstream.calls("leaving", over=N)
        assert (seen.n_aborted, seen.n_finished, min(seen.aborted_at) > left_at) == (N, 0, True)
        assert (await upstream.counters()).n_running == 0
        assert [value for labels, value in await proxy.samples("its_proxy_target_inflight") if value] == []

        replies = await steady_load(proxy.url, 50, 0.2, lambda number: asked("passed", Wish(), seed=number))
        assert [reply.status for reply in replies] == [200] * 10


async def test_clients_who_leave_in_any_phase_and_manner_leave_nothing_behind(tmp_path):
    n = 2 * (len(disconnects.PHASES) + len(disconnects.OTHERS)) * len(disconnects.HOWS)
    figures = disconnects.figures_of(*await disconnects.measure(n, 2, tmp_path))
    assert (figures["disconnects"], figures["orphans"], figures["slots_leaked"]) == (n, 0, 0)
    n_running = sum(phase.n_running for phase in disconnects.PHASES.values())
    assert figures["candidates_cancelled"] == 2 * len(disconnects.HOWS) * n_running


async def test_a_short_soak_leaves_descriptors_and_tasks_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "DEADLINE_S", 3.0)
    monkeypatch.setattr(soak, "TIMERS", {"first_byte_timeout_s": 0.5, "idle_timeout_s": 0.5})
    run = await soak.soak(200, 100, 60, tmp_path, rest_s=2)
    assert (run.seen.n, run.n_upstream_running) == (200, 0)
    assert run.seen.ends["sound", "200"] > 100
    assert run.after.descriptors <= run.before.descriptors
    assert run.after.tasks <= run.before.tasks


async def test_a_killed_worker_costs_no_client_its_answer(tmp_path):
    pytest.importorskip("sympy")
    seen = await workers.measure(3, tmp_path, every_s=0.1)
    assert seen.n_killed >= 1
    assert [reply.status for reply in [*seen.calm, *seen.killing]] == [200] * 30


async def test_bombs_through_the_server_leave_no_child_and_merge_nothing(tmp_path):
    figures = bombs.figures_of(await bombs.measure(6, tmp_path), 6)
    assert (figures["answered"], figures["pairs_merged"], figures["children_left"]) == (12, 0, 0)
    assert figures["pairs_refused"] >= 6 * 15


def test_a_soak_has_the_shares_that_it_promises():
    requests = [soak.request(number) for number in range(10_000)]
    kinds = [kind for kind, _ in requests]
    for kind, share in soak.SHARES.items():
        assert 0.8 * share < kinds.count(kind) / len(kinds) < 1.2 * share
    assert 0.48 < sum(body["stream"] for _, body in requests) / len(requests) < 0.52
    assert soak.request(5) == soak.request(5)


def test_a_wish_is_read_from_the_query_that_holds_it():
    wish = Wish(texts=("\\boxed{1}",), faults={"2": "html-200"})
    assert wish_of({"messages": [{"role": "user", "content": "A persona.\n\n" + wish.written(QUERY)}]}) == wish
    assert wish_of({"messages": [{"role": "user", "content": QUERY}]}) == Wish()


def test_a_result_tells_its_command_and_its_machine(tmp_path):
    path = save("one", {"p99_ms": 3.5}, True, {"requests": 10}, command="make torture", folder=tmp_path)
    document = json.loads(path.read_text())
    assert (document["figures"], document["passed"], document["command"]) == ({"p99_ms": 3.5}, True, "make torture")
    assert document["conditions"]["requests"] == 10
    assert document["conditions"]["cores"] >= 1


def test_a_quantile_is_one_of_the_values():
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
