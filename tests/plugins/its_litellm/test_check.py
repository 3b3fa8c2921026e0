"""`python -m its_litellm`: one line for each mistake in a LiteLLM configuration, before LiteLLM is started."""

import subprocess
import sys

import pytest
import yaml

from its_litellm.__main__ import problems
from its_litellm.versions import require_tested
from its_proxy.codesign.errors import ConfigError
from tests.command import ROOT
from tests.serving import manifest, write_checkpoint

MAP = {"custom_provider_map": [{"provider": "its", "custom_handler": "its_litellm.handler"}]}


@pytest.fixture(autouse=True)
def tested_version(monkeypatch):
    """LiteLLM is not installed beside these tests."""
    monkeypatch.setattr("its_litellm.versions.version", lambda name: "1.106.2")


@pytest.fixture
def checkpoint(tmp_path):
    return str(write_checkpoint(tmp_path / "checkpoint", manifest("random")))


def deployment(its, name="qwen", model="its/qwen", **params):
    params = {"model": model, "api_base": "http://gpu:8000/v1", **params}
    return {"model_name": name, "litellm_params": params, "model_info": {"its": its} if its else {}}


def problems_of(folder, *deployments, settings=MAP):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"model_list": list(deployments), "litellm_settings": settings}))
    return list(problems(path))


def test_a_configuration_that_holds(tmp_path, checkpoint):
    spread = deployment({"manifest": checkpoint, "targets": ["a", "an id"]}, "spread", "its/spread")
    others = [deployment(None, "a", "hosted_vllm/qwen"), deployment(None, "b", "hosted_vllm/qwen")]
    others[1]["model_info"]["id"] = "an id"
    found = deployment({"roots": [str(tmp_path)]}, "found")
    assert problems_of(tmp_path, deployment({"manifest": checkpoint}), spread, found, *others) == []


@pytest.mark.parametrize(
    ("its", "told"),
    [
        (None, "no model_info.its"),
        ({"manifest": "/nowhere"}, "deployment qwen: /nowhere is not there"),
        ({"manifets": "/nowhere"}, "model_info.its.manifets: unknown key"),
        ({"vote": {"n": 8}}, "model_info.its.members: name a manifest, or members"),
        ({"members": []}, "model_info.its.members"),
        ({"members": [{}]}, "name either a manifest, or roots to look for it in"),
        ({"manifest": "CHECKPOINT", "vote": {"N": 8}}, "model_info.its.vote.N: unknown key"),
        ({"manifest": "CHECKPOINT", "vote": {"n": "8"}}, "model_info.its.vote.n: Input should be a valid integer"),
        ({"manifest": "CHECKPOINT", "vote": {"stop": "early"}}, "model_info.its.vote.stop: Input should be 'exact'"),
        ({"manifest": "CHECKPOINT", "rights": ["root"]}, "model_info.its.rights"),
        ({"manifest": "CHECKPOINT", "targets": ["lost"]}, "there is no deployment 'lost' (model_list has qwen)"),
        ({"members": [{"manifest": "CHECKPOINT", "targets": ["lost"]}]}, "there is no deployment 'lost'"),
        ({"roots": ["/models"], "targets": ["qwen"]}, "roots need api_base"),
        ({"manifest": "CHECKPOINT", "model": "a", "targets": ["qwen"]}, "targets have names of their own"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, checkpoint, its, told):
    its = yaml.safe_load(yaml.safe_dump(its).replace("CHECKPOINT", checkpoint))
    [line] = problems_of(tmp_path, deployment(its))
    assert told in line
    assert "\n" not in line


def test_a_mismatched_manifest_is_named(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", manifest("random", served="none"))
    [line] = problems_of(tmp_path, deployment({"manifest": str(folder)}))
    assert line.startswith("deployment qwen:")
    assert "random" in line
    assert problems_of(tmp_path, deployment({"manifest": str(folder), "force_pair": True})) == []


def test_a_deployment_without_a_server_is_told(tmp_path, checkpoint):
    [line] = problems_of(tmp_path, deployment({"manifest": checkpoint}, api_base=None))
    assert "neither api_base nor targets" in line


@pytest.mark.parametrize("shadow", ["its_litellm.py", "its_litellm"])
def test_what_would_hide_the_package_is_told(tmp_path, checkpoint, shadow):
    (tmp_path / shadow).mkdir() if shadow == "its_litellm" else (tmp_path / shadow).touch()
    [line] = problems_of(tmp_path, deployment({"manifest": checkpoint}))
    assert line == f"{tmp_path / shadow} hides the installed package its_litellm from LiteLLM (rename it)"


def test_a_provider_that_nobody_provides_is_told(tmp_path, checkpoint):
    [line] = problems_of(tmp_path, deployment({"manifest": checkpoint}), settings={})
    assert "custom_provider_map" in line


def test_a_model_that_would_be_asked_plainly_is_told(tmp_path, checkpoint):
    plain = deployment({"manifest": checkpoint}, model="hosted_vllm/qwen")
    [line] = problems_of(tmp_path, plain, settings={})
    assert "callbacks: [its_litellm.rewrite]" in line
    assert problems_of(tmp_path, plain, settings={"callbacks": ["its_litellm.rewrite"]}) == []


def test_an_unreadable_configuration_is_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text("{")
    [line] = problems(tmp_path / "config.yaml")
    assert "cannot be read" in line
    assert "\n" not in line


@pytest.mark.parametrize("version", ["1.106.2", "1.106.9"])
def test_a_tested_litellm(version):
    require_tested(version)


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.106.1", "1.107.0", "2.0.0rc1"])
def test_a_litellm_out_of_range_is_refused_with_the_fix(version):
    with pytest.raises(ConfigError, match=rf"litellm {version} is outside.*pip install 'litellm>=1\.106\.2,<1\.107'"):
        require_tested(version)


def test_the_command_needs_no_litellm_to_be_imported(tmp_path):
    (tmp_path / "config.yaml").write_text("model_list: []")
    done = subprocess.run(
        [sys.executable, "-m", "its_litellm", "config.yaml"],
        cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "its_litellm: litellm is not installed (pip install 'litellm>=1.106.2,<1.107')\n"
