"""Every setting, rendered as kubectl would send it: valid, and put together as its parts mean it to be."""

import re
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from its_proxy.server.build import build_context
from its_proxy.settings import load_settings
from tests.real_deploy.tools import (
    CHART,
    KUBERNETES_VERSION,
    NAMES,
    SETTINGS,
    labels_of,
    objects,
    passed,
    pod_of,
    rendered,
    selects,
    tool,
    values_of,
)

CRDS = Path(__file__).parent / "third_party/prometheus-operator"
KEYS = {"TEAM_KEY": "team", "METRICS_KEY": "metrics", "VLLM_KEY": "vllm"}
EVERY = pytest.mark.parametrize("setting", SETTINGS)
OF_THE_OPERATOR = ("ServiceMonitor", "PrometheusRule")


@EVERY
def test_every_object_holds_to_the_schemas_of_kubernetes(setting, tmp_path):
    known = [one for one in yaml.safe_load_all(rendered(setting)) if one["kind"] not in OF_THE_OPERATOR]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(known))
    passed("kubernetes-validate", "--strict", "-k", KUBERNETES_VERSION, tmp_path / "all.yaml")


@pytest.mark.parametrize("kind", OF_THE_OPERATOR)
@EVERY
def test_the_operators_objects_hold_to_its_schemas(setting, kind):
    crd = yaml.safe_load((CRDS / f"{kind.lower()}s.yaml").read_text("utf-8"))
    [version] = [one for one in crd["spec"]["versions"] if one["name"] == "v1"]
    [found] = objects(setting, kind)
    jsonschema_rs.validator_for(closed(version["schema"]["openAPIV3Schema"])).validate(found)
    wrong = {**found, "spec": {**found["spec"], "sing": True}}
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(closed(version["schema"]["openAPIV3Schema"])).validate(wrong)


def closed(schema: dict[str, Any], *, is_root: bool = True) -> dict[str, Any]:
    """A server drops the fields that a schema does not know; here they are refused. Of metadata it knows everything."""
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {name: closed(part, is_root=False) for name, part in made["properties"].items()}
        made.setdefault("additionalProperties", False)
    if isinstance(made.get("items"), dict):
        made["items"] = closed(made["items"], is_root=False)
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(made["additionalProperties"], is_root=False)
    return made


