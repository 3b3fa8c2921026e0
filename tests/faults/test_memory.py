"""Upstreams that never stop talking: what is handed on is not kept, and what is kept is little."""

import pytest

from benchmarks.reliability import endless


@pytest.mark.parametrize("way", endless.WAYS)
async def test_replies_without_an_end_leave_memory_nearly_as_it_is(tmp_path, monkeypatch, way):
    monkeypatch.setattr(endless, "DEADLINE_S", 1.0)
    assert await endless.most_held(tmp_path, way, "endless-stream") < endless.MAX_MIB
