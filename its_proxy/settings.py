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
"""

import ipaddress
import re
import socket
import types
import unicodedata
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from its_proxy.codesign.errors import ConfigError
from its_proxy.dotted import Key, dotted
from its_proxy.voting.answers import AnswerKind
from its_proxy.voting.stop import StopName

Right: TypeAlias = Literal["force", "explain", "candidates", "front"]

ENV_PREFIX = "ITS_PROXY_"
CONFIG_VARIABLE = "ITS_PROXY_CONFIG"
QUICK_UPSTREAM = "default"
"""The name of the upstream that flags alone describe."""

KEY_HINT = (
    "make a key and its digest with: python -c 'import hashlib, secrets; key = secrets.token_urlsafe(32); "
    "print(key, hashlib.sha256(key.encode()).hexdigest())', then add to the file  keys: [{name: ..., sha256: ...}]"
)


# -- what can be set ---------------------------------------------------------------------------------------------------


def _name(text: str) -> str:
    if not text or text != text.strip() or len(text) > 200:
        raise ValueError("should be a name of 1 to 200 characters without spaces around it")
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise ValueError("should not hold control or invisible characters")
    return text


def _public_name(text: str) -> str:
    if re.search(r":its-[^:/]*$", text, re.IGNORECASE):
        raise ValueError("should not end in ':its-...': clients write that behind a name to override the vote")
    return text


def _variable(text: str) -> str:
    # Never echoed: whoever errs here may have pasted the key itself.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("should be the name of an environment variable, never the key itself")
    return text


def _tenant_source(text: str) -> str:
    if not re.fullmatch(r"key|user|header:[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("should be key, user or header:NAME")
    return text


def _sha256_hex(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise ValueError("should be the sha256 of the key, 64 hexadecimal digits, never the key itself")
    return text.lower()


def _server_url(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or any(mark in text for mark in " \\?#"):
        raise ValueError("should be an http:// or https:// address without query, such as http://gpu:8000/v1")
    if "@" in url.netloc:
        raise ValueError("should not carry credentials: put the key into a variable and its name into key_env")
    return text.rstrip("/")


def _one_or_several(value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if value == () or (isinstance(value, tuple) and not all(isinstance(name, str) for name in value)):
        raise ValueError("should be the name of an upstream, or a list of names")
    return value


def _off_as_a_word(value: Any) -> Any:
    # To YAML 1.1 an unquoted `off` is no word but the switch.
    return "off" if value is False else value


def _names_or_weights(value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and not all(isinstance(name, str) for name in value):
        raise ValueError("should list names of models, or map them to weights")
    return value


Name = Annotated[str, AfterValidator(_name)]
PublicName = Annotated[Name, AfterValidator(_public_name)]
Variable = Annotated[str, AfterValidator(_variable)]
Sha256Hex = Annotated[str, AfterValidator(_sha256_hex)]
ServerUrl = Annotated[str, AfterValidator(_server_url)]
Count = Annotated[int, Field(ge=1)]
Candidates = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    # Strict: "8080" is no port and 1 is no switch. Text from the environment is parsed before it comes here.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class UpstreamSettings(_Frozen):
    """A server that speaks the OpenAI protocol; `url` ends before `/chat/completions`, without a slash."""

    # Where it is, such as http://gpu:8000/v1.
    url: ServerUrl
    # The variable that holds its key.
    key_env: Variable | None = None
    # How long a connection may take to be made.
    connect_timeout_s: Seconds = 5
    # How long it may say nothing at all. A plain completion's first byte is its last.
    first_byte_timeout_s: Seconds = 600
    # How long it may fall silent within a reply.
    idle_timeout_s: Seconds = 60
    # Candidates and other calls that it may get at a time.
    max_connections: Count = 1024
    # How often its model list is looked at; a change examines its targets anew.
    poll_s: Seconds = 10
    # Gets no new queries, so that it can be stopped without losing any.
    drain: bool = False
    # Keep callers apart in its prefix cache; by default where it says that it is vLLM.
    cache_salt: bool | None = None


class VoteSettings(_Frozen):
    """How answers are voted; None leaves the word to the manifest. In a model only the keys it names override."""

    # "auto": where the query has a short answer and carries no tools.
    mode: Annotated[Literal["auto", "always", "off"], BeforeValidator(_off_as_a_word)] = "auto"
    # Candidates of a query.
    n: Candidates | None = None
    # What n may shrink to under pressure, before anyone is turned away; None: it never shrinks.
    min_n: Candidates | None = None
    # When enough candidates have come: "exact" gives the full vote's answer, "beta" is sure enough.
    stop: StopName | None = None
    # Candidates to begin with; more are started while the vote is undecided. "auto": as few as could decide it.
    first: Candidates | Literal["auto"] | None = None
    # The leader's share of the valid candidates below which there is no consensus.
    min_agreement: Annotated[float, Field(gt=0, le=1)] | None = None
    # How the answer is written. Fixed here, it is not changed by a request's response_format.
    answer: AnswerKind | None = None
    # Where no candidate holds an answer: the first candidate, or 422 no_vote.
    on_no_answer: Literal["first", "error"] = "first"
    # Below min_agreement: the reply with `its.consensus: false`, or 422 no_consensus.
    on_no_consensus: Literal["reply", "error"] = "reply"
    # The share of candidates that must be valid where a vote ends undecided and some were lost.
    quorum: Annotated[float, Field(ge=0, le=1)] = 0.5
    # The time that a request may take in all. Also ends what is passed through.
    deadline_s: Seconds = 600
    # "exact": stream every candidate, so that the tokens of cancelled ones are counted and not estimated.
    usage_policy: Literal["reported", "exact"] = "reported"
    # "auto": answers that are written differently are compared symbolically where its-proxy[math] is installed.
    equivalence: Annotated[Literal["auto", "off"], BeforeValidator(_off_as_a_word)] = "auto"


class LimitSettings(_Frozen):
    """How much runs and waits at once, of all callers together; docs/limits.md says what to set."""

    # Candidates in flight; by default 512 for each upstream, or max_queue before the embedded engine alone.
    # What one upstream may get is its own max_connections.
    candidates: Count | None = None
    # Requests that wait for room, and for how long.
    queue: Annotated[int, Field(ge=0)] = 128
    queue_s: Seconds = 10


class ModelSettings(_Frozen):
    """A public model name. Without `upstream` the embedded engine serves the checkpoint itself.

    `upstream` may list several; `{pair}` in `served_name` stands for the first 8 digits of the pair id.
    """

    name: PublicName
    # The name of an upstream, or a list of names.
    upstream: Annotated[str | tuple[str, ...] | None, BeforeValidator(_one_or_several)] = None
    # The upstream's name for it; by default the public name.
    served_name: Name = ""
    # The folder or bundle with its manifest; without one the model is passed through.
    checkpoint: Annotated[Path, Field(strict=False)] | None = None
    # Keys of `vote` that are other ones for this model.
    vote: VoteSettings | None = None
    # Whether an unverified target is refused traffic, or served and marked.
    handshake: Literal["require", "serve"] = "serve"
    # "skip": compare tokens only, where prompt log-probabilities cost the server too much memory.
    weights: Literal["check", "skip"] = "check"
    # Serves a pair with persona text on one side only, and marks every reply of it.
    force_pair: bool = False

    @model_validator(mode="before")
    @classmethod
    def _serve_under_the_public_name(cls, data: Any) -> Any:
        return {"served_name": data.get("name"), **data} if isinstance(data, dict) else data

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The names of its upstreams; none stands for the embedded engine."""
        if self.upstream is None:
            return ()
        return (self.upstream,) if isinstance(self.upstream, str) else self.upstream


