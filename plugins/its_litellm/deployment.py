"""What a deployment's `model_info.its` says: the checkpoints behind it, where they run, how they vote.

model_info:
  its: {manifest: /models/qwen-random}                                   # at litellm_params.api_base
  its: {manifest: /models/qwen-random, targets: [dA, dB, dC]}            # at deployments of the same router
  its: {members: [{manifest: /models/a, targets: [dA]}, {manifest: /models/b, targets: [dB], weight: 2}]}
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.service import MAX_N

Right = Literal["force", "explain", "candidates", "front"]
_ITS = Path("its.json")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Strict):
    """One checkpoint. `targets`: names or ids of deployments of the same router; without any, `api_base`."""

    manifest: Path
    targets: tuple[str, ...] = ()
    weight: int = Field(1, ge=1)

    def open(self) -> Checkpoint:
        """Raises the ManifestError family. Its folder, a bundle, or the path of its.json are all good."""
        return open_checkpoint(self.manifest.parent if self.manifest.name == _ITS.name else self.manifest)


class ItsInfo(_Strict):
    """`vote` overrides the manifest's advice (`{n: 8, stop: exact}`); `rights`: what clients may override."""

    manifest: Path | None = None
    targets: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    vote: dict[str, Any] = {}
    max_n: int = Field(MAX_N, ge=1)
    rights: frozenset[Right] = frozenset()

    @model_validator(mode="after")
    def _one_form(self) -> "ItsInfo":
        if (self.manifest is None) == (not self.members):
            raise ValueError("name either a manifest or members, each with its own")
        if self.members and self.targets:
            raise ValueError("targets belong to each of the members")
        return self

    @property
    def checkpoints(self) -> tuple[Member, ...]:
        return self.members or (Member(manifest=self.manifest or _ITS, targets=self.targets, weight=1),)


def read_info(model: str, model_info: Any) -> ItsInfo:
    """Raises ConfigError with one line that names the deployment and the key."""
    said = model_info.get("its") if isinstance(model_info, dict) else None
    if said is None:
        raise ConfigError(
            f"deployment {model}: no model_info.its, so nothing says how the checkpoint was trained",
            hint="model_info: {its: {manifest: FOLDER}}, the folder that holds its.json",
        )
    try:
        return ItsInfo.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(["model_info.its", *map(str, first["loc"])])
        message = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        known = ", ".join(ItsInfo.model_fields)
        raise ConfigError(f"deployment {model}: {place}: {message}", hint=f"known keys: {known}") from None
