"""What a deployment's `model_info.its` says: the checkpoints behind it, where they run, how they vote.

model_info:
  its: {manifest: /checkpoints/qwen-random}                             # at litellm_params.api_base
  its: {roots: [/checkpoints]}                                          # the same, found by the server's own word
  its: {manifest: /checkpoints/qwen-random, targets: [dA, dB, dC]}      # at deployments of the same router
  its: {members: [{manifest: /checkpoints/a, targets: [dA]}, {manifest: /checkpoints/b, targets: [dB], weight: 2}]}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from its_proxy.codesign.errors import ConfigError
from its_proxy.service import MAX_N

PROVIDER = "its/"
"""What the model of a deployment that votes begins with."""
_MESSAGES = {"extra_forbidden": "unknown key", "missing": "name a manifest, or members that have one each"}
Right = Literal["force", "explain", "candidates", "front"]


def provider_and_name(model: str) -> tuple[str, str]:
    """`hosted_vllm/org/name` -> ("hosted_vllm", "org/name"), as LiteLLM reads it; a name alone has no provider."""
    provider, slash, name = model.partition("/")
    return (provider, name) if slash else ("", model)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Strict):
    """One checkpoint. `manifest`: its folder, its bundle, or its its.json; or `roots`, the folders in which the root
    that the server tells of is looked up. `targets`: names or ids of deployments; else it is `model` at `api_base`.
    `force_pair`: also where the manifest has persona text on one side only; replies are marked then."""

    manifest: Path | None = None
    force_pair: bool = False
    roots: tuple[Path, ...] = ()
    model: str | None = None
    targets: tuple[str, ...] = ()
    weight: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> "Member":
        if (self.manifest is None) == (not self.roots):
            raise ValueError("name either a manifest, or roots to look for it in")
        if self.roots and self.targets:
            raise ValueError("roots need api_base: LiteLLM does not tell where its deployments' weights come from")
        if self.model is not None and self.targets:
            raise ValueError("model is the name at api_base, and targets have names of their own")
        return self


class ItsInfo(_Strict):
    """`members` share the votes. `vote` overrides the manifest's advice (`{n: 8, stop: exact}`); `rights`: what clients
    may override. `handshake` and `weights` are those of its-proxy's settings."""

    members: tuple[Member, ...] = Field(min_length=1)
    vote: dict[str, Any] = {}
    max_n: int = Field(MAX_N, ge=1)
    rights: frozenset[Right] = frozenset()
    handshake: Literal["require", "serve"] = "serve"
    weights: Literal["check", "skip"] = "check"


def read_info(model: str, model_info: Any) -> ItsInfo:
    """Raises ConfigError with one line that names the deployment and the key."""
    said = model_info.get("its") if isinstance(model_info, Mapping) else None
    if not isinstance(said, Mapping):
        raise ConfigError(
            f"deployment {model}: no model_info.its, so nothing says how the checkpoint was trained",
            hint="model_info: {its: {manifest: FOLDER}}, the folder that holds its.json",
        )
    try:
        return ItsInfo.model_validate(_with_members(said))
    except ValidationError as error:
        # A misspelt key is told before what is missing without it.
        errors = error.errors(include_url=False, include_input=False)
        worst = min(errors, key=lambda one: one["type"] != "extra_forbidden")
        place = ".".join(["model_info.its", *map(str, worst["loc"])])
        message = _MESSAGES.get(worst["type"], worst["msg"].removeprefix("Value error, "))
        known = ", ".join([*Member.model_fields, *ItsInfo.model_fields])
        hint = f"known keys: {known}; how to vote stands under vote" if worst["type"] == "extra_forbidden" else ""
        raise ConfigError(f"deployment {model}: {place}: {message}", hint=hint) from None


def _with_members(said: Mapping[str, Any]) -> dict[str, Any]:
    """One checkpoint is written without the list."""
    alone = {key: said[key] for key in said if key in Member.model_fields}
    rest = {key: said[key] for key in said if key not in alone}
    return {**rest, "members": [alone]} if alone and "members" not in said else dict(said)
