"""Which versions made a checkpoint or a measurement."""

from importlib.metadata import PackageNotFoundError, version

from its_proxy import __version__

LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers", "accelerate", "datasets")


def versions() -> dict[str, str]:
    """its-proxy's version, and those of the training libraries that are installed."""
    found = {"its-proxy": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
