"""One real vLLM server for all tests of this folder, and its-proxy in front of it.

`make test-vllm` runs them; `make test` does not collect them. A start takes a minute of two cores and 2.4 GB.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

import its_proxy
from tests.real_vllm.server import VllmServer, start_vllm
from tests.serving import Server, serving

DEMO = Path(its_proxy.__file__).parent / "demo"
QUERIES = [json.loads(line)["query"] for line in (DEMO / "problems.jsonl").read_text().splitlines()[:10]]
TIMEOUT_S = 700  # the first test waits for the server, which on a busy machine takes minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the server said last."""
    report = yield
    server = getattr(item, "funcargs", {}).get("vllm")
    if report.failed and isinstance(server, VllmServer):
        report.sections.append((f"the end of {server.log}", server.tail()))
    return report


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return DEMO / "demo-random"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(checkpoint, request, tmp_path_factory) -> AsyncIterator[VllmServer]:
    """demo-random under the name of its pair; every request that reaches it stands in its log."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", end="", flush=True)

    log = tmp_path_factory.mktemp("vllm") / "demo-random.log"
    async with start_vllm(checkpoint, pair_name(checkpoint), "--enable-log-requests", log=log, say=say) as server:
        yield server


@pytest_asyncio.fixture
async def proxy(vllm, checkpoint) -> AsyncIterator[Server]:
    """its-proxy before that server: `model` votes, `plain` has no manifest, the server knows no `stranger`."""
    models = {
        "model": {"upstream": "gpu", "served_name": vllm.name, "checkpoint": checkpoint},
        "plain": {"upstream": "gpu", "served_name": vllm.name},
        "stranger": {"upstream": "gpu", "served_name": "stranger"},
    }
    async with serving({"upstreams": {"gpu": {"url": vllm.url}}, "models": models}) as server:
        yield server


def pair_name(checkpoint: Path) -> str:
    """NAME@<first 8 of pair id>, as a server of this checkpoint is to be called."""
    pointer = json.loads((checkpoint / "config.json").read_text())["its"]
    return f"{checkpoint.name}@{pointer['pair_id'][:8]}"
