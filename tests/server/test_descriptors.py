import resource

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.server.descriptors import MOST_CONNECTIONS, OWN_FILES, connections_for, raise_limit


@pytest.mark.parametrize(
    ("limit", "n_upstream", "n"),
    [
        (65_536, 1024, MOST_CONNECTIONS),
        (10_000, 1024, 10_000 - OWN_FILES - 1024),
        (4096, 100_000, (4096 - OWN_FILES) // 2),
        (1024, 1024, (1024 - OWN_FILES) // 2),
        (256, 1024, 96),
    ],
)
def test_clients_get_what_upstreams_leave_and_at_least_half(limit, n_upstream, n):
    assert connections_for(limit, n_upstream, None) == n


def test_the_operator_has_the_last_word():
    assert connections_for(65_536, 1024, 40_000) == 40_000


def test_more_than_could_ever_be_open_is_refused():
    with pytest.raises(
        ConfigError, match=r"max_connections: 1000 needs 1064 open files, and this process may have 256"
    ):
        connections_for(256, 0, 1000)


def test_too_few_files_for_anything_are_refused():
    with pytest.raises(ConfigError, match="may open only 80 files"):
        connections_for(80, 1024, None)


def test_the_limit_is_raised_as_far_as_it_may_go():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