class EnsembleSettings(_Frozen):
    """Several models voted together under one name; `n` counts the candidates of all members together.

    `members` are names, or names with the weight of each one's ballots.
    """

    name: PublicName
    # At least two models: a list of names, or a mapping of names to weights.
    members: Annotated[tuple[str, ...] | dict[str, Annotated[int, Field(ge=1, le=1000)]],
                       BeforeValidator(_names_or_weights), Field(min_length=2)]  # fmt: skip
    # Candidates of all members together.
    n: Candidates | None = None

    @property
    def weights(self) -> dict[str, int]:
        return self.members if isinstance(self.members, dict) else dict.fromkeys(self.members, 1)


class AliasSettings(_Frozen):
    """A public name that stands for models by weight; `sticky` says what keeps a caller at one of them.

    `query`: the first user turn, so that a conversation stays where it began. `user`: the request's `user`,
    else the key. Weight 0 sends nothing and keeps the model ready.
    """

    name: PublicName
    # Models, or ensembles, and the weight of each.
    models: Annotated[dict[str, Annotated[int, Field(ge=0, le=1_000_000)]], Field(min_length=1)]
    # What keeps a caller at one of them.
    sticky: Literal["query", "user", "key", "none"] = "query"


class KeySettings(_Frozen):
    """One caller: its name for logs and metrics, its key by digest or by variable, and what it may ask for."""

    # For logs and metrics.
    name: Name
    # The key's digest; or `env` instead.
    sha256: Sha256Hex | None = None
    # The variable that holds the key; or `sha256` instead.
    env: Variable | None = None
    # What it may do besides: ask for another strategy, `explain` or `candidates`, and speak for others (`front`).
    rights: Annotated[frozenset[Right], Field(strict=False)] = frozenset({"explain", "candidates"})
    # Of the key, and of each tenant that it speaks for; None: only the server's own limits.
    max_candidates: Count | None = None
    requests_per_minute: Count | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "KeySettings":
        if (self.sha256 is None) == (self.env is None):
            raise ValueError("should hold exactly one of sha256 (the key's digest) and env (the variable with the key)")
        return self

    def digest(self, environ: Mapping[str, str]) -> str:
        """The key's sha256 in hexadecimal. Raises ConfigError when the named variable is missing or empty."""
        if self.sha256 is not None:
            return self.sha256
        key = environ.get(self.env or "", "")
        if not key:
            raise ConfigError(f"key {self.name!r}: the variable that `env` names is not set or empty")
        return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Settings(_Frozen):
    """Everything an operator decides; its parts are checked against each other when they are read."""

    # The address to listen at. Any but loopback needs `keys`.
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    # 0 is any free one.
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    # Share the port with other servers that do, too: a new one listens once it can answer, then the old one is ended.
    reuse_port: bool = False
    # Processes that share the port, for one big machine. Limits are of each of them.
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    # Servers by name.
    upstreams: dict[Name, UpstreamSettings] = {}
    # Models by public name.
    models: Annotated[tuple[ModelSettings, ...], Field(strict=False)] = ()
    # Ensembles by public name.
    ensembles: Annotated[tuple[EnsembleSettings, ...], Field(strict=False)] = ()
    # Aliases by public name.
    aliases: Annotated[tuple[AliasSettings, ...], Field(strict=False)] = ()
    # Who may call. Without any key everybody who reaches the address may.
    keys: Annotated[tuple[KeySettings, ...], Field(strict=False)] = ()
    # Certificate chain and key, PEM files; with both, the server speaks TLS. SIGHUP reads them again.
    tls_cert: Annotated[Path, Field(strict=False)] | None = None
    tls_key: Annotated[Path, Field(strict=False)] | None = None
    # Connections of clients at a time; by default what the process may open, less what the upstreams need.
    max_connections: Annotated[int, Field(ge=16)] | None = None
    # How long a request's headers may take, and its body; a longer body must keep coming at 1 KiB/s.
    header_s: Seconds = 10
    body_s: Seconds = 30
    # How long a client may read nothing of a reply that waits for it.
    write_idle_s: Seconds = 60
    # How long a connection may wait for its next request; longer than any balancer before it keeps one.
    keepalive_s: Seconds = 120
    # Most candidates of a query: a manifest's n is lowered to it, a request that asks for more is refused.
    max_n: Candidates = 16
    # Processes that compare answers, shared by all models; started when there is a first pair for them. Of two, one
    # works on while the other is killed for a pair that takes too long.
    equivalence_workers: Annotated[int, Field(ge=1, le=64)] = 2
    # Of a request.
    max_body_bytes: Count = 2 << 20
    # Tokens that one request may ask for, candidates times max_tokens: a slip of the pen, not a long answer.
    max_request_tokens: Count = 2 << 20
    # Rows that wait for the embedded engine.
    max_queue: Count = 64
    # Of the embedded engine; its small models gain little from a second one.
    threads: Count = 1
    # What `serve CHECKPOINT --engine vllm` starts, and how long it may load; None is as long as it takes.
    engine_command: Annotated[str, Field(min_length=1)] = "vllm"
    engine_start_timeout_s: Seconds | None = None
    # How answers are voted.
    vote: VoteSettings = VoteSettings()
    # How much runs and waits at once.
    limits: LimitSettings = LimitSettings()
    # Seconds between routine examinations of every target.
    recheck_s: Seconds = 300
    # Whose cache and limits a request shares: its key's, or, for keys with the right `front`, whom they speak for.
    tenant_from: Annotated[str, AfterValidator(_tenant_source)] = "key"
    # Folders that upstreams' models may be looked for in, by the `root` that `GET /v1/models` tells.
    roots: Annotated[tuple[Annotated[Path, Field(strict=False)], ...], Field(strict=False)] = ()
    # Whether a `root` that names a Hub repository is looked up there: its.json and the files that it names.
    hub: bool = False
    # Whether a server without keys lets everybody ask for another strategy.
    allow_force: bool = True
    # A mismatch ends the server with exit code 1; by default with one --checkpoint.
    strict: bool = False
    # Entry points of the group `its_proxy.strategies` that may be loaded.
    strategies: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    # What is logged: this and worse.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # "auto": words at a terminal, JSON elsewhere.
    log_format: Literal["auto", "json", "text"] = "auto"
    # A span a request and a span a candidate, by OpenTelemetry (extra `otel`); OTEL_EXPORTER_OTLP_* say where to.
    traces: bool = False
    # After SIGTERM: still accepting, while /readyz says no and every reply asks for another connection.
    lame_duck_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5
    # How long requests in flight may then take; None is as long as the longest of them may.
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    # Serves the packaged checkpoints; only where neither a model nor an upstream is configured.
    demo: bool = True

    _sources: dict[Key, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _demo_only_alone(cls, data: Any) -> Any:
        if isinstance(data, dict) and (data.get("models") or data.get("upstreams")):
            return {"demo": False, **data}
        return data

    def vote_for(self, model: ModelSettings) -> VoteSettings:
        """The vote settings of one model: its own keys over the common ones."""
        if model.vote is None:
            return self.vote
        return self.vote.model_copy(update={key: getattr(model.vote, key) for key in model.vote.model_fields_set})


# Sections of the file that are mappings of names.
_NAMED: dict[str, type[_Frozen]] = {
    "upstreams": UpstreamSettings,
    "models": ModelSettings,
    "ensembles": EnsembleSettings,
    "aliases": AliasSettings,
}
_SHAPES = {
    "upstreams": "such as  gpu: {url: http://gpu:8000/v1}",
    "models": "such as  llama: {upstream: gpu}",
    "ensembles": "such as  both: {members: [one, two]}",
    "aliases": "such as  best: {models: {new: 5, old: 95}}",
    "vote": "such as  vote: {n: 8}",
    "limits": "such as  limits: {candidates: 1024}",
}


# -- building ----------------------------------------------------------------------------------------------------------


def load_settings(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Builds the settings; later layers win: defaults, `file`, `environ`, `flags`.

    `flags` maps dotted keys to values (`{"port": 9000, "vote.n": 4}`, None: not given), or sections to what
    `quick_model` makes. Raises ConfigError naming the key and the line, the variable or the flag at fault.
    """
    draft = _Draft()
    if file is not None:
        draft.read(file)
    draft.overlay_environment(environ)
    draft.overlay_flags(flags)
    settings = draft.validate()
    for key, message, hint in _conflicts(settings, environ):
        raise draft.error(key, message, hint)
    return settings


def quick_model(
    upstream_url: str | None, model: str | None, checkpoint: Path | str | None, served_name: str | None
) -> dict[str, Any]:
    """The part of `flags` that `serve --upstream URL --checkpoint DIR --model NAME` stands for.

    One upstream named `default` and one model; a checkpoint alone lends its folder's name. An upstream alone
    passes through every model that it lists. One checkpoint makes `strict` true unless some layer says otherwise.
    """
    fragment: dict[str, Any] = {}
    if upstream_url is not None:
        fragment["upstreams"] = {QUICK_UPSTREAM: {"url": upstream_url}}
    name = model if model is not None or checkpoint is None else _name_of(Path(checkpoint))
    if name is not None:
        fields: dict[str, Any] = {}
        if upstream_url is not None:
            fields["upstream"] = QUICK_UPSTREAM
        if checkpoint is not None:
            fields["checkpoint"] = Path(checkpoint)
        if served_name is not None:
            fields["served_name"] = served_name
        fragment["models"] = {name: fields}
    elif served_name is not None:
        raise ConfigError("--served-name: needs --model", hint="it is the upstream's name for that model")
    return fragment


def _name_of(checkpoint: Path) -> str:
    """The folder's name, without what `manifest init` and `manifest bundle` put behind the model's."""
    name = checkpoint.resolve().name
    for suffix in (".json", ".bundle", ".its"):
        name = name.removesuffix(suffix)
    return name


def effective(settings: Settings) -> list[tuple[str, Any, str]]:
    """Every value as (dotted key, value, source); a source is `default`, `its.yaml:17`, a variable or a flag."""
    return [(dotted(key), value, settings._sources.get(key, "default")) for key, value in _leaves((), settings)]


def _leaves(key: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, VoteSettings) and len(key) > 1:
        # In a model only the keys that it names are in force.
        yield from (((*key, field), part) for field, part in value if field in value.model_fields_set)
    elif isinstance(value, _Frozen):
        for field in type(value).model_fields:
            if not (field == "name" and key[0] in _NAMED):
                yield from _leaves((*key, field), getattr(value, field))
    elif isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves((*key, name), part)
    elif isinstance(value, tuple) and value and isinstance(value[0], _Frozen):
        for index, part in enumerate(value):
            yield from _leaves((*key, index if isinstance(part, KeySettings) else part.name), part)
    elif isinstance(value, Path):
        yield key, str(value)
    elif key[-1] == "sha256" and value:
        # A weak key can be guessed from its whole digest.
        yield key, value[:8] + "…"
    else:
        yield key, sorted(value) if isinstance(value, frozenset) else value


class _Draft:
    """The layers so far: plain values, and for each key where it was said last."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[Key, str] = {}

    def read(self, file: Path) -> None:
        from its_proxy.yaml_file import read_yaml  # a server that flags alone describe needs no YAML

        self.values, self.sources = read_yaml(file)
        for section in _SHAPES:
            if self.values.get(section, {}) is None:
                self.values[section] = {}
            if not isinstance(self.values.get(section, {}), dict):
                raise self.error((section,), "should be a mapping", _SHAPES[section])
        for section in ("keys", "strategies", "roots"):
            if self.values.get(section, ()) is None:
                self.values[section] = []
        for section in _NAMED:
            for name, fields in self.values.get(section, {}).items():
                if not isinstance(fields, dict | None):
                    raise self.error((section, name), "should be a mapping of settings")
        for fields in self.values.get("models", {}).values():
            # A path in a file means the same wherever the server is started.
            if fields and isinstance(fields.get("checkpoint"), str):
                fields["checkpoint"] = file.parent / fields["checkpoint"]
        for name in ("tls_cert", "tls_key"):
            if isinstance(path := self.values.get(name), str):
                self.values[name] = file.parent / path
        if isinstance(roots := self.values.get("roots"), list):
            self.values["roots"] = [file.parent / root if isinstance(root, str) else root for root in roots]

    def put(self, key: Key, value: Any, source: str) -> None:
        place: Any = self.values
        for part in key[:-1]:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        place[key[-1]] = value
        self.sources[key] = source

    def overlay_environment(self, environ: Mapping[str, str]) -> None:
        expected = {CONFIG_VARIABLE, *self._secret_variables()}
        for variable in sorted(environ):
            text = environ[variable]
            if not variable.startswith(ENV_PREFIX) or variable in expected or _is_service_link(variable, text):
                continue
            if variable not in _VARIABLES:
                raise ConfigError(f"{variable}: unknown variable", hint=_variable_hint(variable))
            if text:
                key, kinds = _VARIABLES[variable]
                self.put(key, _parsed(text, kinds), variable)

    def _secret_variables(self) -> Iterator[str]:
        keys = self.values.get("keys")
        holders = [(part, "env") for part in keys] if isinstance(keys, list) else []
        holders += [(part, "key_env") for part in self.values.get("upstreams", {}).values()]
        for part, field in holders:
            if isinstance(part, dict) and isinstance(part.get(field), str):
                yield part[field]

    def overlay_flags(self, flags: Mapping[str, Any]) -> None:
        kinds_by_key = dict(_VARIABLES.values())
        n_checkpoints = 0
        for flag, value in flags.items():
            key: Key = tuple(flag.split("."))
            if flag in _NAMED and isinstance(value, Mapping):
                for name, fields in value.items():
                    if (self.values.get(flag) or {}).get(name) is None:
                        self.put((flag, name), {}, _flag((flag, name)))
                    for field, part in fields.items():
                        self.put((flag, name, field), part, _flag((flag, name, field)))
                        n_checkpoints += field == "checkpoint"
            elif value is not None:
                self.put(key, _parsed(value, kinds_by_key.get(key, set())), _flag(key))
        if n_checkpoints == 1 and "strict" not in self.values:
            self.put(("strict",), True, "default with one --checkpoint")

    def validate(self) -> Settings:
        values = dict(self.values)
        names: dict[str, list[str]] = {}
        for section in ("models", "ensembles", "aliases"):
            named = values.get(section, {})
            names[section] = list(named)
            for name, fields in named.items():
                if fields and "name" in fields:
                    raise self.error((section, name, "name"), "unknown key", "the key above is the name")
            values[section] = [{"name": name, **(fields or {})} for name, fields in named.items()]
        values["upstreams"] = {name: fields or {} for name, fields in values.get("upstreams", {}).items()}
        try:
            settings = Settings.model_validate(values)
        except ValidationError as invalid:
            # An unknown key explains more than the missing one that it was meant to be.
            first = min(invalid.errors(), key=lambda error: error["type"] != "extra_forbidden")
            raise self._translate(first, names) from None
        settings._sources = self.sources
        return settings

    def _translate(self, error: Any, names: Mapping[str, list[str]]) -> ConfigError:
        key: Key = tuple(part for part in error["loc"] if part != "[key]")
        if len(key) > 1 and key[0] in names:
            section, index, *rest = key
            key = (section, names[str(section)][int(index)], *(() if rest == ["name"] else rest))
        if error["type"] == "extra_forbidden":
            return self.error(key, "unknown key", _suggestion(str(key[-1]), _known_keys(key[:-1])))
        if error["type"] == "missing":
            return self.error(key, "is missing")
        if error["type"] == "value_error":
            return self.error(key, str(error["ctx"]["error"]))
        return self.error(key, re.sub(r"^\w+ (?=should )", "", error["msg"]))

    def error(self, key: Key, message: str, hint: str = "") -> ConfigError:
        """Names the key, and where it or the nearest key around it was said."""
        source = next((self.sources[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.sources), "")
        if source.startswith("--") or source in _VARIABLES:
            # A flag or a variable is a key by another name, but for a key missing inside what it says.
            where = source
        else:
            where = f"{source}: {dotted(key)}" if source else dotted(key)
        return ConfigError(f"{where}: {message}", hint=hint)


def _known_keys(parent: Key) -> list[str]:
    match parent:
        case ():
            return list(Settings.model_fields)
        case ("vote",) | ("models", _, "vote"):
            return list(VoteSettings.model_fields)
        case ("limits",):
            return list(LimitSettings.model_fields)
        case ("keys", _):
            return list(KeySettings.model_fields)
        case (str() as section, _):
            return [field for field in _NAMED[section].model_fields if field != "name"]
    return []


def _suggestion(word: str, known: list[str]) -> str:
    import difflib  # for those who err

    close = difflib.get_close_matches(word[:100], known, n=1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(known) if known else ""


# -- environment and flags ---------------------------------------------------------------------------------------------


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that a value may have: `Literal["a"] | None` gives str and NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


def _scalar_variables() -> dict[str, tuple[Key, set[Any]]]:
    variables: dict[str, tuple[Key, set[Any]]] = {}
    for prefix, model in (((), Settings), (("vote",), VoteSettings), (("limits",), LimitSettings)):
        for field, info in model.model_fields.items():
            kinds = _kinds(info.annotation)
            if kinds <= {bool, int, float, str, Path, type(None)}:
                key: Key = (*prefix, field)
                variables[ENV_PREFIX + "_".join(map(str, key)).upper()] = (key, kinds)
    return variables


_VARIABLES = _scalar_variables()


def _parsed(value: Any, kinds: set[Any]) -> Any:
    """Text as the kind that its key wants. What cannot be read stays text: validation then says what it should be."""
    if not isinstance(value, str):
        return value
    if bool in kinds:
        word = value.strip().lower()
        return True if word in ("true", "yes", "on", "1") else False if word in ("false", "no", "off", "0") else value
    try:
        if int in kinds:
            return int(value)
        if float in kinds:
            return float(value)
    except ValueError:
        pass
    return value


def _is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes put this here: a Service named its-proxy gives every pod `ITS_PROXY_PORT=tcp://...`."""
    if re.fullmatch(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", variable):
        return True
    return variable.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", text) is not None


def _variable_hint(variable: str) -> str:
    key = variable.removeprefix(ENV_PREFIX).lower()
    if key in Settings.model_fields:
        return f"{key} is set in the file"
    return _suggestion(variable, [CONFIG_VARIABLE, *_VARIABLES])


def _flag(key: Key) -> str:
    match key:
        case ("upstreams", *_) | ("models", _, "upstream"):
            return "--upstream"
        case ("models", _, "checkpoint" | "served_name" as field):
            return "--" + str(field).replace("_", "-")
        case ("models", *_):
            return "--model"
        case ("roots", *_):
            return "--checkpoint-root"
    return "--" + "-".join(map(str, key)).replace("_", "-")


# -- checks of one part against another --------------------------------------------------------------------------------

_Conflict: TypeAlias = tuple[Key, str, str]
"""(the key at fault, what is wrong, one line of advice)"""


def _conflicts(settings: Settings, environ: Mapping[str, str]) -> Iterator[_Conflict]:
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


def _model_conflicts(settings: Settings) -> Iterator[_Conflict]:
    for model in settings.models:
        key: Key = ("models", model.name)
        for index, upstream in enumerate(model.upstreams):
            if upstream not in settings.upstreams:
                hint = _suggestion(upstream, list(settings.upstreams)) or "no upstream is configured"
                yield (*key, "upstream"), f"no upstream is named {upstream!r}", hint
            elif upstream in model.upstreams[:index]:
                yield (*key, "upstream"), f"{upstream!r} is listed twice", ""
        if model.upstream is None and model.checkpoint is None:
            hint = "name its upstream, or the checkpoint that the embedded engine serves"
            yield key, "has neither an upstream nor a checkpoint", hint


def _ensemble_conflicts(settings: Settings) -> Iterator[_Conflict]:
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
                yield place, f"no model is named {member!r}", _suggestion(member, list(models))
            elif member in members[:index]:
                yield place, f"{member!r} is listed twice", ""


def _alias_conflicts(settings: Settings) -> Iterator[_Conflict]:
    names = dict.fromkeys([*(m.name for m in settings.models), *(e.name for e in settings.ensembles)])
    for alias in settings.aliases:
        key: Key = ("aliases", alias.name)
        if alias.name in names:
            yield key, "is also the name of a model or an ensemble", "clients see one list of names"
        for name in alias.models:
            if name not in names:
                yield (*key, "models", name), f"no model is named {name!r}", _suggestion(name, list(names))
        if not any(alias.models.values()):
            yield (*key, "models"), "every weight is 0, so nobody would answer", ""


def _limit_conflicts(settings: Settings) -> Iterator[_Conflict]:
    counts: list[tuple[Key, int | None]] = [(("vote", "n"), settings.vote.n)]
    counts += [(("models", model.name, "vote", "n"), model.vote.n) for model in settings.models if model.vote]
    counts += [(("ensembles", ensemble.name, "n"), ensemble.n) for ensemble in settings.ensembles]
    source = settings._sources.get(("max_n",), "default")
    for key, n in counts:
        if n is not None and n > settings.max_n:
            yield key, f"{n} is above max_n, {settings.max_n} ({source})", "raise max_n or lower n"
    votes: list[tuple[Key, VoteSettings]] = [(("vote",), settings.vote)]
    votes += [(("models", model.name, "vote"), settings.vote_for(model)) for model in settings.models if model.vote]
    for place, vote in votes:
        most = vote.n or settings.max_n
        if vote.min_n is not None and vote.min_n > most:
            yield (*place, "min_n"), f"{vote.min_n} is above n, {most}", "under pressure n only shrinks"


def _key_conflicts(settings: Settings, environ: Mapping[str, str]) -> Iterator[_Conflict]:
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
