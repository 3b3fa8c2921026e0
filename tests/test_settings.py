import re
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

import its_proxy.settings as module
from its_proxy.codesign.errors import ConfigError
from its_proxy.settings import Settings, effective, load_settings, quick_model
from its_proxy.settings.layers import VARIABLES

DIGEST = sha256(b"a key").hexdigest()

TWO_MODELS = """\
upstreams:
  gpu: {url: http://gpu:8000/v1}
models:
  big: {upstream: gpu, checkpoint: checkpoints/big}
  small: {upstream: gpu, served_name: org/small, vote: {n: 4}}
"""


def settings_of(folder: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    """The settings of a file `its.yaml` with this text; flags by keyword, `vote__n` for `vote.n`."""
    file = folder / "its.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ or {}, {name.replace("__", "."): value for name, value in flags.items()})


def refusal(folder: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> str:
    """The one line that refuses this file; fails when the file is accepted."""
    with pytest.raises(ConfigError) as refused:
        settings_of(folder, text, environ, **flags)
    line = str(refused.value)
    assert "\n" not in line
    return line


# -- layers ------------------------------------------------------------------------------------------------------------


def test_without_any_layer_the_defaults_serve_the_demo_on_loopback():
    settings = load_settings(None, {}, {})
    assert (settings.host, settings.port, settings.demo, settings.max_n) == ("127.0.0.1", 8080, True, 16)
    assert settings.models == ()
    assert settings.upstreams == {}
    assert settings.strict is False


def test_an_empty_file_and_one_of_comments_change_nothing(tmp_path):
    assert settings_of(tmp_path, "").model_dump() == Settings().model_dump()
    assert settings_of(tmp_path, "# nothing yet\n").model_dump() == Settings().model_dump()


def test_the_file_overrides_defaults_the_environment_the_file_and_flags_all(tmp_path):
    text, environ = "port: 1\n", {"ITS_PROXY_PORT": "2"}
    assert settings_of(tmp_path, text).port == 1
    assert settings_of(tmp_path, text, environ).port == 2
    assert settings_of(tmp_path, text, environ, port=3).port == 3


def test_layers_meet_inside_vote_key_by_key(tmp_path):
    settings = settings_of(tmp_path, "vote: {n: 2, mode: always}", {"ITS_PROXY_VOTE_N": "3"}, vote__quorum=0.25)
    assert (settings.vote.n, settings.vote.mode, settings.vote.quorum) == (3, "always", 0.25)


def test_a_flag_that_is_none_and_an_empty_variable_count_as_not_given(tmp_path):
    assert settings_of(tmp_path, "port: 1\n", {"ITS_PROXY_PORT": ""}, port=None).port == 1


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("ITS_PROXY_HOST", "::1", "host", "::1"),
        ("ITS_PROXY_PORT", "9000", "port", 9000),
        ("ITS_PROXY_MAX_N", "8", "max_n", 8),
        ("ITS_PROXY_MAX_BODY_BYTES", "1024", "max_body_bytes", 1024),
        ("ITS_PROXY_THREADS", "2", "threads", 2),
        ("ITS_PROXY_STRICT", "true", "strict", True),
        ("ITS_PROXY_ALLOW_FORCE", "0", "allow_force", False),
        ("ITS_PROXY_LOG_LEVEL", "debug", "log_level", "debug"),
        ("ITS_PROXY_DRAIN_S", "0.5", "drain_s", 0.5),
        ("ITS_PROXY_VOTE_N", "4", "vote.n", 4),
        ("ITS_PROXY_VOTE_MODE", "off", "vote.mode", "off"),
        ("ITS_PROXY_VOTE_STOP", "beta", "vote.stop", "beta"),
        ("ITS_PROXY_VOTE_FIRST", "auto", "vote.first", "auto"),
        ("ITS_PROXY_VOTE_FIRST", "5", "vote.first", 5),
        ("ITS_PROXY_VOTE_ANSWER", "tool_calls", "vote.answer", "tool_calls"),
        ("ITS_PROXY_VOTE_USAGE_POLICY", "exact", "vote.usage_policy", "exact"),
        ("ITS_PROXY_VOTE_MIN_AGREEMENT", "0.5", "vote.min_agreement", 0.5),
        ("ITS_PROXY_VOTE_DEADLINE_S", "30", "vote.deadline_s", 30),
    ],
)
def test_a_variable_is_parsed_as_its_key_wants(variable, text, key, value):
    rows = {row[0]: row[1:] for row in effective(load_settings(None, {variable: text}, {}))}
    assert rows[key] == (value, variable)


