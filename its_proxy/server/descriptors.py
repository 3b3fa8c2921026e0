"""How many clients may be connected: what the process may open, less what it needs for itself and for upstreams."""

import sys

from its_proxy.codesign.errors import ConfigError

OWN_FILES = 64
"""Logs, checkpoints, the event loop, connections that are just being refused."""
MOST_CONNECTIONS = 16_384
"""By default: beyond it memory, not descriptors, is what a client costs."""


def raise_limit() -> int:
    """Lifts this process's limit of open files as far as it may go; returns what it is now."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS tells a hard limit that it does not allow
        hard = soft
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def connections_for(limit: int, n_upstream: int, wanted: int | None) -> int:
    """The clients' share of `limit` descriptors; `n_upstream` is how many connections upstreams may take at most.

    Raises ConfigError where more are `wanted` than could ever be open.
    """
    usable = limit - OWN_FILES
    if wanted is not None:
        if wanted > usable:
            raise ConfigError(
                f"max_connections: {wanted} needs {wanted + OWN_FILES} open files, and this process may have {limit}",
                hint="raise the limit (ulimit -n) or lower max_connections",
            )
        return wanted
    if usable < 32:
        raise ConfigError(f"this process may open only {limit} files", hint="raise the limit (ulimit -n)")
    # Where the limit is low, half: a client's request needs a connection behind it, too.
    return min(MOST_CONNECTIONS, max(usable - n_upstream, usable // 2))
