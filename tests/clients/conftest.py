"""Real clients of OpenAI's API, each in an environment of its own, before a real its-proxy and a scripted engine.

`make test-clients` runs these tests; `make test` does not collect them. A module says which CLIENT it tries, of which
DISTRIBUTION in which ENVIRONMENT, and why a cell does not apply (NOT_APPLICABLE).
"""

import os
import platform
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients import world as worlds
from tests.clients.environments import Environment, environment
from tests.clients.record import Record, write
from tests.clients.world import World

# Nothing here can run without them.
collect_ignore_glob = [] if "ITS_CLIENTS" in os.environ else ["test_*.py"]
RECORD = pytest.StashKey[Record]()


def pytest_configure(config):
    config.addinivalue_line("markers", "cell(name): the cell of the table in docs/clients.md that a test fills")
    config.stash[RECORD] = Record()


def pytest_collection_modifyitems(items):
    """A client's first answer waits for its imports, which are large."""
    for item in items:
        item.add_marker(pytest.mark.timeout(300))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    record, client = item.config.stash[RECORD], getattr(getattr(item, "module", None), "CLIENT", None)
    if client is not None and (report.when == "call" or not report.passed):
        record.not_applicable[client] = item.module.NOT_APPLICABLE
        for marker in item.iter_markers("cell"):
            record.tell(client, marker.args[0], _verdict(report))
    return report


def _verdict(report: pytest.TestReport) -> str:
    if report.skipped:
        return f"skipped: {report.longrepr[2].removeprefix('Skipped: ')}"
    return "green" if report.passed else "failed"


def pytest_sessionfinish(session):
    """Into the file that ITS_CLIENTS_OUT names, where it names one."""
    if out := os.environ.get("ITS_CLIENTS_OUT"):
        document = session.config.stash[RECORD].document(
            date=datetime.now(UTC).date().isoformat(), python=platform.python_version()
        )
        write(Path(out), os.environ.get("ITS_CLIENTS_ARE", "pinned"), document)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def whole_world(tmp_path_factory) -> AsyncIterator[World]:
    async with worlds.world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(whole_world) -> World:
    """Nothing asked of its engine yet."""
    whole_world.engine.forget()
    return whole_world


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def installed(request) -> Environment:
    """Where the module's client is; its version goes into the record."""
    found = environment(request.module.ENVIRONMENT)
    version = await found.version(request.module.DISTRIBUTION)
    request.config.stash[RECORD].versions[request.module.CLIENT] = version
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def whole_program(request, whole_world, installed) -> AsyncIterator:
    async with request.module.program(whole_world, installed) as program:
        yield program


@pytest.fixture
def program(whole_program, world):
    """The module's client, running, nothing asked of the engine yet."""
    return whole_program