def test_every_scalar_of_the_top_level_of_vote_and_of_limits_has_a_variable():
    sections = {"upstreams", "models", "ensembles", "aliases", "keys", "vote", "limits", "strategies", "roots"}
    expected = {"ITS_PROXY_" + key.upper() for key in set(Settings.model_fields) - sections}
    expected |= {"ITS_PROXY_VOTE_" + key.upper() for key in type(Settings().vote).model_fields}
    expected |= {"ITS_PROXY_LIMITS_" + key.upper() for key in type(Settings().limits).model_fields}
    assert set(VARIABLES) == expected


def test_the_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


# -- the shape of the file ---------------------------------------------------------------------------------------------


def test_the_example_of_the_docstring_loads(tmp_path):
    example = module.__doc__.split("\n\n")[1]
    settings = settings_of(tmp_path, example, {"GPU_KEY": "g", "FRONT_KEY": "f"})
    assert [model.name for model in settings.models] == ["qwen-random", "qwen-similar", "llama"]
    assert [model.served_name for model in settings.models] == ["qwen@{pair}", "qwen-similar", "meta/llama-3"]
    assert settings.ensembles[0].members == ("qwen-random", "qwen-similar")
    assert settings.keys[0].rights == {"explain", "candidates"}
    assert settings.keys[1].digest({"FRONT_KEY": "f"}) == sha256(b"f").hexdigest()
    assert settings.demo is False


def test_a_checkpoint_is_found_relative_to_the_file_and_a_flag_relative_to_here(tmp_path):
    assert settings_of(tmp_path, TWO_MODELS).models[0].checkpoint == tmp_path / "checkpoints/big"
    absolute = settings_of(tmp_path, "models: {m: {checkpoint: /models/m}}")
    assert absolute.models[0].checkpoint == Path("/models/m")
    assert load_settings(None, {}, quick_model(None, "m", "there/m", None)).models[0].checkpoint == Path("there/m")


def test_a_model_overrides_only_the_vote_keys_that_it_names(tmp_path):
    settings = settings_of(tmp_path, TWO_MODELS + "vote: {n: 8, deadline_s: 30}\n")
    big, small = settings.models
    assert (settings.vote_for(big).n, settings.vote_for(big).deadline_s) == (8, 30)
    assert (settings.vote_for(small).n, settings.vote_for(small).deadline_s) == (4, 30)


def test_anchors_and_merges_work_and_own_keys_win(tmp_path):
    text = "upstreams: {gpu: {url: http://gpu/v1}}\nmodels:\n"
    text += "  a: &a {upstream: gpu, vote: {n: 4}, handshake: require}\n  b:\n    <<: *a\n    vote: {n: 2}\n"
    a, b = settings_of(tmp_path, text).models
    assert (a.vote.n, b.vote.n, b.handshake, b.upstream) == (4, 2, "require", "gpu")


def test_of_two_merged_mappings_the_first_wins_as_in_safe_load(tmp_path):
    text = "upstreams:\n  a: &a {url: http://a/v1, max_connections: 1}\n  b: &b {url: http://b/v1, idle_timeout_s: 9}\n"
    text += "  c: {<<: [*a, *b]}\n"
    settings = settings_of(tmp_path, text)
    expected = yaml.safe_load(text)["upstreams"]["c"]
    assert settings.upstreams["c"].model_dump(exclude_unset=True) == expected
    assert expected["url"] == "http://a/v1"


def test_an_empty_section_is_no_section(tmp_path):
    text = "upstreams:\nmodels:\nensembles:\nkeys:\nstrategies:\nvote:\n"
    assert settings_of(tmp_path, text).model_dump() == Settings().model_dump()


def test_a_model_that_is_only_a_name_may_stand_empty_but_needs_something_to_serve_it(tmp_path):
    line = refusal(tmp_path, "models:\n  ghost:\n")
    assert line.startswith("its.yaml:2: models.ghost: has neither an upstream nor a checkpoint")


