"""The embedded engine over two tiny random checkpoints, loaded."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.engine import Checkpoint, load_checkpoint


@pytest.fixture
async def upstream(tiny_checkpoint: Path, other_checkpoint: Path) -> AsyncIterator[EmbeddedUpstream]:
    embedded = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint, "other": other_checkpoint})
    await embedded.start()
    yield embedded
    await embedded.close()


@pytest.fixture(scope="session")
def shared(tiny_checkpoint: Path, other_checkpoint: Path) -> Iterator[EmbeddedUpstream]:
    """One engine for the tests that neither count nor disturb; it outlives their event loops."""
    embedded = EmbeddedUpstream("embedded", {"tiny": tiny_checkpoint, "other": other_checkpoint})
    asyncio.run(embedded.start())
    yield embedded
    asyncio.run(embedded.close())


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)
