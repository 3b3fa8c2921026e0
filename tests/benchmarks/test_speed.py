"""The speed benchmark measures what it says: whole replies, votes that ask eight times, tokens of closed calls, too."""

import shutil

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed.bench import Bench, benched
from benchmarks.speed.chat import chat
from benchmarks.speed.hang_ups import Leaving, hang_up
from benchmarks.speed.rates import Pace, Seen, measure
from benchmarks.speed.scenarios import scenarios
from benchmarks.speed.targets import DIRECT, ITS_PROXY, Target, Unavailable
from benchmarks.speed.votes import look

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("taskset") is None, reason="there is no C compiler (cc), or no taskset"
)
TINY = Pace(rounds=1, seconds=0.2, slow_s=0.2)


async def seen_by_its_proxy(bench: Bench, name: str) -> Seen:
    [scenario] = [scenario for scenario in scenarios(is_quick=True) if scenario.name == name]
    [seen] = (await measure(bench, scenario, TINY))["its-proxy"]
    return seen


async def test_its_proxy_is_measured_beside_direct():
    """One start for all of it: starting is what takes the time."""
    async with benched([DIRECT, ITS_PROXY]) as bench:
        looked = await look(bench)
        assert {kind: (seen.calls, seen.wrong) for kind, seen in looked["its-proxy"].items()} == {
            "passed": (1, ""), "rewritten": (1, ""), "vote": (8, ""), "stream": (1, ""),
        }  # fmt: skip
        for name in ("passed-64", "json-16", "sse-64", "vote-16", "vote-stream-16", "large-4"):
            seen = await seen_by_its_proxy(bench, name)
            assert (seen.failed, seen.answered > 0, seen.cpu_ms > 0) == (0, True, True), name
        left = await hang_up(bench, only=("its-proxy",), leaving=Leaving(answer_s=20, calm_s=0.5))
        assert {way: (of["its-proxy"].aborted, of["its-proxy"].begun_later) for way, of in left.items()} == {
            "JSON": (20, 0), "stream": (20, 0), "vote of 8": (160, 0),
        }  # fmt: skip
        its_proxy = bench.named("its-proxy")
        assert its_proxy is not None
        chatted = await chat(bench, its_proxy, share=0.05)
        assert chatted["plain"].counters.requests == chatted["plain"].counters.finished == 10
        assert chatted["voted"].counters.tokens >= 10 * 60


async def test_a_vote_that_asks_once_is_not_timed():
    passed_off = Target("direct", DIRECT.start, {**DIRECT.asks, "vote": {}})
    async with benched([passed_off]) as bench:
        looked = await look(bench)
    assert looked["direct"]["vote"].wrong == "answers 3, not 7"
    assert looked["direct"]["passed"].wrong == ""


async def test_what_cannot_be_had_is_missing_and_the_rest_is_measured():
    def prepare() -> None:
        raise Unavailable("not on this machine")

    async with benched([Target("else", DIRECT.start, DIRECT.asks, prepare=prepare), DIRECT]) as bench:
        assert bench.missing == {"else": "not on this machine"}
        assert [running.target.name for running in bench.running] == ["direct"]


async def test_streams_that_last_are_whole_and_their_gaps_are_told():
    [scenario] = [scenario for scenario in scenarios(is_quick=True) if scenario.name == "paced-50ms"]
    async with benched([DIRECT]) as bench:
        [seen] = (await measure(bench, scenario, TINY))["direct"]
    assert (seen.answered, seen.failed) == (scenario.connections, 0)
    assert seen.gap_max >= seen.gap_p99 > 0


def test_every_target_says_what_it_is_asked():
    [vote] = [scenario for scenario in scenarios(is_quick=False) if scenario.name == "vote-16"]
    assert b'"its":{"n":8' in ITS_PROXY.request(1, vote.kind, vote.fields)
    assert b'"model":"passed"' in ITS_PROXY.request(1, "passed", vote.fields)
    assert b'"its"' not in DIRECT.request(1, "rewritten", vote.fields)
    assert not vote.is_for(DIRECT)
    assert set(speed.TARGETS) == {"direct", "nginx", "its-proxy", "plain", "its_hub", "litellm", "optillm"}