@pytest.mark.parametrize("key", ["mode", "equivalence"])
def test_off_needs_no_quotes_though_to_yaml_it_is_no_word(tmp_path, key):
    settings = settings_of(tmp_path, f"vote: {{{key}: off}}")
    assert getattr(settings.vote, key) == "off"


def test_a_whole_number_is_a_fine_duration(tmp_path):
    assert settings_of(tmp_path, "vote: {deadline_s: 30}").vote.deadline_s == 30


def test_the_url_keeps_its_path_and_loses_its_last_slash(tmp_path):
    settings = settings_of(tmp_path, "upstreams: {gpu: {url: 'https://gpu:8000/team/v1/'}}")
    assert settings.upstreams["gpu"].url == "https://gpu:8000/team/v1"


# -- refusals: key and line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("host: a\nprot: 1\n", "its.yaml:2: prot: unknown key (did you mean port?)"),
        ("zzz: 1\n", "its.yaml:1: zzz: unknown key (known: host, port,"),
        ("port: 70000\n", "its.yaml:1: port: should be less than or equal to 65535"),
        ("port: -1\n", "its.yaml:1: port: should be greater than or equal to 0"),
        ("port: '8080'\n", "its.yaml:1: port: should be a valid integer"),
        ("port: true\n", "its.yaml:1: port: should be a valid integer"),
        ("port:\n", "its.yaml:1: port: should be a valid integer"),
        ("strict: 1\n", "its.yaml:1: strict: should be a valid boolean"),
        ("host: ''\n", "its.yaml:1: host: should have at least 1 character"),
        ("max_n: 0\n", "its.yaml:1: max_n: should be greater than or equal to 1"),
        ("max_n: 1025\n", "its.yaml:1: max_n: should be less than or equal to 1024"),
        ("drain_s: .inf\n", "its.yaml:1: drain_s: should be a finite number"),
        ("log_level: loud\n", "its.yaml:1: log_level: should be 'debug', 'info', 'warning' or 'error'"),
        ("strategies: mine\n", "its.yaml:1: strategies: should be a valid tuple"),
        ("vote: 4\n", "its.yaml:1: vote: should be a mapping (such as  vote: {n: 8})"),
        ("vote:\n  n: 4\n  mod: off\n", "its.yaml:3: vote.mod: unknown key (did you mean mode?)"),
        ("vote:\n  mode: sometimes\n", "its.yaml:2: vote.mode: should be 'auto', 'always' or 'off'"),
        ("vote:\n  min_agreement: 0\n", "its.yaml:2: vote.min_agreement: should be greater than 0"),
        ("vote:\n  min_agreement: 1.5\n", "its.yaml:2: vote.min_agreement: should be less than or equal to 1"),
        ("vote:\n  quorum: 2\n", "its.yaml:2: vote.quorum: should be less than or equal to 1"),
        ("vote:\n  n: 17\n", "its.yaml:2: vote.n: 17 is above max_n, 16 (default)"),
        ("max_n: 2\nvote:\n  n: 3\n", "its.yaml:3: vote.n: 3 is above max_n, 2 (its.yaml:1)"),
        ("models: [a]\n", "its.yaml:1: models: should be a mapping (such as"),
        ("models:\n  a: gpu\n", "its.yaml:2: models.a: should be a mapping of settings"),
        ("upstreams:\n  g:\n    ulr: http://gpu/v1\n", "its.yaml:3: upstreams.g.ulr: unknown key (did you mean url?)"),
        ("upstreams:\n  gpu:\n", "its.yaml:2: upstreams.gpu.url: is missing"),
        ("keys:\n  - env: A\n", "its.yaml:2: keys[0].name: is missing"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_line(tmp_path, text, beginning):
    assert refusal(tmp_path, text).startswith(beginning)


@pytest.mark.parametrize(
    ("fields", "beginning"),
    [
        ("name: b", "its.yaml:5: models.m.name: unknown key (the key above is the name)"),
        ("vote: {n: 0}", "its.yaml:5: models.m.vote.n: should be greater than or equal to 1"),
        ("vote: {n: 17}", "its.yaml:5: models.m.vote.n: 17 is above max_n"),
        ("vote: {nn: 1}", "its.yaml:5: models.m.vote.nn: unknown key (did you mean n?)"),
        ("handshake: maybe", "its.yaml:5: models.m.handshake: should be 'require' or 'serve'"),
        ("chekpoint: x", "its.yaml:5: models.m.chekpoint: unknown key (did you mean checkpoint?)"),
        ("upstream: gpy", "its.yaml:5: models.m.upstream: no upstream is named 'gpy' (did you mean gpu?)"),
    ],
)
def test_a_bad_model_is_refused_with_its_key_and_line(tmp_path, fields, beginning):
    text = f"upstreams:\n  gpu: {{url: http://gpu/v1}}\nmodels:\n  m:\n    {fields}\n"
    assert refusal(tmp_path, text).startswith(beginning)


@pytest.mark.parametrize("name", ["m:its-8", "m:its-off", "M:ITS-4"])
def test_a_model_name_that_reads_as_an_override_is_refused(tmp_path, name):
    line = refusal(tmp_path, f"models:\n  '{name}': {{checkpoint: m}}\n")
    assert line.startswith(f"its.yaml:2: models['{name}']: should not end in ':its-...'")


@pytest.mark.parametrize("name", ["", " m", "m" * 201, "a\\nb", "a\\x7fb", "a\\u200bb"])
def test_a_name_that_cannot_be_a_model_field_is_refused(tmp_path, name):
    assert refusal(tmp_path, f'models:\n  "{name}": {{checkpoint: m}}\n').startswith("its.yaml:2: models")


def test_usual_model_names_are_fine(tmp_path):
    names = ["org/model-7B.v2", "llama3:8b", "ÄÖ 模型", "m@0123abcd", "m:its"]
    settings = settings_of(tmp_path, "models:\n" + "".join(f"  '{name}': {{checkpoint: m}}\n" for name in names))
    assert [model.name for model in settings.models] == names


ENSEMBLES = TWO_MODELS + "ensembles:\n  both: {members: [big, small]}\n"


@pytest.mark.parametrize(
    ("line", "beginning"),
    [
        ("big: {members: [big, small]}", "its.yaml:8: ensembles.big: is also the name of a model"),
        ("all: {members: [big]}", "its.yaml:8: ensembles.all.members: should have at least 2 items"),
        ("all: {members: [big, smal]}", "its.yaml:8: ensembles.all.members[1]: no model is named 'smal' (did you mean"),
        ("all: {members: [big, both]}", "its.yaml:8: ensembles.all.members[1]: 'both' is an ensemble itself"),
        ("all: {members: [big, big]}", "its.yaml:8: ensembles.all.members[1]: 'big' is listed twice"),
        ("all: {members: [big, small], n: 17}", "its.yaml:8: ensembles.all.n: 17 is above max_n"),
    ],
)
def test_a_bad_ensemble_is_refused_with_its_key_and_line(tmp_path, line, beginning):
    assert refusal(tmp_path, f"{ENSEMBLES}  {line}\n").startswith(beginning)


@pytest.mark.parametrize(
    "url", ["gpu:8000", "ftp://gpu/v1", "http://", "http://gpu:99999/v1", "http://gpu/v1?key=hunter2", "http://g pu/v1"]
)
def test_an_upstream_that_is_no_plain_http_address_is_refused(tmp_path, url):
    line = refusal(tmp_path, f"upstreams:\n  gpu:\n    url: '{url}'\n")
    assert line.startswith("its.yaml:3: upstreams.gpu.url: should be an http:// or https:// address")
    assert "hunter2" not in line


def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path):
    line = refusal(tmp_path, "upstreams:\n  gpu: {url: 'http://me:hunter2@gpu/v1'}\n")
    assert line.startswith("its.yaml:2: upstreams.gpu.url: should not carry credentials")
    assert "hunter2" not in line


