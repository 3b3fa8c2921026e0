"""Dashboard, alert rules and documentation name metrics that a running its-proxy has, and document all that it has."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.exposed import ADDED, expose

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DEPLOY = CHECKOUT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/its-proxy.json").read_text("utf-8"))
GROUPS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
OPERATING = (CHECKOUT / "docs/operating.md").read_text("utf-8")
PAGES = ("operating", "limits", "edge", "equivalence", "rolling-over", "deploying")
# Told by several processes alone: tests/server/test_workers.py.
OF_WORKERS = {"its_proxy_workers"}
NAME = re.compile(r"\b(?:its_proxy|process)_[a-z_]+[a-z]\b")
SELECTOR = re.compile(r"\b((?:its_proxy|process)_[a-z_]+[a-z])\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:by|on|ignoring) ?\(([^)]*)\)")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    return expose(tmp_path_factory.mktemp("exposed"))


def without_suffix(name):
    """A histogram's own name, of that of its series."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def queries():
    """Every PromQL expression of the dashboard, by where it stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']}, {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


EXPRESSIONS = {**dict(queries()), **{name: rule["expr"] for name, rule in RULES.items()}}


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_expression_asks_for_what_there_is(exposed, place):
    expression = EXPRESSIONS[place]
    names = set(NAME.findall(expression))
    assert names or expression == 'up{job="its-proxy"} == 0'
    assert names <= exposed.keys()
    for name, matchers in SELECTOR.findall(expression):
        asked = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", matchers))
        assert asked <= exposed[name] | ADDED or not exposed[name], f"{name} has {exposed[name]}"
    known = ADDED.union(*(exposed[name] for name in names))
    if all(exposed[name] for name in names - {"its_proxy_evaluated_agreement_ratio"}):
        assert {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")} <= known


@pytest.mark.parametrize("page", PAGES)
def test_the_documentation_names_what_there_is(exposed, page):
    named = set(NAME.findall((CHECKOUT / f"docs/{page}.md").read_text("utf-8")))
    assert named <= exposed.keys() | {without_suffix(name) for name in exposed} | OF_WORKERS


def test_every_metric_of_ours_is_documented(exposed):
    ours = {without_suffix(name) for name in exposed if name.startswith("its_proxy_")}
    assert ours <= set(NAME.findall(OPERATING))


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name):
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
    for page in re.findall(r"docs/[a-z-]+\.md", rule["annotations"]["description"]):
        assert (CHECKOUT / page).is_file()


def test_every_alert_has_a_case_in_which_it_fires():
    cases = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == RULES.keys()
