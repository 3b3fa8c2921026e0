"""`python -m its_litellm config.yaml`: what is wrong with a LiteLLM configuration, before LiteLLM is started.

Servers are not asked; that is done at the start. Ends with code 1 where something is wrong, one line each.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from its_litellm.deployment import PROVIDER, Member, read_info
from its_litellm.versions import require_tested
from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError, ItsError
from its_proxy.served import check_vote

HANDLER = "its_litellm.handler"
REWRITE = "its_litellm.rewrite"
USAGE = "usage: python -m its_litellm config.yaml"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    wrong = list(problems(Path(arguments[0])))
    for line in wrong:
        print(f"its_litellm: {line}", file=sys.stderr)
    if not wrong:
        print("its_litellm: the configuration holds; servers are asked at the start")
    return 1 if wrong else 0


def problems(path: Path) -> Iterator[str]:
    """One line each, which names the fix."""
    try:
        require_tested()
    except ConfigError as error:
        yield str(error)
    yield from _shadows(path)
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield f"{path} cannot be read: {' '.join(str(error).split())}"
        return
    deployments = [one for one in (config or {}).get("model_list") or [] if isinstance(one, Mapping)]
    yield from _doors(config or {}, deployments)
    for deployment in deployments:
        yield from _deployment(deployment, deployments)


def _shadows(path: Path) -> Iterator[str]:
    """LiteLLM imports a file beside its configuration before an installed package of the same name."""
    for shadow in (path.parent / "its_litellm.py", path.parent / "its_litellm"):
        if shadow.exists() and shadow.resolve() != Path(__file__).resolve().parent:
            yield f"{shadow} hides the installed package its_litellm from LiteLLM (rename it)"


def _doors(config: Mapping[str, Any], deployments: list[Mapping[str, Any]]) -> Iterator[str]:
    settings = config.get("litellm_settings") or {}
    handlers = {item.get("provider"): item.get("custom_handler") for item in settings.get("custom_provider_map") or []}
    is_voted = [_model(one).startswith(PROVIDER) for one in deployments]
    if any(is_voted) and handlers.get("its") != HANDLER:
        entry = f"{{provider: its, custom_handler: {HANDLER}}}"
        yield f"nothing provides its/ (litellm_settings: {{custom_provider_map: [{entry}]}})"
    for one, voted in zip(deployments, is_voted, strict=True):
        if not voted and _has_info(one) and REWRITE not in (settings.get("callbacks") or []):
            yield (
                f"model {one.get('model_name')}: model_info.its has no effect on {_model(one)}, which would be asked "
                f"plainly (litellm_settings: {{callbacks: [{REWRITE}]}}, or model: {PROVIDER}...)"
            )


def _deployment(deployment: Mapping[str, Any], deployments: list[Mapping[str, Any]]) -> Iterator[str]:
    if not (_model(deployment).startswith(PROVIDER) or _has_info(deployment)):
        return
    name = str(deployment.get("model_name"))
    try:
        info = read_info(name, deployment.get("model_info"))
        check_vote(f"deployment {name}: model_info.its.vote", info.vote)
    except ConfigError as error:
        yield str(error)
        return
    for member in info.members:
        yield from _member(name, member, deployment, deployments)


def _member(
    name: str, member: Member, deployment: Mapping[str, Any], deployments: list[Mapping[str, Any]]
) -> Iterator[str]:
    if member.manifest is not None:
        try:
            open_checkpoint(member.manifest, allow_one_sided=member.force_pair)
        except ItsError as error:
            yield f"deployment {name}: {error}"
    known = {str(one.get("model_name")) for one in deployments}
    ids = {(one.get("model_info") or {}).get("id") for one in deployments}
    for target in member.targets:
        if target not in known | ids:
            yield f"deployment {name}: there is no deployment {target!r} (model_list has {', '.join(sorted(known))})"
    if not member.targets and not (deployment.get("litellm_params") or {}).get("api_base"):
        yield f"deployment {name}: neither api_base nor targets say where the model runs"


def _model(deployment: Mapping[str, Any]) -> str:
    return str((deployment.get("litellm_params") or {}).get("model"))


def _has_info(deployment: Mapping[str, Any]) -> bool:
    return bool((deployment.get("model_info") or {}).get("its"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