def test_two_problems_are_told_by_the_unknown_key_first(tmp_path):
    assert "did you mean url?" in refusal(tmp_path, "upstreams: {gpu: {uri: http://gpu/v1}}")


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "gpu.example", "127.1"])
def test_a_host_open_to_others_without_keys_is_refused_with_the_way_to_make_one(tmp_path, host):
    line = refusal(tmp_path, f"port: 1\nhost: '{host}'\n")
    assert line.startswith(f"its.yaml:2: host: '{host}' is open to others, and no keys are configured")
    assert "hashlib.sha256(key.encode()).hexdigest()" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_a_loopback_host_needs_no_keys(tmp_path, host):
    assert settings_of(tmp_path, f"host: '{host}'\n").host == host


def test_a_host_open_to_others_with_a_key_is_served(tmp_path):
    settings = settings_of(tmp_path, f"host: 0.0.0.0\nkeys:\n  - {{name: a, sha256: {DIGEST.upper()}}}\n")
    assert settings.keys[0].digest({}) == DIGEST


@pytest.mark.parametrize(
    ("key", "beginning"),
    [
        ("{name: a}", "its.yaml:2: keys[0]: should hold exactly one of sha256"),
        (f"{{name: a, sha256: {DIGEST}, env: A}}", "its.yaml:2: keys[0]: should hold exactly one of sha256"),
        ("{name: a, sha256: sk-hunter2}", "its.yaml:2: keys[0].sha256: should be the sha256 of the key"),
        ("{name: a, env: sk-hunter2}", "its.yaml:2: keys[0].env: should be the name of an environment variable"),
        ("{name: a, env: hunter2}", "its.yaml:2: keys[0].env: the variable that it names is not set or empty"),
        ("{name: a, env: EMPTY}", "its.yaml:2: keys[0].env: the variable that it names is not set or empty"),
        ("{name: a, env: A, rights: [fly]}", "its.yaml:2: keys[0].rights[0]: should be 'force', 'explain'"),
        ("{name: a, env: A, right: [force]}", "its.yaml:2: keys[0].right: unknown key (did you mean rights?)"),
        ("{name: a, env: A}\n  - {name: a, env: B}", "its.yaml:3: keys[1].name: 'a' is listed twice"),
        ("{name: a, env: A}\n  - {name: b, env: A}", "its.yaml:3: keys[1]: is the same key as 'a'"),
    ],
)
def test_a_bad_key_is_refused_without_repeating_it(tmp_path, key, beginning):
    line = refusal(tmp_path, f"keys:\n  - {key}\n", {"A": "one", "B": "two", "EMPTY": ""})
    assert line.startswith(beginning)
    assert "hunter2" not in line


