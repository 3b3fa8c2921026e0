"""Keys: who is let in, and that it costs the same whoever asks and however many there are."""

from contextlib import suppress
from hashlib import sha256

import pytest

from its_proxy.codesign.errors import Unauthenticated
from its_proxy.server.auth import Doorkeeper
from its_proxy.settings import KeySettings
from tests.counted import counting


def doorkeeper(n_keys):
    keys = [KeySettings(name=f"team {n}", sha256=sha256(f"key-{n}".encode()).hexdigest()) for n in range(n_keys)]
    return Doorkeeper(keys, {}, allow_force=False)


def steps_of(door, authorization):
    with counting() as steps, suppress(Unauthenticated):
        door.admit(authorization)
    return steps.total()


def test_every_one_of_many_keys_is_its_own_caller():
    door = doorkeeper(1000)
    assert [door.admit(f"Bearer key-{n}").name for n in range(1000)] == [f"team {n}" for n in range(1000)]
    assert len({door.admit(f"Bearer key-{n}").salt() for n in range(1000)}) == 1000


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer key-", "Bearer key-00", "key-0", "Basic key-0", "Bearer \udc80"],
)
def test_whoever_is_none_of_them_is_turned_away(authorization):
    with pytest.raises(Unauthenticated):
        doorkeeper(16).admit(authorization)


def test_the_digest_of_a_key_is_no_key():
    with pytest.raises(Unauthenticated):
        doorkeeper(1).admit(f"Bearer {sha256(b'key-0').hexdigest()}")


@pytest.mark.parametrize("authorization", ["Bearer key-0", "Bearer nobody's"])
def test_a_key_is_found_in_as_many_steps_among_ten_thousand_as_alone(authorization):
    assert steps_of(doorkeeper(10_000), authorization) == steps_of(doorkeeper(1), authorization)


def test_a_near_miss_takes_the_steps_of_any_other_wrong_key():
    door = doorkeeper(100)
    assert steps_of(door, "Bearer key-9.") == steps_of(door, "Bearer nobody") == steps_of(door, "Bearer key-00")
