"""The speed benchmark measures what it says: whole replies, and votes that ask eight times."""

import shutil

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed.scenarios import SCENARIOS

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")


def named(*names: str):
    return [scenario for scenario in SCENARIOS if scenario.name in names]


@pytest.mark.parametrize("name", ["passed-16", "json-16", "vote-16", "vote-stream-16"])
async def test_replies_are_whole_and_none_fails(name):
    seen = await speed.measure(named(name), ["direct", "its-proxy"], rounds=1, seconds=0.2)
    [loaded] = seen[name, "its-proxy"]
    assert speed.figures_of([loaded])["failed"] == 0
    assert loaded.told["ok"] + loaded.told["late"] >= 16


def test_only_its_proxy_is_asked_for_what_only_it_can_do():
    [vote] = named("vote-16")
    assert b'"its":{"n":8' in vote.request("its-proxy", 1)
    [passed] = named("passed-16")
    assert b'"its"' not in passed.request("its-proxy", 1)
    assert b'"model":"model"' in passed.request("nginx", 1)
