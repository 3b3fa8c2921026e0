"""What can be set: frozen objects, each key with its default and, above it, the line that the reference shows of it."""

import re
import unicodedata
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

from its_proxy.codesign.errors import ConfigError
from its_proxy.dotted import Key
from its_proxy.voting.answers import AnswerKind
from its_proxy.voting.stop import StopName

Right: TypeAlias = Literal["force", "explain", "candidates", "front"]


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


class Frozen(BaseModel):
    # Strict: "8080" is no port and 1 is no switch. Text from the environment is parsed before it comes here.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class UpstreamSettings(Frozen):
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


class VoteSettings(Frozen):
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


class LimitSettings(Frozen):
    """How much runs and waits at once, of all callers together; docs/limits.md says what to set."""

    # Candidates in flight; by default 512 for each upstream, or max_queue before the embedded engine alone.
    # What one upstream may get is its own max_connections.
    candidates: Count | None = None
    # Requests that wait for room, and for how long.
    queue: Annotated[int, Field(ge=0)] = 128
    queue_s: Seconds = 10


class ModelSettings(Frozen):
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


class EnsembleSettings(Frozen):
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


class AliasSettings(Frozen):
    """A public name that stands for models by weight; `sticky` says what keeps a caller at one of them.

    `query`: the first user turn, so that a conversation stays where it began. `user`: the request's `user`,
    else the key. Weight 0 sends nothing and keeps the model ready.
    """

    name: PublicName
    # Models, or ensembles, and the weight of each.
    models: Annotated[dict[str, Annotated[int, Field(ge=0, le=1_000_000)]], Field(min_length=1)]
    # What keeps a caller at one of them.
    sticky: Literal["query", "user", "key", "none"] = "query"


class KeySettings(Frozen):
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


class Settings(Frozen):
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

    def source_of(self, key: Key) -> str:
        """Where a value was said: `default`, `its.yaml:17`, a variable or a flag."""
        return self._sources.get(key, "default")

    def vote_for(self, model: ModelSettings) -> VoteSettings:
        """The vote settings of one model: its own keys over the common ones."""
        if model.vote is None:
            return self.vote
        return self.vote.model_copy(update={key: getattr(model.vote, key) for key in model.vote.model_fields_set})


# Sections of the file that are mappings of names.
NAMED: dict[str, type[Frozen]] = {
    "upstreams": UpstreamSettings,
    "models": ModelSettings,
    "ensembles": EnsembleSettings,
    "aliases": AliasSettings,
}
