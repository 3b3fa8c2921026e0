"""Byte identity at LiteLLM's two doors: the same test as at all the others."""

import pytest

from tests.doors import STRATEGIES, assert_asked_as_trained
from tests.real_litellm.doors import DOORS

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM, in this process, has warnings of its own


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_engine_is_asked_the_messages_of_the_training_row(tmp_path, strategy, door):
    await assert_asked_as_trained(door, strategy, tmp_path)
