"""its-proxy inside LiteLLM: the provider `its`, and a hook that only rewrites.

    litellm_settings:
      custom_provider_map: [{provider: its, custom_handler: its_litellm.handler}]   # rewrites and votes
      callbacks: [its_litellm.rewrite]                                             # rewrites, one sample

`python -m its_litellm config.yaml` says before a start what is wrong with a configuration.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from its_litellm.versions import require_tested

if TYPE_CHECKING:
    from its_litellm.hook import RewriteHook
    from its_litellm.provider import Provider

    handler: Provider
    rewrite: RewriteHook

__all__ = ["handler", "rewrite"]


def __getattr__(name: str) -> Any:
    """The doors, made when LiteLLM first asks for one. Raises ConfigError for a LiteLLM that is out of range."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _doors()[name]


@cache
def _doors() -> dict[str, Any]:
    require_tested()
    from its_litellm.hook import RewriteHook
    from its_litellm.provider import Provider
    from its_litellm.startup import begin

    handler, rewrite = Provider(), RewriteHook()
    begin(handler, rewrite)
    return {"handler": handler, "rewrite": rewrite}
