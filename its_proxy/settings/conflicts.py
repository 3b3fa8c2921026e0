"""Checks of one part of the settings against another: what each alone would allow, and together cannot be meant."""

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from its_proxy.dotted import Key
from its_proxy.settings.objects import Settings, VoteSettings

KEY_HINT = (
    "make a key and its digest with: python -c 'import hashlib, secrets; key = secrets.token_urlsafe(32); "
    "print(key, hashlib.sha256(key.encode()).hexdigest())', then add to the file  keys: [{name: ..., sha256: ...}]"
)
Conflict: TypeAlias = tuple[Key, str, str]
"""(the key at fault, what is wrong, one line of advice)"""


def conflicts(settings: Settings, environ: Mapping[str, str]) -> Iterator[Conflict]:
    yield from _limit_conflicts(settings)
    yield from _model_conflicts(settings)
    yield from _ensemble_conflicts(settings)
    yield from _alias_conflicts(settings)
    yield from _key_conflicts(settings, environ)
    if not _is_loopback(settings.host) and not settings.keys:
        yield ("host",), f"{settings.host!r} is open to others, and no keys are configured", KEY_HINT
    for given, missing in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(settings, given) is not None and getattr(settings, missing) is None:
            yield (given,), f"needs {missing} beside it", "both are PEM files"
    for key, is_wanted in (("reuse_port", settings.reuse_port), ("workers", settings.workers > 1)):
        if is_wanted and not hasattr(socket, "SO_REUSEPORT"):
            yield (key,), "this system's ports cannot be shared", "leave it out"
    if settings.demo and (settings.models or settings.upstreams):
        yield ("demo",), "the demo serves only where no model and no upstream is configured", "leave it out"
    if not (settings.demo or settings.models or settings.upstreams):
        yield ("demo",), "nothing to serve: no demo, no model, no upstream", ""


def _model_conflicts(settings: Settings) -> Iterator[Conflict]:
    for model in settings.models:
        key: Key = ("models", model.name)
        for index, upstream in enumerate(model.upstreams):
            if upstream not in settings.upstreams:
                hint = suggestion(upstream, list(settings.upstreams)) or "no upstream is configured"
                yield (*key, "upstream"), f"no upstream is named {upstream!r}", hint
            elif upstream in model.upstreams[:index]:
                yield (*key, "upstream"), f"{upstream!r} is listed twice", ""
        if model.upstream is None and model.checkpoint is None:
            hint = "name its upstream, or the checkpoint that the embedded engine serves"
            yield key, "has neither an upstream nor a checkpoint", hint


def _ensemble_conflicts(settings: Settings) -> Iterator[Conflict]:
    models = {model.name: model for model in settings.models}
    ensembles = {ensemble.name: ensemble for ensemble in settings.ensembles}
    for name in ensembles:
        if name in models:
            yield ("ensembles", name), "is also the name of a model", "clients see one list of names"
    for ensemble in settings.ensembles:
        members = tuple(ensemble.members)
        for index, member in enumerate(members):
            place: Key = ("ensembles", ensemble.name, "members", index)
            if member in ensembles:
                yield place, f"{member!r} is an ensemble itself", "list its members instead"
            elif member not in models:
                yield place, f"no model is named {member!r}", suggestion(member, list(models))
            elif member in members[:index]:
                yield place, f"{member!r} is listed twice", ""


def _alias_conflicts(settings: Settings) -> Iterator[Conflict]:
    names = dict.fromkeys([*(m.name for m in settings.models), *(e.name for e in settings.ensembles)])
    for alias in settings.aliases:
        key: Key = ("aliases", alias.name)
        if alias.name in names:
            yield key, "is also the name of a model or an ensemble", "clients see one list of names"
        for name in alias.models:
            if name not in names:
                yield (*key, "models", name), f"no model is named {name!r}", suggestion(name, list(names))
        if not any(alias.models.values()):
            yield (*key, "models"), "every weight is 0, so nobody would answer", ""


def _limit_conflicts(settings: Settings) -> Iterator[Conflict]:
    counts: list[tuple[Key, int | None]] = [(("vote", "n"), settings.vote.n)]
    counts += [(("models", model.name, "vote", "n"), model.vote.n) for model in settings.models if model.vote]
    counts += [(("ensembles", ensemble.name, "n"), ensemble.n) for ensemble in settings.ensembles]
    source = settings.source_of(("max_n",))
    for key, n in counts:
        if n is not None and n > settings.max_n:
            yield key, f"{n} is above max_n, {settings.max_n} ({source})", "raise max_n or lower n"
    votes: list[tuple[Key, VoteSettings]] = [(("vote",), settings.vote)]
    votes += [(("models", model.name, "vote"), settings.vote_for(model)) for model in settings.models if model.vote]
    for place, vote in votes:
        most = vote.n or settings.max_n
        if vote.min_n is not None and vote.min_n > most:
            yield (*place, "min_n"), f"{vote.min_n} is above n, {most}", "under pressure n only shrinks"


def _key_conflicts(settings: Settings, environ: Mapping[str, str]) -> Iterator[Conflict]:
    seen: dict[str, str] = {}
    names: set[str] = set()
    for index, caller in enumerate(settings.keys):
        if caller.env is not None and not environ.get(caller.env):
            # Not by name: it may be a key that was pasted in the wrong place.
            yield ("keys", index, "env"), "the variable that it names is not set or empty", ""
            continue
        if caller.name in names:
            yield ("keys", index, "name"), f"{caller.name!r} is listed twice", ""
        names.add(caller.name)
        first = seen.setdefault(caller.digest(environ), caller.name)
        if first != caller.name:
            yield ("keys", index), f"is the same key as {first!r}", ""
    for name, upstream in settings.upstreams.items():
        if upstream.key_env is not None and not environ.get(upstream.key_env):
            yield ("upstreams", name, "key_env"), "the variable that it names is not set or empty", ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def suggestion(word: str, known: list[str]) -> str:
    """Advice for whoever wrote a name that is not known; empty where none is."""
    import difflib  # for those who err

    close = difflib.get_close_matches(word[:100], known, n=1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(known) if known else ""
