"""Which LiteLLM this plug-in was tested with."""

from importlib.metadata import PackageNotFoundError, version

from its_proxy.codesign.errors import ConfigError

TESTED = ((1, 106, 2), (1, 107))
"""From the first, below the second. 1.82.7 and 1.82.8, malicious releases, lie far outside (PYSEC-2026-2)."""


def require_tested(found: str | None = None) -> None:
    """Raises ConfigError for a LiteLLM outside of the range: its hooks change between releases."""
    low, high = (".".join(map(str, one)) for one in TESTED)
    hint = f"pip install 'litellm>={low},<{high}'"
    try:
        found = version("litellm") if found is None else found
    except PackageNotFoundError:
        raise ConfigError("litellm is not installed", hint=hint) from None
    numbers = tuple(int(part) if part.isdigit() else 0 for part in found.split(".")[:3])
    if not TESTED[0] <= numbers < TESTED[1]:
        raise ConfigError(f"litellm {found} is outside of the range that its_litellm was tested with", hint=hint)
