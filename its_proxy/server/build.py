"""Settings -> everything a server needs, opened and checked: upstreams, checkpoints, the catalog of models."""

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from its_proxy.admission import Admission, Limits
from its_proxy.checkpoint import Checkpoint, open_checkpoint, read_manifest, source_at
from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import FILE_NAME
from its_proxy.codesign.strategies import load_strategies
from its_proxy.equivalence import EquivalenceWorkers
from its_proxy.equivalence import Limits as WorkerLimits
from its_proxy.handshake import NO_MANIFEST, PENDING, Verdict
from its_proxy.hub import Hub
from its_proxy.open_upstream import OpenUpstream
from its_proxy.served import Model, Served, ensemble_of, passed_through, rules_for
from its_proxy.server.auth import Doorkeeper
from its_proxy.server.catalog import Alias, Catalog
from its_proxy.server.context import Context
from its_proxy.server.metrics import Metrics
from its_proxy.server.tls import tls_of
from its_proxy.settings import AliasSettings, EnsembleSettings, ModelSettings, Settings, UpstreamSettings
from its_proxy.targets import Policy, Target
from its_proxy.upstreams.base import Started, Upstream
from its_proxy.upstreams.http import HttpUpstream

if TYPE_CHECKING:
    from its_proxy.upstreams.embedded import EmbeddedUpstream

DEMO = Path(__file__).parent.parent / "demo"
DEMO_ENSEMBLE = "demo-three"
CANDIDATES_PER_UPSTREAM = 512
_DEMO_MEMBERS = ("demo-similar", "demo-dissimilar", "demo-random")

log = structlog.get_logger("its_proxy")


def build_context(settings: Settings, environ: Mapping[str, str] = os.environ) -> Context:
    """Opens everything; a model whose manifest does not hold is kept with its reason, or raised under `strict`."""
    settings, catalog = _build(settings, environ, None)
    doorkeeper = Doorkeeper(settings.keys, environ, allow_force=settings.allow_force)
    admission = Admission(limits_of(settings))
    metrics = Metrics(admission)
    workers = EquivalenceWorkers(WorkerLimits(n_workers=settings.equivalence_workers))
    return Context(settings, catalog, doorkeeper, metrics, admission, workers, tls=tls_of(settings))


def rebuild(context: Context, settings: Settings, environ: Mapping[str, str] = os.environ) -> Catalog:
    """Puts new settings into force for new queries; those in flight end as they began.

    Returns the catalog from before, whose upstreams that are not used any more are the caller's to close. Raises
    ItsError, and then nothing has changed. What the listening socket was opened with stays as it is.
    """
    tls = tls_of(settings)
    settings, catalog = _build(settings, environ, context.catalog)
    doorkeeper = Doorkeeper(settings.keys, environ, allow_force=settings.allow_force)
    before = context.catalog
    context.tls = tls
    context.settings, context.catalog, context.doorkeeper = settings, catalog, doorkeeper
    context.admission.limits = limits_of(settings)
    return before


def limits_of(settings: Settings) -> Limits:
    """By default twice what vLLM runs side by side, for each upstream: its own queue stays short and is never empty.
    The embedded engine refuses what its queue cannot hold, so it is not sent more."""
    limits = settings.limits
    candidates = limits.candidates or CANDIDATES_PER_UPSTREAM * len(settings.upstreams) or settings.max_queue
    return Limits(candidates, limits.queue, limits.queue_s)


