"""The cheap core of `make torture-vllm` on one server of its own: what must be caught while it runs, and what not.

Adapters and weights are exchanged in it while it serves, and gateways stand before it.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from benchmarks.torture_vllm.case import Case, World
from benchmarks.torture_vllm.power import SMALLEST
from benchmarks.torture_vllm.starts import lora_server
from benchmarks.torture_vllm.workshop import Workshop
from tests.real_vllm.server import start_vllm

# peft asks transformers about gradient checkpointing by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

START = lora_server()
# One below the smallest that must be caught, that one, and two above.
PERTURBED = tuple(f"perturbed by {n}%, seed 0" for n in ("0.1", "1", "3", "30"))
CASES = [case for case in START.cases if case.kind in ("mismatch", "honest") or case.name in PERTURBED]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory) -> AsyncIterator[World]:
    shop = Workshop(tmp_path_factory.mktemp("torture"), bases=None)
    checkpoint, flags = START.checkpoint(shop), ("--served-model-name", *START.names, *START.flags(shop))
    async with start_vllm(
        checkpoint, START.names[0], *flags, log=shop.folder / "vllm.log", env=START.env, say=lambda line: None
    ) as vllm:
        yield World(shop, vllm)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_is_served_is_judged_as_it_must_be(world: World, case: Case):
    """In order: an adapter that one case loads is there for the next."""
    found = await case.ask(world)
    assert found.state in case.right, found.said


def test_perturbed_weights_stand_on_both_sides_of_the_smallest_that_must_be_caught():
    scales = {case.name: "verified" in case.right for case in CASES if case.name in PERTURBED}
    assert scales == dict.fromkeys(PERTURBED[1:], False) | {PERTURBED[0]: True}
    assert SMALLEST == 0.01
