"""Settings -> everything a server needs, opened and checked: upstreams, checkpoints, the catalog of models."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from its_proxy.checkpoint import Checkpoint, open_checkpoint, read_manifest
from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import FILE_NAME
from its_proxy.codesign.strategies import load_strategies
from its_proxy.handshake import Handshake, Verdict
from its_proxy.plan import Member
from its_proxy.server.auth import Doorkeeper
from its_proxy.server.catalog import Catalog, Served, passed_through, rules_for
from its_proxy.server.context import Context
from its_proxy.server.metrics import Metrics
from its_proxy.settings import EnsembleSettings, ModelSettings, Settings
from its_proxy.upstreams.base import Upstream
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_proxy.upstreams.http import HttpUpstream

DEMO = Path(__file__).parent.parent / "demo"
DEMO_ENSEMBLE = "demo-three"
_DEMO_MEMBERS = ("demo-similar", "demo-dissimilar", "demo-random")

log = structlog.get_logger("its_proxy")


def build_context(settings: Settings, environ: Mapping[str, str] = os.environ) -> Context:
    """Opens everything; a model whose manifest does not hold is kept with its reason, or raised under `strict`."""
    load_strategies(settings.strategies)
    if settings.demo:
        settings = with_demo(settings)
    builder = _Builder(settings, environ)
    catalog = builder.catalog()
    doorkeeper = Doorkeeper(settings.keys, environ, allow_force=settings.allow_force)
    return Context(settings, catalog, doorkeeper, Metrics())


def with_demo(settings: Settings) -> Settings:
    """The settings with the packaged demo checkpoints as models, and three of them as an ensemble."""
    folders = sorted(path.parent for path in DEMO.glob(f"*/{FILE_NAME}"))
    if not folders:
        raise ConfigError("this installation holds no demo checkpoints", hint="name an --upstream or a --checkpoint")
    models = tuple(ModelSettings(name=folder.name, checkpoint=folder) for folder in folders)
    has_members = set(_DEMO_MEMBERS) <= {model.name for model in models}
    ensembles = (EnsembleSettings(name=DEMO_ENSEMBLE, members=_DEMO_MEMBERS),) if has_members else ()
    return settings.model_copy(update={"models": models, "ensembles": ensembles})


class _Builder:
    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._upstreams: dict[str, Upstream] = {
            name: HttpUpstream(
                name,
                upstream.url,
                key=_environment_key(name, upstream.key_env, environ),
                connect_timeout_s=upstream.connect_timeout_s,
                first_byte_timeout_s=upstream.first_byte_timeout_s,
                idle_timeout_s=upstream.idle_timeout_s,
                max_connections=upstream.max_connections,
            )
            for name, upstream in settings.upstreams.items()
        }
        self._refusals: dict[str, ManifestError] = {}
        self._checkpoints = self._open_checkpoints()
        self._embedded = self._open_embedded()

    def catalog(self) -> Catalog:
        served = {model.name: self._serve(model) for model in self._settings.models}
        for ensemble in self._settings.ensembles:
            served[ensemble.name] = self._serve_ensemble(ensemble, [served[name] for name in ensemble.members])
        has_embedded = any(model.upstream is None for model in self._settings.models)
        upstreams = [*self._upstreams.values(), *([self._embedded] if has_embedded else [])]
        return Catalog(served, upstreams, self._open_upstream())

    def _open_upstream(self) -> Upstream | None:
        """With one upstream and no models, everything that it lists is passed through."""
        if self._settings.models or not self._upstreams:
            return None
        if len(self._upstreams) > 1:
            names = ", ".join(self._upstreams)
            raise ConfigError(f"upstreams: {names} and no models", hint="name the models that each of them serves")
        return next(iter(self._upstreams.values()))

    def _open_checkpoints(self) -> dict[str, Checkpoint]:
        opened = {}
        for model in self._settings.models:
            try:
                if (checkpoint := _open(model)) is not None:
                    opened[model.name] = checkpoint
            except ManifestError as error:
                if self._settings.strict:
                    raise
                log.error("model refused", model=model.name, reason=str(error))
                self._refusals[model.name] = error
        return opened

    def _open_embedded(self) -> EmbeddedUpstream:
        """Costs nothing yet: the engine imports torch when it is started, and only if it has a model."""
        folders = {
            model.name: model.checkpoint
            for model in self._settings.models
            if model.upstream is None and model.checkpoint is not None and model.name not in self._refusals
        }
        return EmbeddedUpstream("embedded", folders, max_queue=self._settings.max_queue, threads=self._settings.threads)

    def _serve(self, model: ModelSettings) -> Served:
        served_name = model.served_name
        upstream = self._embedded if model.upstream is None else self._upstreams[model.upstream]
        checkpoint = self._checkpoints.get(model.name)
        if model.name in self._refusals:
            refused = Handshake(Verdict("mismatch", str(self._refusals[model.name])))
            member = Member(model.name, upstream, served_name, None, refused)
            return Served(model.name, (member,), passed_through(model.name, upstream, served_name).rules)
        if checkpoint is None:
            log.warning("no manifest", model=model.name, advice="passed through, neither rewritten nor voted")
            return passed_through(model.name, upstream, served_name)
        vote = self._settings.vote_for(model)
        return Served(
            model.name,
            (Member(model.name, upstream, served_name, checkpoint, Handshake()),),
            rules_for(checkpoint, vote.model_dump(), self._settings.max_n),
            requires_verified=model.handshake == "require",
            is_local=model.upstream is None,
        )

    def _serve_ensemble(self, ensemble: EnsembleSettings, members: Sequence[Served]) -> Served:
        """Members share the candidates evenly: by default the first multiple of their count that is at least its n."""
        refused = self._refusals
        plain = [m.name for m in members if m.members[0].checkpoint is None and m.name not in refused]
        if plain:
            raise ConfigError(f"ensemble {ensemble.name}: {plain[0]} has no manifest, so it cannot vote")
        kinds = {m.rules.answer for m in members if m.name not in refused}
        if len(kinds) > 1:
            raise ConfigError(
                f"ensemble {ensemble.name}: its members answer in different kinds: {', '.join(sorted(kinds))}",
                hint="set vote.answer alike for all of them",
            )
        rules = members[0].rules
        n = ensemble.n or min(-(-rules.n // len(members)) * len(members), self._settings.max_n)
        return Served(
            ensemble.name,
            tuple(served.members[0] for served in members),
            replace(rules, n=n),
            requires_verified=any(served.requires_verified for served in members),
        )


def _open(model: ModelSettings) -> Checkpoint | None:
    """The model's checkpoint; None where an upstream's model simply has no manifest."""
    if model.upstream is None and model.served_name != model.name:
        # Two models with one name there would be answered by the same weights.
        raise ConfigError(
            f"models.{model.name}.served_name: the embedded engine knows its models by their public names",
            hint="leave it out, or name an upstream",
        )
    if model.checkpoint is None:
        if model.upstream is None:
            raise ConfigError(f"models.{model.name} needs an upstream or a checkpoint")
        return None
    if not model.checkpoint.is_dir():
        raise ManifestError(f"{model.checkpoint} is not a folder", hint="the checkpoint's own folder is meant")
    if model.upstream is not None and read_manifest(model.checkpoint) is None:
        return None
    return open_checkpoint(model.checkpoint, allow_one_sided=model.force_pair)


def _environment_key(name: str, variable: str | None, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    if not environ.get(variable):
        raise ConfigError(f"upstreams.{name}.key_env: {variable} is not set or empty")
    return environ[variable]
