"""The server; only `its_proxy.cli` imports it."""

import sys

# structlog would import rich for pictures of tracebacks, which our log never shows: 5 MiB and 50 ms of every server.
# A module that is None here cannot be imported, and structlog does without.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
