"""Asking a server: what is sent, what is kept, and that an interrupted run goes on where it ended."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from its_proxy.codesign.errors import BadPayload, ConfigError, UpstreamBusy, UpstreamRejected, UpstreamUnreachable
from its_proxy.evaluate import Item, collect, read_candidates, score

ITEMS = [Item(id=str(number), query=f"{number}+1?", gold=str(number + 1)) for number in range(6)]


class Voter:
    """A little its-proxy: it adds one, and its odd candidates are wrong. `faults` are sent first."""

    def __init__(self, *faults: web.Response) -> None:
        self.faults = list(faults)
        self.bodies: list[dict] = []
        self.headers: list = []
        self.pair_id: str | None = None
        self.n_open = self.most_open = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.faults:
            return self.faults.pop(0)
        self.n_open += 1
        self.most_open = max(self.most_open, self.n_open)
        try:
            await asyncio.sleep(0)
            await self.may_answer.wait()
        finally:
            self.n_open -= 1
        return web.json_response(self.reply(body))

    def reply(self, body: dict) -> dict:
        number = int(body["messages"][0]["content"].split("+")[0])
        its = body["its"]
        candidates = [
            {"index": index, "seed": body["seed"] + index, "member": "tiny", "state": "ok", "text": "...",
             "answer": str(number + 1 + index % 2), "finish_reason": "stop", "completion_tokens": 7}
            for index in range(its["n"])
        ]  # fmt: skip
        sampling = {"temperature": 0.0 if "temperature" in body else 0.8}
        strategy = its.get("strategy", "random")
        return {
            "its": {
                "strategy": strategy,
                "pair_id": self.pair_id,
                "forced": its.get("force", False),
                "sampling": sampling,
                "candidates": candidates,
            }
        }

    @asynccontextmanager
    async def serving(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        async with TestServer(app) as server:
            yield str(server.make_url("/v1"))


async def test_a_row_holds_all_candidates_and_the_greedy_reply(tmp_path):
    voter, out = Voter(), tmp_path / "candidates.jsonl"
    async with voter.serving() as url:
        assert await collect(url, "tiny", ITEMS, out, n=3) == 6
    rows = read_candidates(out)
    assert sorted(row.id for row in rows) == [item.id for item in ITEMS]
    assert all(len(row.candidates) == 3 and row.greedy is not None for row in rows)
    result = score(rows)
    assert (result.strategy, result.is_forced, result.temperature, result.k) == ("random", False, 0.8, 3)
    assert (result.pass_at_1.value, result.majority.value, result.greedy.value) == (pytest.approx(2 / 3), 1, 1)
    assert rows[0].candidates[1].completion_tokens == 7


async def test_the_vote_waits_for_all_and_greedy_insists_on_its_temperature(tmp_path):
    voter = Voter()
    async with voter.serving() as url:
        await collect(url, "tiny", ITEMS[:1], tmp_path / "out", n=4, strategy="none", force=True, key="secret")
    voted, greedy = voter.bodies
    way = {"strategy": "none", "force": True}
    assert voted["its"] == {"candidates": True, "vote": "always", "stop": "none", "n": 4, **way}
    assert "temperature" not in voted
    assert greedy["its"] == {"candidates": True, "vote": "off", "n": 1, "sampling": "client", **way}
    assert greedy["temperature"] == 0
    assert voted["messages"] == [{"role": "user", "content": "0+1?"}]
    assert voter.headers[0]["authorization"] == "Bearer secret"


async def test_how_answers_are_read_is_asked_of_the_vote_and_of_the_greedy_reply(tmp_path):
    voter = Voter()
    async with voter.serving() as url:
        await collect(url, "tiny", ITEMS[:1], tmp_path / "out", answer="letter")
    assert [body["its"]["answer"] for body in voter.bodies] == ["letter", "letter"]


async def test_an_item_without_a_gold_answer_is_asked_like_any_other(tmp_path):
    voter, out = Voter(), tmp_path / "out"
    async with voter.serving() as url:
        await collect(url, "tiny", [Item(id="0", query="0+1?")], out)
    assert [row.gold for row in read_candidates(out)] == [None]


async def test_seeds_depend_on_the_item_alone(tmp_path):
    voter = Voter()
    async with voter.serving() as url:
        await collect(url, "tiny", ITEMS, tmp_path / "all", greedy=False)
        await collect(url, "tiny", ITEMS[3:], tmp_path / "some", greedy=False)
        await collect(url, "tiny", ITEMS[3:4], tmp_path / "other", greedy=False, seed=1)
    seeds = {row.id: row.candidates[0].seed for row in read_candidates(tmp_path / "all")}
    assert len(set(seeds.values())) == 6
    assert all(seeds[row.id] == row.candidates[0].seed for row in read_candidates(tmp_path / "some"))
    assert read_candidates(tmp_path / "other")[0].candidates[0].seed != seeds["3"]


async def test_concurrency_is_bounded(tmp_path):
    voter = Voter()
    async with voter.serving() as url:
        await collect(url, "tiny", ITEMS, tmp_path / "out", concurrency=2)
    assert voter.most_open == 2


class TestGoingOn:
    async def test_an_interrupted_run_keeps_what_had_finished(self, tmp_path):
        voter, out = Voter(), tmp_path / "candidates.jsonl"
        async with voter.serving() as url:
            await collect(url, "tiny", ITEMS[:2], out)
            voter.may_answer.clear()
            interrupted = asyncio.create_task(collect(url, "tiny", ITEMS, out))
            while not voter.n_open:
                await asyncio.sleep(0.001)
            interrupted.cancel()
            with pytest.raises(asyncio.CancelledError):
                await interrupted
            voter.may_answer.set()
            assert [row.id for row in read_candidates(out)] == ["0", "1"]
            assert await collect(url, "tiny", ITEMS, out) == 4
        assert len(read_candidates(out)) == 6

    @pytest.mark.parametrize("n_cut", [1, 30])
    async def test_a_torn_last_line_is_dropped_and_asked_again(self, tmp_path, n_cut):
        voter, out = Voter(), tmp_path / "candidates.jsonl"
        async with voter.serving() as url:
            await collect(url, "tiny", ITEMS[:3], out)
            out.write_bytes(out.read_bytes()[:-n_cut])
            # Without its newline only, the last row is whole.
            assert await collect(url, "tiny", ITEMS[:3], out) == (0 if n_cut == 1 else 1)
        assert [row.id for row in read_candidates(out)] == ["0", "1", "2"]
        assert out.read_bytes().count(b"\n") == 3

    @pytest.mark.parametrize(
        "other",
        [{"n": 4}, {"strategy": "none"}, {"answer": "number"}, {"greedy": False}, {"seed": 1}, {"model": "big"}],
    )
    async def test_rows_asked_in_another_way_are_not_mixed(self, tmp_path, other):
        voter, out = Voter(), tmp_path / "candidates.jsonl"
        async with voter.serving() as url:
            await collect(url, "tiny", ITEMS[:1], out)
            with pytest.raises(ConfigError, match="asked in another way"):
                await collect(**{"base_url": url, "model": "tiny", "items": ITEMS, "out": out, **other})

    @pytest.mark.parametrize("changed", [{"query": "0+1 again?"}, {"gold": "9"}, {"gold": None}])
    async def test_an_item_that_reads_differently_now_is_not_taken_for_the_same(self, tmp_path, changed):
        voter, out = Voter(), tmp_path / "candidates.jsonl"
        async with voter.serving() as url:
            await collect(url, "tiny", ITEMS[:1], out)
            with pytest.raises(ConfigError, match="item 0 has another query or gold answer there"):
                await collect(url, "tiny", [ITEMS[0].model_copy(update=changed)], out)

    async def test_rows_of_another_checkpoint_behind_the_same_name_are_not_mixed(self, tmp_path):
        voter, out = Voter(), tmp_path / "candidates.jsonl"
        async with voter.serving() as url:
            voter.pair_id = "a" * 64
            await collect(url, "tiny", ITEMS[:1], out)
            voter.pair_id = "b" * 64
            with pytest.raises(ConfigError, match="holds rows of pair aaaaaaaa, tiny is now bbbbbbbb"):
                await collect(url, "tiny", ITEMS, out)
        assert [row.pair_id for row in read_candidates(out)] == ["a" * 64]


class TestFailures:
    async def test_a_busy_server_is_asked_again(self, tmp_path):
        busy = [web.Response(status=status, headers={"Retry-After": "0"}) for status in (429, 503)]
        voter = Voter(*busy)
        async with voter.serving() as url:
            await collect(url, "tiny", ITEMS[:1], tmp_path / "out", greedy=False)
        assert len(voter.bodies) == 3

    async def test_a_server_that_stays_busy_is_given_up(self, tmp_path):
        voter = Voter(*(web.Response(status=503, headers={"Retry-After": "0"}) for _ in range(5)))
        async with voter.serving() as url:
            with pytest.raises(UpstreamBusy, match="503"):
                await collect(url, "tiny", ITEMS[:1], tmp_path / "out")
        assert len(voter.bodies) == 5

    async def test_a_refusal_ends_the_run_with_the_servers_reason_and_keeps_the_rows(self, tmp_path):
        voter, out = Voter(), tmp_path / "candidates.jsonl"
        async with voter.serving() as url:
            await collect(url, "tiny", ITEMS[:1], out)
            voter.faults.append(web.json_response({"error": {"message": "n is 99"}}, status=400))
            with pytest.raises(UpstreamRejected, match="400: n is 99"):
                await collect(url, "tiny", ITEMS, out)
        assert "0" in [row.id for row in read_candidates(out)]

    @pytest.mark.parametrize("reply", [{}, {"its": None}, {"its": {"candidates": None}}, {"its": {"candidates": [{}]}}])
    async def test_a_server_that_shows_no_candidates_is_no_server_for_this(self, tmp_path, reply):
        voter = Voter(web.json_response(reply))
        async with voter.serving() as url:
            with pytest.raises(BadPayload, match="item 0: "):
                await collect(url, "tiny", ITEMS[:1], tmp_path / "out", greedy=False)

    async def test_html_is_no_reply(self, tmp_path):
        voter = Voter(web.Response(text="<html>", content_type="text/html"))
        async with voter.serving() as url:
            with pytest.raises(BadPayload):
                await collect(url, "tiny", ITEMS[:1], tmp_path / "out")

    async def test_no_server_is_said_in_one_line(self, tmp_path, unused_tcp_port):
        with pytest.raises(
            UpstreamUnreachable, match=rf"no its-proxy answers at .*:{unused_tcp_port}/.*its-proxy serve"
        ):
            await collect(f"http://127.0.0.1:{unused_tcp_port}/v1", "tiny", ITEMS, tmp_path / "out")

    @pytest.mark.parametrize("without", ["/v1", "http://"])
    async def test_a_url_without_its_ends_is_told_of_them(self, tmp_path, without):
        async with Voter().serving() as url:
            with pytest.raises((UpstreamRejected, UpstreamUnreachable), match="URL is whole"):
                await collect(url.replace(without, ""), "tiny", ITEMS, tmp_path / "out")


def test_rows_are_plain_json_objects(tmp_path):
    async def run() -> None:
        async with Voter().serving() as url:
            await collect(url, "tiny", ITEMS[:1], tmp_path / "out", n=2)

    asyncio.run(run())
    row = json.loads((tmp_path / "out").read_text())
    assert {"id", "query", "gold", "model", "strategy", "forced", "temperature", "candidates", "greedy"} <= row.keys()
    assert {"index", "seed", "text", "finish_reason", "completion_tokens", "answer"} <= row["candidates"][0].keys()
