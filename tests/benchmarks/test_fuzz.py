"""Fuzzing of the routes: what is fuzzed is the published description, and whatever goes wrong is seen."""

import asyncio
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from benchmarks.reliability.fuzz import guided, http, properties
from benchmarks.reliability.fuzz.__main__ import requests
from its_proxy.server.openapi import description
from its_proxy.server.passed import FORM_ROUTES, JSON_ROUTES


def test_the_fuzzed_description_is_the_published_one_with_the_names_that_are_served():
    fuzzed, published = http.document("0" * 64), description()
    assert {path: list(item) for path, item in fuzzed["paths"].items()} == {
        path: list(item) for path, item in published["paths"].items()
    }
    assert fuzzed["components"]["schemas"]["ModelName"]["enum"] == list(http.NAMES)
    for name, schema in published["components"]["schemas"].items():
        assert set(schema.get("properties", ())) <= set(fuzzed["components"]["schemas"][name].get("properties", ()))


def test_every_route_that_takes_anything_is_counted_as_fuzzed():
    assert len(("chat", "responses", "completions", *JSON_ROUTES, *FORM_ROUTES, "a model", "a file")) == http.N_FUZZED


async def test_the_fuzzed_server_answers_every_kind_of_route(tmp_path):
    """Well, as far as it is asked well: what fuzzing then finds is no failure of the upstream's."""
    async with http.served(tmp_path, "secret") as proxy, aiohttp.ClientSession() as http_client:
        root, headers = proxy.url.removesuffix("/v1"), {"Authorization": "Bearer secret"}
        for name in ("plain", "passed"):
            for path in ("/v1/completions", *JSON_ROUTES):
                body = {"model": name, "prompt": "2 + 5 =", "stream": False}
                async with http_client.post(root + path, json=body, headers=headers) as reply:
                    assert (path, reply.status) == (path, 200)
            for path in FORM_ROUTES:
                form = aiohttp.FormData({"model": name}, default_to_multipart=True)
                form.add_field("file", b"\xff\x00", filename="voice.wav")
                async with http_client.post(root + path, data=form, headers=headers) as reply:
                    assert (path, reply.status) == (path, 200)


async def test_the_fuzzed_server_votes_and_its_stop_watch_runs(tmp_path):
    async with http.served(tmp_path, "secret") as proxy, aiohttp.ClientSession() as http_client:
        asked = {"messages": [{"role": "user", "content": "What is 2 + 5?"}]}
        for name, status in {"voted": 200, "everyone": 200, "voted:its-3": 200, "passed": 200, "nobody": 404}.items():
            body, key = {"model": name, **asked}, {"Authorization": "Bearer secret"}
            async with http_client.post(f"{proxy.url}/chat/completions", json=body, headers=key) as reply:
                assert reply.status == status
        async with http_client.post(f"{proxy.url}/chat/completions", json=asked) as reply:
            assert reply.status == 401
        while not (stalls := tmp_path / "stalls.json").exists():
            await asyncio.sleep(0.05)
    assert json.loads(stalls.read_text())["n_ticks"] > 0


def test_a_5xx_is_counted_as_one():
    counted = Counter({"POST /v1/models/{name} 405": 2, "POST /v1/responses 502": 1, "GET /livez no reply": 3})
    run = {"counts": counted, "slow": [], "findings": [], "stalls": {"worst_busy_ms": 1.0, "worst_clock_ms": 2.0}}
    figures = http._figures([run])
    assert (figures["requests"], figures["5xx"], figures["without a reply"]) == (6, 1, 3)
    assert figures["statuses"] == {"405": 2, "502": 1, "no reply": 3}


@pytest.mark.skipif("ITS_FUZZ" not in os.environ, reason="ITS_FUZZ names no environment with schemathesis")
def test_some_requests_of_schemathesis_find_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(http, "EXAMPLES", 10)
    figures, is_good = requests(tmp_path, False)
    assert figures["requests"] >= 1_000
    assert (figures["findings"], is_good) == ([], True)


def test_the_examples_of_hypothesis_are_counted_by_area():
    said = """
tests/properties/test_sse.py::test_one:
    - 120 passing, 0 failing, and 14 invalid test cases
tests/properties/test_votes.py::test_two:
  - during reuse phase (0.00 seconds):
    - 1 passing, 0 failing, and 0 invalid test cases
  - during generate phase (0.79 seconds):
    - 9 passing, 0 failing, and 0 invalid test cases
"""
    assert properties.counted(said) == {"sse": 120, "votes": 10}


@pytest.mark.skipif("ITS_FUZZ" not in os.environ, reason="ITS_FUZZ names no environment with atheris")
def test_some_seconds_of_atheris_find_nothing(tmp_path: Path):
    figures = guided.fuzz(Path(os.environ["ITS_FUZZ"]), tmp_path, 1.0)
    assert figures["findings"] == []
    assert all(figures[f"{name}: inputs"] > 10 for name in ("sse", "request", "answer"))


@pytest.mark.skipif("ITS_FUZZ" not in os.environ, reason="ITS_FUZZ names no environment with openapi-spec-validator")
def test_the_published_description_is_valid_openapi():
    published = Path(__file__).parents[2] / "docs/openapi.json"
    validator = Path(os.environ["ITS_FUZZ"], "bin/openapi-spec-validator")
    done = subprocess.run([validator, published], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
