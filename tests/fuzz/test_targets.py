"""Every fuzzed target on its seeds, and on bytes that hypothesis makes: the short form of `make fuzz`."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS, TooSlow, in_time


@pytest.mark.parametrize("name", TARGETS)
def test_its_seeds_and_their_prefixes_are_met_in_time(name):
    for seed in SEEDS[name]:
        for length in range(0, len(seed) + 1, 3):
            in_time(TARGETS[name], seed[:length])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400))
@example(data=b"")
def test_any_bytes_are_met_with_documented_errors_in_time(name, data):
    in_time(TARGETS[name], data)


def test_what_costs_too_much_is_told():
    def slow(data: bytes) -> None:
        sum(range(10_000_000))

    with pytest.raises(TooSlow):
        in_time(slow, b"x")
