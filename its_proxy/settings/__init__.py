"""The settings: one frozen object, built once from defaults < YAML file < environment < flags.

    host: 0.0.0.0
    port: 8080
    upstreams:                                  # name -> server
      gpu: {url: http://gpu:8000/v1, key_env: GPU_KEY}
      gpu2: {url: http://gpu2:8000/v1}
    models:                                     # name -> model, a line each
      qwen-random: {upstream: [gpu, gpu2], checkpoint: checkpoints/qwen-random, served_name: "qwen@{pair}"}
      qwen-similar: {upstream: gpu, checkpoint: checkpoints/qwen-similar, vote: {n: 8}}
      llama: {upstream: gpu, served_name: meta/llama-3}
    ensembles:                                  # name -> members, asked and voted together
      qwen-both: {members: [qwen-random, qwen-similar]}
    aliases:                                    # name -> models by weight: canary, A/B, roll-over
      qwen: {models: {qwen-random: 95, qwen-similar: 5}}
    keys:                                       # who may call, and with which rights
      - {name: team-a, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}
      - {name: front, env: FRONT_KEY, rights: [explain, candidates, front]}
    vote: {n: 4, deadline_s: 300}
    limits: {candidates: 1024, queue: 256}      # docs/limits.md

Every number, word and switch at the top level is also `ITS_PROXY_<KEY>`, those under `vote` and `limits` are
`ITS_PROXY_VOTE_<KEY>` and `ITS_PROXY_LIMITS_<KEY>`; an empty variable counts as not given. Anchors, aliases
and `<<` work.
Secrets stay outside: a file names the variable that holds a key, or carries the key's digest.

A comment above a key goes for the keys below it, too, up to the next comment: docs/reference/configuration.md is made
of them.

`objects.py` holds what can be set, `layers.py` builds it, `conflicts.py` checks its parts against each other.
"""

from its_proxy.settings.layers import CONFIG_VARIABLE, QUICK_UPSTREAM, effective, load_settings, quick_model
from its_proxy.settings.objects import (
    AliasSettings,
    EnsembleSettings,
    KeySettings,
    LimitSettings,
    ModelSettings,
    Settings,
    UpstreamSettings,
    VoteSettings,
)

__all__ = [
    "CONFIG_VARIABLE",
    "QUICK_UPSTREAM",
    "AliasSettings",
    "EnsembleSettings",
    "KeySettings",
    "LimitSettings",
    "ModelSettings",
    "Settings",
    "UpstreamSettings",
    "VoteSettings",
    "effective",
    "load_settings",
    "quick_model",
]
