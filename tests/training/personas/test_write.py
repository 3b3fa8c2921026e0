"""The writer against a real endpoint that misbehaves: what is accepted, what is asked again, and what is not."""

import asyncio
import json
from pathlib import Path

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.personas.ledger import open_ledger
from tests.scripted import Say, scripted_upstream
from tests.training.personas.crooked_writer import DISHONEST, crooked_writer
from tests.training.personas.independent import complaint
from tests.training.personas.small_work import answers, queries, select, write_all

GOOD = json.dumps({"persona": "A patient cook who tastes everything twice and never hurries.", "domain": "cooking"})


async def test_no_bad_persona_is_accepted_and_a_second_run_makes_no_call(tmp_path: Path) -> None:
    some = queries(50)
    right = answers(some)
    async with crooked_writer(1, right) as server:
        n_calls = await write_all(tmp_path, [server.url], some)
        assert n_calls == server.n_finished > 150  # every finished call is known, and many were needed
        n_requests = server.n_requests
        assert await write_all(tmp_path, [server.url], some) == 0
        assert server.n_requests == n_requests
    assert len(set(DISHONEST) & set(server.deeds)) == len(DISHONEST)
    with open_ledger(tmp_path) as ledger:
        accepted, unwritten, totals = list(ledger.accepted()), list(ledger.unwritten()), ledger.totals()
    assert len(accepted) + len(unwritten) == 150
    assert len(accepted) > 130
    assert totals.n_calls == n_calls == totals.n_accepted + sum(totals.rejected.values())
    assert (totals.models, totals.fingerprints) == (("writer-0501",), ("fp_crooked",))
    assert totals.prompt_tokens == 100 * n_calls
    complaints = [complaint(a.text, a.strategy, a.domain, a.query, right[a.query]) for a in accepted]
    assert complaints == [None] * len(accepted)


async def test_the_independent_checker_objects_to_what_was_refused(tmp_path: Path) -> None:
    """Otherwise its silence on what was accepted would say nothing."""
    some = [query for query in queries(50) if not query.text.startswith("Add")]  # of a domain that has words
    async with crooked_writer(2, answers(some), honest_share=0.0) as server:
        await write_all(tmp_path, [server.url], some, strategies=["similar"], n_asks=2, max_failures=1000)
    by_reason: dict[str, list[str | None]] = {}
    assert not select(tmp_path, "SELECT 1 FROM calls WHERE persona IS NOT NULL")
    for reply, reason, domain, query in select(tmp_path, "SELECT reply, reason, domain, query FROM calls"):
        try:
            text = json.loads(reply)["persona"]
        except (ValueError, TypeError):
            continue  # its reader would have none to look at either
        if reason not in ("truncated", "not JSON"):
            by_reason.setdefault(reason, []).append(complaint(text, "similar", domain, query, answers(some)[query]))
    # A wrong label stands beside the text, where this checker does not look.
    objections = {reason: all(said) for reason, said in by_reason.items() if reason != "wrong domain"}
    assert len(objections) >= 7
    assert all(objections.values()), by_reason


async def test_a_re_ask_tells_what_was_wrong(tmp_path: Path) -> None:
    replies = [GOOD.replace("twice", "42 times"), GOOD]
    async with scripted_upstream(lambda body, n: Say(replies[n])) as server:
        assert await write_all(tmp_path, [server.url], queries(1), strategies=["similar"]) == 2
    first, second = (body["messages"] for body in server.bodies)
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": replies[0]}
    assert "no numbers" in second[3]["content"]
    assert server.bodies[0]["seed"] != server.bodies[1]["seed"]


async def test_a_query_without_a_good_persona_is_told_and_not_replaced(tmp_path: Path) -> None:
    async with scripted_upstream(lambda body, n: Say("no")) as server:
        assert await write_all(tmp_path, [server.url], queries(1), strategies=["similar"], n_asks=3) == 3
        assert await write_all(tmp_path, [server.url], queries(1), strategies=["similar"], n_asks=3) == 0
        with open_ledger(tmp_path) as ledger:
            assert list(ledger.unwritten()) == [("q0", "similar", "cooking", "not JSON")]
            assert not list(ledger.accepted())
        # More tries go on where these ended.
        assert await write_all(tmp_path, [server.url], queries(1), strategies=["similar"], n_asks=4) == 1


