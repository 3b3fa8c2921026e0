"""The files of deploy/, by the linters and schemas of those who read them."""

import json
import re

import yaml

from tests.real_deploy.tools import DEPLOY, passed, tool


def test_the_dockerfile_is_what_hadolint_would_have(tmp_path):
    assert passed("hadolint", "--failure-threshold", "style", "Dockerfile") == ""
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd / && pip install torch\n")
    assert tool("hadolint", "Dockerfile", cwd=tmp_path).returncode != 0


def test_the_compose_file_holds_to_the_specification(tmp_path):
    check = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    passed(*check, "compose.yaml")
    (tmp_path / "compose.yaml").write_text("services: {vllm: {image: vllm, portz: []}}\n")
    assert tool(*check, "compose.yaml", cwd=tmp_path).returncode != 0


def test_every_yaml_file_is_tidy():
    passed("yamllint", "--strict", "--config-file", "yamllint.yaml", ".")


class TestPrometheus:
    def test_its_configuration_is_valid(self, tmp_path):
        document = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
        # promtool looks for the key's file, which compose puts there.
        document["scrape_configs"][0]["authorization"]["credentials_file"] = "metrics_key"
        (tmp_path / "metrics_key").write_text("key")
        (tmp_path / "alerts.yml").write_bytes((DEPLOY / "prometheus/alerts.yml").read_bytes())
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(document))
        passed("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)

    def test_its_rules_are_valid_and_do_what_their_cases_say(self):
        passed("promtool", "check", "rules", "--lint=all", "--lint-fatal", "prometheus/alerts.yml")
        assert "SUCCESS" in passed("promtool", "test", "rules", "prometheus/alerts_test.yml")

    def test_every_query_of_the_dashboard_is_promql(self, tmp_path):
        dashboard = json.loads((DEPLOY / "grafana/its-proxy.json").read_text("utf-8"))
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
        assert len(queries) > 40
        rules = [{"record": f"query:{number}", "expr": as_grafana_asks(query)} for number, query in enumerate(queries)]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        passed("promtool", "check", "rules", "rules.yml", cwd=tmp_path)


def as_grafana_asks(query: str) -> str:
    asked = query.replace("$__rate_interval", "1m").replace("$model", ".*")
    assert not re.search(r"\$\w", asked), query
    return asked
