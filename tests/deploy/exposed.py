"""What a running its-proxy tells Prometheus, for the tests of what is built upon it."""

import asyncio
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.command import serve_command
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
ADDED = frozenset({"job", "instance"})
"""Labels that Prometheus gives to every series it scrapes."""


def expose(folder: Path) -> dict[str, set[str]]:
    """Names of series -> the labels that theirs have, of a process as an operator runs it, after a vote.

    What has not happened yet has a name and no labels.
    """
    return asyncio.run(_expose(folder))


async def _expose(folder: Path) -> dict[str, set[str]]:
    row = {"benchmark": "sums", "split": "test", "items": 9, "metric": "agreement", "value": 0.75}
    checkpoint = write_checkpoint(folder / "checkpoint", manifest("random", evaluation=[row]))
    # One that is cut off, so that the vote goes on in time and tells of it.
    async with scripted_upstream(lambda body, number: Say("\\boxed{7}" if number % 3 else None)) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        arguments = ("--upstream", upstream.url, "--model", "model", "--checkpoint", checkpoint)
        otel = {"ITS_PROXY_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        async with serve_command(*arguments, **otel) as server, aiohttp.ClientSession() as http:
            await until_ready(http, server.url.removesuffix("/v1"))
            body = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}
            async with http.post(f"{server.url}/chat/completions", json=body) as reply:
                assert reply.status == 200, await reply.text()
            async with http.get(f"{server.url.removesuffix('/v1')}/metrics") as reply:
                return series(await reply.text())


async def until_ready(http: aiohttp.ClientSession, base: str, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            async with http.get(f"{base}/readyz") as reply:
                if reply.status == 200:
                    return
            await asyncio.sleep(0.05)


def series(exposition: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for suffix in SUFFIXES[family.type]:
            found.setdefault(family.name + suffix, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in found.items() if not name.endswith("_created")}