def _build(settings: Settings, environ: Mapping[str, str], before: Catalog | None) -> tuple[Settings, Catalog]:
    load_strategies(settings.strategies)
    if settings.demo:
        settings = with_demo(settings)
    return settings, _Builder(settings, environ, before).catalog()


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
    """`before` is the catalog of a running server: what has not changed keeps its connections and its verdicts."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], before: Catalog | None) -> None:
        self._settings = settings
        self._environ = environ
        self._before = {target.key: target for target in before.targets()} if before is not None else {}
        self._upstreams = _http_upstreams(settings, environ, before)
        self._policies: list[tuple[Target, Policy]] = []
        self._refusals: dict[str, ManifestError] = {}
        self._checkpoints = self._open_checkpoints()
        self._embedded = self._open_embedded(before)

    def catalog(self) -> Catalog:
        models = {model.name: self._serve(model) for model in self._settings.models}
        ensembles = {
            ensemble.name: self._serve_ensemble(ensemble, [models[name] for name in ensemble.weights])
            for ensemble in self._settings.ensembles
        }
        served = models | ensembles
        aliases = {alias.name: _alias(alias, served) for alias in self._settings.aliases}
        upstreams: list[Upstream] = [*self._upstreams.values(), *([self._embedded] if self._embedded else [])]
        catalog = Catalog(served, upstreams, aliases, self._open_upstream())
        for target, policy in self._policies:  # only now: nothing can be refused any more, and some are serving
            if target.policy.weights != policy.weights:
                target.recheck()
            target.policy = policy
        return catalog

    def _open_upstream(self) -> OpenUpstream | None:
        """With one upstream and no models, everything that it lists is served."""
        if self._settings.models or not self._upstreams:
            return None
        if len(self._upstreams) > 1:
            names = ", ".join(self._upstreams)
            raise ConfigError(f"upstreams: {names} and no models", hint="name the models that each of them serves")
        settings = self._settings
        return OpenUpstream(
            next(iter(self._upstreams.values())),
            lambda checkpoint: rules_for(checkpoint, settings.vote.model_dump(), settings.max_n),
            roots=settings.roots,
            hub=Hub() if settings.hub else None,
            policy=Policy(recheck_s=settings.recheck_s),
            deadline_s=settings.vote.deadline_s,
        )

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

    def _open_embedded(self, before: Catalog | None) -> "EmbeddedUpstream | None":
        """The embedded engine, where a model has no upstream. It imports torch when it is started."""
        models = [model for model in self._settings.models if not model.upstreams]
        folders = {
            model.name: model.checkpoint
            for model in models
            if model.checkpoint is not None and model.name not in self._refusals
        }
        running = [upstream for upstream in before.upstreams if isinstance(upstream, Started)] if before else []
        if not models and not running:
            return None
        # Only here: a server of upstreams has no use for its code.
        from its_proxy.upstreams.embedded import EmbeddedUpstream

        for upstream in running:
            if not isinstance(upstream, EmbeddedUpstream) or upstream.folders != folders:
                raise ConfigError("models of the embedded engine cannot change while it runs", hint="restart")
            return upstream
        return EmbeddedUpstream("embedded", folders, max_queue=self._settings.max_queue, threads=self._settings.threads)

    def _serve(self, model: ModelSettings) -> Served:
        checkpoint = self._checkpoints.get(model.name)
        targets = self._targets(model, checkpoint)
        vote = self._settings.vote_for(model)
        if checkpoint is None:
            if model.name not in self._refusals:
                log.warning("no manifest", model=model.name, advice=NO_MANIFEST.reason)
            return passed_through(model.name, targets, vote.deadline_s)
        rules = rules_for(checkpoint, vote.model_dump(), self._settings.max_n)
        return Served(model.name, (Model(model.name, checkpoint, targets),), rules)

    def _targets(self, model: ModelSettings, checkpoint: Checkpoint | None) -> tuple[Target, ...]:
        served_name = model.served_name.replace("{pair}", checkpoint.pair_id[:8] if checkpoint else "none")
        refusal = self._refusals.get(model.name)
        verdict = Verdict("mismatch", str(refusal)) if refusal is not None else PENDING
        upstreams: Sequence[Upstream] = [self._upstreams[name] for name in model.upstreams]
        if not upstreams:
            assert self._embedded is not None  # opened for such a model
            upstreams = [self._embedded]
        targets = []
        for upstream in upstreams:
            target = Target(
                model.name, upstream, served_name, checkpoint, verdict=verdict, is_local=not model.upstreams
            )
            # The one that runs already knows its load and its verdict.
            target = self._before.get(target.key, target)
            self._policies.append((target, self._policy(model, upstream.name)))
            targets.append(target)
        return tuple(targets)

    def _policy(self, model: ModelSettings, upstream: str) -> Policy:
        is_drained = upstream in self._settings.upstreams and self._settings.upstreams[upstream].drain
        return Policy(model.handshake == "require", model.weights, self._settings.recheck_s, is_drained)

    def _serve_ensemble(self, ensemble: EnsembleSettings, members: Sequence[Served]) -> Served:
        plain = [m.name for m in members if m.checkpoint is None and m.name not in self._refusals]
        if plain:
            raise ConfigError(f"ensemble {ensemble.name}: {plain[0]} has no manifest, so it cannot vote")
        weights = [ensemble.weights[member.name] for member in members]
        return ensemble_of(ensemble.name, members, weights, n=ensemble.n, max_n=self._settings.max_n)


def _http_upstreams(settings: Settings, environ: Mapping[str, str], before: Catalog | None) -> dict[str, HttpUpstream]:
    """One for each, or the one that runs already with the same settings."""
    running = {u.name: u for u in (before.upstreams if before is not None else ()) if isinstance(u, HttpUpstream)}
    made = {}
    for name, upstream in settings.upstreams.items():
        key = _environment_key(name, upstream.key_env, environ)
        identity = sha256(f"{upstream.model_dump(exclude={'drain'})}{key}".encode()).hexdigest()
        found = running.get(name)
        made[name] = found if found is not None and found.identity == identity else _http(name, upstream, key, identity)
    return made


def _http(name: str, upstream: UpstreamSettings, key: str | None, identity: str) -> HttpUpstream:
    return HttpUpstream(
        name,
        upstream.url,
        key=key,
        connect_timeout_s=upstream.connect_timeout_s,
        first_byte_timeout_s=upstream.first_byte_timeout_s,
        idle_timeout_s=upstream.idle_timeout_s,
        max_connections=upstream.max_connections,
        cache_salt=upstream.cache_salt,
        poll_s=upstream.poll_s,
        identity=identity,
    )


def _alias(alias: AliasSettings, served: Mapping[str, Served]) -> Alias:
    return Alias(alias.name, tuple((served[name], weight) for name, weight in alias.models.items()), alias.sticky)


def _open(model: ModelSettings) -> Checkpoint | None:
    """The model's checkpoint; None where an upstream's model simply has no manifest."""
    if not model.upstreams and model.served_name != model.name:
        # Two models with one name there would be answered by the same weights.
        raise ConfigError(
            f"models.{model.name}.served_name: the embedded engine knows its models by their public names",
            hint="leave it out, or name an upstream",
        )
    if model.checkpoint is None:
        if not model.upstreams:
            raise ConfigError(f"models.{model.name} needs an upstream or a checkpoint")
        return None
    if not model.upstreams and not model.checkpoint.is_dir():
        raise ManifestError(f"{model.checkpoint} is not a folder", hint="the embedded engine needs the weights, too")
    source = source_at(model.checkpoint)
    if model.upstreams and read_manifest(source) is None:
        return None
    return open_checkpoint(source, allow_one_sided=model.force_pair)


def _environment_key(name: str, variable: str | None, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    if not environ.get(variable):
        raise ConfigError(f"upstreams.{name}.key_env: {variable} is not set or empty")
    return environ[variable]
