"""LiteLLM's SDK, as `hosted_vllm/NAME`; `make test-litellm` tests its proxy, and our plug-in for it."""

import pytest

from tests.clients.cells import VOTED, voted
from tests.clients.program import FOLDER, running
from tests.clients.usual import *  # noqa: F403
from tests.clients.world import N

CLIENT, DISTRIBUTION, ENVIRONMENT = "LiteLLM SDK", "litellm", "litellm"
NOT_APPLICABLE: dict[str, str] = {}
pytestmark = pytest.mark.asyncio(loop_scope="session")


def program(world, installed):
    return running(world, installed.python, FOLDER / "with_litellm.py")


@pytest.mark.cell(VOTED)
async def test_voted(program):
    assert (await voted(program))["total_tokens"] == N * 17
