"""Which LiteLLM this plug-in was tested with."""

from importlib.metadata import version

from its_proxy.codesign.errors import ConfigError

TESTED = ((1, 106, 2), (1, 107))
"""From the first, below the second. 1.82.7 and 1.82.8, malicious releases, lie far outside (PYSEC-2026-2)."""


def require_tested(found: str | None = None) -> None:
    """Raises ConfigError for a LiteLLM outside of the range: its hooks change between releases."""
    found = version("litellm") if found is None else found
    numbers = tuple(int(part) if part.isdigit() else 0 for part in found.split(".")[:3])
    first, end = TESTED
    if not first <= numbers < end:
        low, high = (".".join(map(str, one)) for one in TESTED)
        raise ConfigError(
            f"litellm {found} is outside of the range that its_litellm was tested with",
            hint=f"pip install 'litellm>={low},<{high}'",
        )
