"""Which `openai` a client can be wrapped of, told before anything else of it is imported."""

from importlib import import_module
from types import ModuleType

from its_proxy.codesign.errors import ConfigError

TESTED = ("2", "3")
"""Major versions."""


def require_tested(openai: ModuleType) -> None:
    """Raises ConfigError for what is no `openai` package, or one of another major version."""
    if not hasattr(openai, "AsyncOpenAI"):
        hides = getattr(openai, "__file__", None) or next(iter(openai.__path__))
        raise ConfigError(f"{hides} hides the installed package openai", hint="rename it")
    if str(openai.__version__).partition(".")[0] not in TESTED:
        raise ConfigError(f"openai {openai.__version__} is not supported", hint="pip install 'its-proxy[client]'")


def _imported() -> ModuleType:
    try:
        return import_module("openai")
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise ConfigError("openai is not installed", hint="pip install 'its-proxy[client]'") from None


require_tested(_imported())