def test_an_upstream_key_comes_from_a_variable_that_is_set(tmp_path):
    text = "upstreams:\n  gpu: {url: http://gpu/v1, key_env: GPU_KEY}\n"
    assert settings_of(tmp_path, text, {"GPU_KEY": "secret"}).upstreams["gpu"].key_env == "GPU_KEY"
    assert refusal(tmp_path, text).startswith("its.yaml:2: upstreams.gpu.key_env: the variable that it names is not")
    pasted = refusal(tmp_path, text.replace("GPU_KEY", "sk-hunter2"))
    assert pasted.startswith("its.yaml:2: upstreams.gpu.key_env: should be the name of")
    assert "hunter2" not in pasted


# -- refusals: variables and flags -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "beginning"),
    [
        ("ITS_PROXY_PORT", "http", "ITS_PROXY_PORT: should be a valid integer"),
        ("ITS_PROXY_PORT", "70000", "ITS_PROXY_PORT: should be less than or equal to 65535"),
        ("ITS_PROXY_STRICT", "perhaps", "ITS_PROXY_STRICT: should be a valid boolean"),
        ("ITS_PROXY_DRAIN_S", "nan", "ITS_PROXY_DRAIN_S: should be"),
        ("ITS_PROXY_VOTE_N", "9" * 5000, "ITS_PROXY_VOTE_N: should be a valid integer"),
        ("ITS_PROXY_HOST", "0.0.0.0", "ITS_PROXY_HOST: '0.0.0.0' is open to others"),
        ("ITS_PROXY_PROT", "1", "ITS_PROXY_PROT: unknown variable (did you mean ITS_PROXY_PORT?)"),
        ("ITS_PROXY_MODELS", "a", "ITS_PROXY_MODELS: unknown variable (models is set in the file)"),
        ("ITS_PROXY_DEMO", "no", "ITS_PROXY_DEMO: nothing to serve"),
    ],
)
def test_a_bad_variable_is_refused_by_its_name(variable, text, beginning):
    with pytest.raises(ConfigError, match="^" + re.escape(beginning)):
        load_settings(None, {variable: text}, {})


