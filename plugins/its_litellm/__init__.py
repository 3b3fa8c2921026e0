"""its-proxy inside LiteLLM: the provider `its`, and a hook that only rewrites.

    litellm_settings:
      custom_provider_map: [{provider: its, custom_handler: its_litellm.handler}]   # rewrites and votes
      callbacks: [its_litellm.rewrite]                                             # rewrites, one sample

`its-litellm check config.yaml` says before a start what `its_litellm` would say at the start.
"""

from its_litellm.hook import RewriteHook
from its_litellm.provider import Provider
from its_litellm.startup import begin
from its_litellm.versions import require_tested

require_tested()
handler = Provider()
rewrite = RewriteHook()
begin(handler, rewrite)

__all__ = ["Provider", "RewriteHook", "handler", "rewrite"]
