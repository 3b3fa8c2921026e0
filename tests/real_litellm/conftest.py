"""Real LiteLLM proxies, configured as the pages in docs/ have it, before scripted engines.

`make test-litellm` runs these tests in LiteLLM's own environment; `make test` does not collect them.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.real_litellm.clients import Client, NpmClient, PythonClient, npm_client
from tests.real_litellm.worlds import World, in_front, inside

# Before anything imports LiteLLM, which would ask the network for a list of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@pytest.fixture(scope="session")
def npm() -> NpmClient:
    return npm_client()


@pytest.fixture(scope="session", params=["python", "npm"])
def client(request) -> Client:
    return PythonClient() if request.param == "python" else request.getfixturevalue("npm")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def whole_front(tmp_path_factory) -> AsyncIterator[World]:
    async with in_front(tmp_path_factory.mktemp("front")) as world:
        yield world


@pytest.fixture
def front(whole_front) -> World:
    """LiteLLM in front of its-proxy, nothing asked of its engine yet."""
    whole_front.forget()
    return whole_front


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def whole_plugin(tmp_path_factory) -> AsyncIterator[World]:
    async with inside(tmp_path_factory.mktemp("plugin")) as world:
        yield world


@pytest.fixture
def plugin(whole_plugin) -> World:
    """its-proxy inside LiteLLM, nothing asked of its engines yet."""
    whole_plugin.forget()
    return whole_plugin


@pytest.fixture(params=["front", "plugin"])
def world(request) -> World:
    return request.getfixturevalue(request.param)