def test_the_variable_of_the_file_itself_and_foreign_ones_are_accepted():
    settings = load_settings(None, {"ITS_PROXY_CONFIG": "its.yaml", "ITS_TEST_DATA": "x", "PATH": "y"}, {})
    assert settings.model_dump() == Settings().model_dump()


def test_a_variable_that_the_file_names_for_a_key_may_carry_our_prefix(tmp_path):
    text = "keys: [{name: a, env: ITS_PROXY_KEY_A}]\nupstreams: {gpu: {url: http://g/v1, key_env: ITS_PROXY_GPU}}\n"
    settings = settings_of(tmp_path, text, {"ITS_PROXY_KEY_A": "one", "ITS_PROXY_GPU": "two"})
    assert settings.keys[0].env == "ITS_PROXY_KEY_A"


def test_variables_that_kubernetes_sets_for_a_service_called_its_proxy_are_passed_over():
    links = {
        "ITS_PROXY_SERVICE_HOST": "10.0.0.1",
        "ITS_PROXY_SERVICE_PORT": "8080",
        "ITS_PROXY_SERVICE_PORT_HTTP": "8080",
        "ITS_PROXY_PORT": "tcp://10.0.0.1:8080",
        "ITS_PROXY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "ITS_PROXY_PORT_8080_TCP_ADDR": "10.0.0.1",
        "ITS_PROXY_CANARY_PORT": "tcp://10.0.0.2:8080",
    }
    assert load_settings(None, links, {}).port == 8080


@pytest.mark.parametrize(
    ("flags", "beginning"),
    [
        ({"port": 70000}, "--port: should be less than or equal to 65535"),
        ({"max_n": 0}, "--max-n: should be greater than or equal to 1"),
        ({"vote.n": 17}, "--vote-n: 17 is above max_n, 16 (default)"),
        ({"vote.n": 4, "max_n": 3}, "--vote-n: 4 is above max_n, 3 (--max-n)"),
        ({"prot": 1}, "--prot: unknown key (did you mean port?)"),
        ({"host": "0.0.0.0"}, "--host: '0.0.0.0' is open to others"),
        (quick_model("gpu", None, None, None), "--upstream: should be an http:// or https:// address"),
        (quick_model(None, "m", None, None), "--model: has neither an upstream nor a checkpoint"),
        (quick_model("http://gpu/v1", "m:its-8", None, None), "--model: should not end in ':its-...'"),
        (quick_model("http://gpu/v1", "m", None, "a\nb"), "--served-name: should not hold control"),
        (quick_model("http://gpu/v1", "m", None, None) | {"demo": True}, "--demo: the demo serves only where no model"),
    ],
)
def test_a_bad_flag_is_refused_by_its_name(flags, beginning):
    with pytest.raises(ConfigError, match="^" + re.escape(beginning)):
        load_settings(None, {}, flags)


# -- the short way to one model ----------------------------------------------------------------------------------------


def test_upstream_checkpoint_and_model_make_one_strict_model():
    settings = load_settings(None, {}, quick_model("http://gpu:8000/v1", "m", "runs/m", "org/m"))
    assert settings.upstreams["default"].url == "http://gpu:8000/v1"
    (model,) = settings.models
    assert (model.name, model.upstream, model.served_name) == ("m", "default", "org/m")
    assert settings.strict is True
    assert settings.demo is False


def test_an_upstream_alone_passes_everything_through():
    settings = load_settings(None, {}, quick_model("http://gpu:8000/v1", None, None, None))
    assert list(settings.upstreams) == ["default"]
    assert settings.models == ()
    assert settings.strict is False
    assert settings.demo is False


def test_a_checkpoint_alone_is_embedded_under_its_folders_name(tmp_path):
    settings = load_settings(None, {}, quick_model(None, None, tmp_path / "qwen-random", None))
    assert (settings.models[0].name, settings.models[0].upstream) == ("qwen-random", None)


def test_nothing_quick_is_nothing_and_a_served_name_needs_its_model():
    assert quick_model(None, None, None, None) == {}
    with pytest.raises(ConfigError, match=r"^--served-name: needs --model"):
        quick_model("http://gpu/v1", None, None, "org/m")


