"""Builds the settings: defaults < file < environment < flags, and for every value where it was said last."""

import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    ValidationError,
)

from its_proxy.codesign.errors import ConfigError
from its_proxy.dotted import Key, dotted
from its_proxy.settings.conflicts import conflicts, suggestion
from its_proxy.settings.objects import NAMED, Frozen, KeySettings, LimitSettings, Settings, VoteSettings

ENV_PREFIX = "ITS_PROXY_"
CONFIG_VARIABLE = "ITS_PROXY_CONFIG"
QUICK_UPSTREAM = "default"
"""The name of the upstream that flags alone describe."""
_SHAPES = {
    "upstreams": "such as  gpu: {url: http://gpu:8000/v1}",
    "models": "such as  llama: {upstream: gpu}",
    "ensembles": "such as  both: {members: [one, two]}",
    "aliases": "such as  best: {models: {new: 5, old: 95}}",
    "vote": "such as  vote: {n: 8}",
    "limits": "such as  limits: {candidates: 1024}",
}


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
    for key, message, hint in conflicts(settings, environ):
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
    return [(dotted(key), value, settings.source_of(key)) for key, value in _leaves((), settings)]


def _leaves(key: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, VoteSettings) and len(key) > 1:
        # In a model only the keys that it names are in force.
        yield from (((*key, field), part) for field, part in value if field in value.model_fields_set)
    elif isinstance(value, Frozen):
        for field in type(value).model_fields:
            if not (field == "name" and key[0] in NAMED):
                yield from _leaves((*key, field), getattr(value, field))
    elif isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves((*key, name), part)
    elif isinstance(value, tuple) and value and isinstance(value[0], Frozen):
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
        for section in NAMED:
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
            if variable not in VARIABLES:
                raise ConfigError(f"{variable}: unknown variable", hint=_variable_hint(variable))
            if text:
                key, kinds = VARIABLES[variable]
                self.put(key, _parsed(text, kinds), variable)

    def _secret_variables(self) -> Iterator[str]:
        keys = self.values.get("keys")
        holders = [(part, "env") for part in keys] if isinstance(keys, list) else []
        holders += [(part, "key_env") for part in self.values.get("upstreams", {}).values()]
        for part, field in holders:
            if isinstance(part, dict) and isinstance(part.get(field), str):
                yield part[field]

    def overlay_flags(self, flags: Mapping[str, Any]) -> None:
        kinds_by_key = dict(VARIABLES.values())
        n_checkpoints = 0
        for flag, value in flags.items():
            key: Key = tuple(flag.split("."))
            if flag in NAMED and isinstance(value, Mapping):
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
            return self.error(key, "unknown key", suggestion(str(key[-1]), _known_keys(key[:-1])))
        if error["type"] == "missing":
            return self.error(key, "is missing")
        if error["type"] == "value_error":
            return self.error(key, str(error["ctx"]["error"]))
        return self.error(key, re.sub(r"^\w+ (?=should )", "", error["msg"]))

    def error(self, key: Key, message: str, hint: str = "") -> ConfigError:
        """Names the key, and where it or the nearest key around it was said."""
        source = next((self.sources[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.sources), "")
        if source.startswith("--") or source in VARIABLES:
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
            return [field for field in NAMED[section].model_fields if field != "name"]
    return []


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


VARIABLES = _scalar_variables()


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
    return suggestion(variable, [CONFIG_VARIABLE, *VARIABLES])


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