async def test_an_endpoint_without_schemas_is_asked_plainly(tmp_path: Path) -> None:
    some = queries(3)
    async with crooked_writer(3, honest_share=1.0, refuses_formats=2) as server:
        await write_all(tmp_path, [server.url], some, concurrency=1)
    assert server.n_format_refused == 2  # once each, then it is known
    assert all("response_format" not in body for body in server.bodies)
    with open_ledger(tmp_path) as ledger:
        assert len(list(ledger.accepted())) == 9


async def test_the_strict_schema_is_asked_for_where_it_is_known(tmp_path: Path) -> None:
    async with crooked_writer(3, honest_share=1.0) as server:
        await write_all(tmp_path, [server.url], queries(1))
    asked = server.bodies[0]["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is True
    assert asked["json_schema"]["schema"]["required"] == ["persona", "domain"]


async def test_no_more_calls_are_open_than_allowed(tmp_path: Path) -> None:
    async with crooked_writer(4, honest_share=1.0, delay_s=0.02) as server:
        await write_all(tmp_path, [server.url], queries(10), concurrency=3)
    assert server.most_open == 3


async def test_the_quicker_endpoint_gets_more_of_the_calls(tmp_path: Path) -> None:
    async with crooked_writer(5, honest_share=1.0) as quick, crooked_writer(5, honest_share=1.0, delay_s=0.5) as slow:
        await write_all(tmp_path, [slow.url, quick.url], queries(20), concurrency=8)
    assert quick.n_finished + slow.n_finished == 60
    assert quick.n_finished > slow.n_finished > 0


async def test_one_dead_endpoint_among_two_only_costs_tries(tmp_path: Path, unused_tcp_port: int) -> None:
    async with crooked_writer(6, honest_share=1.0) as server:
        dead = f"http://127.0.0.1:{unused_tcp_port}/v1"
        assert await write_all(tmp_path, [dead, server.url], queries(10)) == 30


async def test_a_dead_endpoint_ends_the_run_with_one_line(tmp_path: Path, unused_tcp_port: int) -> None:
    dead = f"http://127.0.0.1:{unused_tcp_port}/v1"
    with pytest.raises(ConfigError, match=r"failed too often; the last time: upstream .* cannot be reached"):
        await write_all(tmp_path, [dead], queries(10), max_failures=3)


async def test_a_silent_endpoint_ends_the_run_too(tmp_path: Path) -> None:
    async with scripted_upstream(lambda body, n: Say(GOOD, delay_s=60)) as server:
        with pytest.raises(ConfigError, match="failed too often"):
            await write_all(tmp_path, [server.url], queries(4), timeout_s=0.1, max_failures=3)


@pytest.mark.parametrize("status", [401, 404])
async def test_a_wrong_key_or_name_ends_the_run_at_once(tmp_path: Path, status: int) -> None:
    async with scripted_upstream(lambda body, n: Say(status=status)) as server:
        with pytest.raises(ConfigError, match=f"answered {status}"):
            await write_all(tmp_path, [server.url], queries(4), concurrency=1)
    assert len(server.bodies) == 1


async def test_retry_after_is_kept_to(tmp_path: Path) -> None:
    times: list[float] = []

    def script(body: object, n: int) -> Say:
        times.append(asyncio.get_running_loop().time())
        return Say(status=429, headers={"Retry-After": "2"}) if n == 0 else Say(GOOD)

    async with scripted_upstream(script) as server:
        assert await write_all(tmp_path, [server.url], queries(1), strategies=["similar"]) == 1
    assert times[1] - times[0] >= 2


async def test_the_same_query_twice_is_asked_once(tmp_path: Path) -> None:
    some = queries(1) * 5
    async with crooked_writer(7, honest_share=1.0, delay_s=0.05) as server:
        assert await write_all(tmp_path, [server.url], some, strategies=["similar"]) == 1


async def test_two_writers_on_one_ledger_do_not_harm_it(tmp_path: Path) -> None:
    """In one process, as the locks are those of the file; docs/results/persona-writer.md has two processes."""
    some = queries(20)
    async with crooked_writer(8, answers(some)) as server:
        await asyncio.gather(*(write_all(tmp_path, [server.url], some) for _ in range(2)))
    with open_ledger(tmp_path) as ledger:
        assert len(list(ledger.accepted())) + len(list(ledger.unwritten())) == 60
    assert select(tmp_path, "PRAGMA integrity_check") == [("ok",)]


async def test_random_does_not_show_the_query_and_the_others_do(tmp_path: Path) -> None:
    some = queries(1)
    async with crooked_writer(9, honest_share=1.0) as server:
        await write_all(tmp_path, [server.url], some, concurrency=1)
    shown = [some[0].text in body["messages"][1]["content"] for body in server.bodies]
    assert shown == [True, True, False]