def test_the_operators_schemas_are_as_they_were_taken():
    for line in (CRDS / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert sha256((CRDS / name).read_bytes()).hexdigest() == digest


@EVERY
def test_its_proxy_starts_with_what_the_config_maps_hold_and_asks_each_server_by_its_name(setting, tmp_path):
    maps = {one["metadata"]["name"]: one["data"] for one in objects(setting, "ConfigMap")}
    [deployment] = objects(setting, "Deployment")
    pod = pod_of(deployment)
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            folder = tmp_path / mounts[volume["name"]].lstrip("/")
            folder.mkdir(parents=True)
            for name, text in maps[volume["configMap"]["name"]].items():
                (folder / name).write_text(text, "utf-8")
    arguments = pod["containers"][0]["args"]
    file = tmp_path / arguments[arguments.index("--config") + 1].lstrip("/")
    settings = load_settings(file, KEYS, {"host": arguments[arguments.index("--host") + 1]})
    context = build_context(settings, KEYS)
    asked = {
        (settings.upstreams[target.upstream.name].url, target.served_name)
        for target in context.catalog.configured_targets()
    }
    assert asked == {started for server in objects(setting, "StatefulSet") for started in started_by(server, maps)}


def started_by(server, maps):
    """The address of each pod, and the name that it serves its checkpoint under."""
    container = pod_of(server)["containers"][0]
    arguments = list(container["args"])
    for source in container.get("envFrom", []):
        for name, value in maps[source["configMapRef"]["name"]].items():
            arguments = [argument.replace(f"$({name})", value) for argument in arguments]
    served, name = arguments[arguments.index("--served-model-name") + 1], server["metadata"]["name"]
    assert arguments[0].startswith("/checkpoints/")
    assert served.startswith(arguments[0].removeprefix("/checkpoints/") + "@")
    for number in range(server["spec"]["replicas"]):
        yield f"http://{name}-{number}.{server['spec']['serviceName']}:8000/v1", served


@EVERY
def test_selectors_find_the_pods_that_they_are_for_and_no_others(setting):
    workloads = objects(setting, "Deployment", "StatefulSet")
    labels = {one["metadata"]["name"]: labels_of(one) for one in workloads}

    def found(selector):
        return {name for name, pod in labels.items() if selects(selector, pod)}

    for one in workloads:
        assert found(one["spec"]["selector"]) == {one["metadata"]["name"]}
    for service in objects(setting, "Service"):
        assert found({"matchLabels": service["spec"]["selector"]}) == {service["metadata"]["name"]}
    [budget] = objects(setting, "PodDisruptionBudget")
    assert found(budget["spec"]["selector"]) == {"its-proxy"}
    [scaler] = objects(setting, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "its-proxy"
    assert "replicas" not in next(one for one in workloads if one["kind"] == "Deployment")["spec"]
    [monitor] = objects(setting, "ServiceMonitor")
    every = objects(setting, "Service")
    services = [one for one in every if selects(monitor["spec"]["selector"], one["metadata"]["labels"])]
    assert [service["metadata"]["name"] for service in services] == ["its-proxy"]
    assert [port["name"] for port in services[0]["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]


@EVERY
def test_only_its_proxy_reaches_vllm_and_vllm_reaches_nobody(setting):
    labels = {one["metadata"]["name"]: labels_of(one) for one in objects(setting, "Deployment", "StatefulSet")}
    servers = {name for name in labels if name.startswith("vllm")}
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in objects(setting, "NetworkPolicy")}
    vllm, proxy = policies["vllm"], policies["its-proxy"]
    assert {name for name, pod in labels.items() if selects(vllm["podSelector"], pod)} == servers
    assert (vllm["policyTypes"], "egress" in vllm) == (["Ingress", "Egress"], False)
    [entrance] = vllm["ingress"]
    [origin] = entrance["from"]
    assert {name for name, pod in labels.items() if selects(origin["podSelector"], pod)} == {"its-proxy"}
    assert entrance["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert {name for name, pod in labels.items() if selects(proxy["podSelector"], pod)} == {"its-proxy"}
    reached = proxy["egress"][0]["to"][0]["podSelector"]
    assert {name for name, pod in labels.items() if selects(reached, pod)} == servers


@EVERY
def test_no_container_may_write_to_its_root_or_be_root_and_each_has_its_resources(setting):
    for workload in objects(setting, "Deployment", "StatefulSet"):
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}


@EVERY
def test_keys_come_from_one_secret_that_nobody_wrote_down(setting):
    assert objects(setting, "Secret") == []
    assert "its-proxy-keys" in rendered(setting)
    names = set()
    for workload in objects(setting, "Deployment", "StatefulSet"):
        container = pod_of(workload)["containers"][0]
        names |= {source["secretRef"]["name"] for source in container.get("envFrom", []) if "secretRef" in source}
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                assert variable["valueFrom"]["secretKeyRef"]["key"] in KEYS
                names.add(variable["valueFrom"]["secretKeyRef"]["name"])
    [monitor] = objects(setting, "ServiceMonitor")
    credentials = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert credentials["key"] in KEYS
    assert names | {credentials["name"]} == {"its-proxy-keys"}


@EVERY
def test_images_are_named_by_version(setting):
    for workload in objects(setting, "Deployment", "StatefulSet"):
        for container in pod_of(workload)["containers"]:
            tag = container["image"].rpartition(":")[2]
            assert "/" in container["image"]
            assert any(character.isdigit() for character in tag)
            assert "latest" not in tag


@pytest.mark.parametrize("name", NAMES)
def test_the_chart_runs_what_the_overlay_runs(name):
    """All but how names are made: a chart's config maps have fixed ones, and its servers are told theirs directly."""
    overlay, chart = (
        {(one["kind"], one["metadata"]["name"]): one for one in objects(f"{by}/{name}")} for by in ("kustomize", "helm")
    )
    for key in chart:
        if key[0] in ("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "Service", "ServiceMonitor"):
            assert chart[key]["spec"] == overlay[key]["spec"], key
        if key[0] in ("Deployment", "StatefulSet"):
            assert told(chart[key]) == told(overlay[key]), key
    assert {key for key in overlay if key[0] not in ("ConfigMap", "Namespace")} == {
        key for key in chart if key[0] != "ConfigMap"
    }
    assert chart["PrometheusRule", "its-proxy"]["spec"] == overlay["PrometheusRule", "its-proxy"]["spec"]


def told(workload):
    """The pod without what the two ways name differently."""
    pod = deepcopy(pod_of(workload))
    [container] = pod["containers"]
    if workload["kind"] == "StatefulSet":
        container.pop("envFrom", None)
        container["args"] = container["args"][3:]
    for volume in pod["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["name"] = re.sub(r"-[a-z0-9]{10}$", "", volume["configMap"]["name"])
    return pod


@pytest.mark.parametrize(("values", "words"), [
    ((), "config: what is served?"),
    (("--set", "config.port=1", "--set", "checkpoints[0].name=x"), "pair"),
    (("--set", "config.port=1", "--set", "sing=true"), "additional properties 'sing' not allowed"),
])  # fmt: skip
def test_the_chart_refuses_values_that_would_serve_nothing(values, words):
    done = tool("helm", "template", "its-proxy", CHART, *values)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_chart_passes_its_lint():
    passed("helm", "lint", "--strict", CHART, *values_of("single"))