@pytest.mark.parametrize(("environ", "flags"), [({"ITS_PROXY_STRICT": "no"}, {}), ({}, {"strict": False})])
def test_any_layer_may_say_that_one_checkpoint_is_not_strict(environ, flags):
    quick = quick_model("http://gpu/v1", "m", "runs/m", None)
    assert load_settings(None, environ, {**quick, **flags}).strict is False
    assert load_settings(None, {}, {**quick, "strict": None}).strict is True


def test_a_quick_model_joins_those_of_the_file_and_meets_one_of_the_same_name(tmp_path):
    file = tmp_path / "its.yaml"
    file.write_text(TWO_MODELS)
    settings = load_settings(file, {}, quick_model("http://other/v1", "small", "runs/small", None))
    big, small = settings.models
    assert (big.upstream, small.upstream, small.served_name) == ("gpu", "default", "org/small")
    assert sorted(settings.upstreams) == ["default", "gpu"]


# -- what is in force --------------------------------------------------------------------------------------------------


def test_effective_tells_where_each_value_comes_from(tmp_path):
    settings = settings_of(tmp_path, TWO_MODELS, {"ITS_PROXY_MAX_N": "8"}, port=9000)
    rows = {key: (value, source) for key, value, source in effective(settings)}
    assert rows["host"] == ("127.0.0.1", "default")
    assert rows["max_n"] == (8, "ITS_PROXY_MAX_N")
    assert rows["port"] == (9000, "--port")
    assert rows["upstreams.gpu.url"] == ("http://gpu:8000/v1", "its.yaml:2")
    assert rows["upstreams.gpu.max_connections"] == (1024, "default")
    assert rows["models.big.checkpoint"] == (str(tmp_path / "checkpoints/big"), "its.yaml:4")
    assert rows["models.small.vote.n"] == (4, "its.yaml:5")
    assert "models.small.vote.mode" not in rows
    assert rows["vote.mode"] == ("auto", "default")
    assert rows["ensembles"] == ((), "default")


def test_effective_never_shows_a_key_nor_its_whole_digest(tmp_path):
    text = f"keys:\n  - {{name: a, sha256: {DIGEST}}}\n  - {{name: b, env: B_KEY}}\n"
    rows = effective(settings_of(tmp_path, text, {"B_KEY": "hunter2"}))
    shown = repr(rows)
    assert DIGEST not in shown
    assert "hunter2" not in shown
    assert ("keys[0].sha256", DIGEST[:8] + "…", "its.yaml:2") in rows
    assert ("keys[1].env", "B_KEY", "its.yaml:3") in rows
    assert ("keys[1].rights", ["candidates", "explain"], "default") in rows


def test_a_merged_value_is_shown_with_the_line_that_wrote_it(tmp_path):
    text = "upstreams: {gpu: {url: http://gpu/v1}}\nmodels:\n  a: &a\n    upstream: gpu\n  b: {<<: *a}\n"
    rows = {key: source for key, _, source in effective(settings_of(tmp_path, text))}
    assert rows["models.b.upstream"] == "its.yaml:4"


# -- any file ----------------------------------------------------------------------------------------------------------


KEYS = st.one_of(
    st.sampled_from(["models", "upstreams", "ensembles", "keys", "vote", "n", "url", "name", "members", "checkpoint"]),
    st.text(max_size=3),
    st.none(),
    st.integers(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(st.one_of(st.sampled_from(list(Settings.model_fields)), KEYS), VALUES, max_size=4))
@hypothesis_settings(max_examples=100, deadline=None)
def test_whatever_a_file_holds_it_loads_or_is_refused_in_one_line(tmp_path_factory, values):
    file = tmp_path_factory.getbasetemp() / "its.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    try:
        said = effective(load_settings(file, {}, {}))[0][0]
    except ConfigError as refused:
        said = str(refused)
    assert re.fullmatch(r"host|its\.yaml:\d+.*", said)


def test_twenty_models_load_within_a_second(tmp_path):
    models = "".join(f"  m{k}: {{upstream: gpu, checkpoint: m{k}, vote: {{n: 4}}}}\n" for k in range(20))
    start = time.process_time()
    settings = settings_of(tmp_path, "upstreams: {gpu: {url: http://gpu/v1}}\nmodels:\n" + models)
    assert len(settings.models) == 20
    assert time.process_time() - start < 1
