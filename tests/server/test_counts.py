"""Counters and histograms tell Prometheus what its own library's would, to the letter."""

import re

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from its_proxy.server.counts import Counter, Histogram

BOUNDS = (0.005, 0.1, 1, 60, 3600)
NUMBERS = (0.0, 0.005, 0.0050001, 0.1, 0.7, 1, 1.5, 3600, 3600.5, 1e9)
AWKWARD = ("model", "", 'a "quoted"\nname\\', "模型")


def told(registry: CollectorRegistry) -> str:
    """Without the times at which series began."""
    return re.sub(r"(_created(\{.*\})?) [0-9.e+]+", r"\1", generate_latest(registry).decode())


def counted_here() -> CollectorRegistry:
    registry = CollectorRegistry()
    plain = Counter(registry, "plain", "Of everything")
    labelled = Counter(registry, "labelled", "By two", ["model", "code"])
    Counter(registry, "unused", "Not yet", ["model"])
    seconds = Histogram(registry, "seconds", "How long", bounds=BOUNDS)
    by_model = Histogram(registry, "by_model_seconds", "How long, by one", ["model"], bounds=BOUNDS)
    for model in AWKWARD:
        for number in NUMBERS:
            plain.add(number)
            labelled.add(number, model, "200")
            labelled.add(1, model, str(number))
            seconds.observe(number)
            by_model.observe(number, model)
    return registry


def counted_by_the_library() -> CollectorRegistry:
    registry = CollectorRegistry()
    plain = prometheus_client.Counter("plain", "Of everything", registry=registry)
    labelled = prometheus_client.Counter("labelled", "By two", ["model", "code"], registry=registry)
    prometheus_client.Counter("unused", "Not yet", ["model"], registry=registry)
    seconds = prometheus_client.Histogram("seconds", "How long", buckets=BOUNDS, registry=registry)
    by_model = prometheus_client.Histogram(
        "by_model_seconds", "How long, by one", ["model"], buckets=BOUNDS, registry=registry
    )
    for model in AWKWARD:
        for number in NUMBERS:
            plain.inc(number)
            labelled.labels(model, "200").inc(number)
            labelled.labels(model, str(number)).inc()
            seconds.observe(number)
            by_model.labels(model).observe(number)
    return registry


def test_the_exposition_is_the_librarys():
    assert told(counted_here()) == told(counted_by_the_library())


def test_what_has_no_labels_is_told_before_it_has_counted():
    registry = CollectorRegistry()
    Counter(registry, "plain", "Of everything")
    Histogram(registry, "seconds", "How long", bounds=BOUNDS)
    theirs = CollectorRegistry()
    prometheus_client.Counter("plain", "Of everything", registry=theirs)
    prometheus_client.Histogram("seconds", "How long", buckets=BOUNDS, registry=theirs)
    assert told(registry) == told(theirs)
    assert registry.get_sample_value("plain_total") == 0.0
    assert registry.get_sample_value("seconds_bucket", {"le": "+Inf"}) == 0.0


@pytest.mark.parametrize(
    ("value", "is_told"), [("true", False), ("1", False), ("T", False), ("false", True), ("", True)]
)
def test_when_series_began_is_told_unless_the_librarys_variable_says_no(monkeypatch, value, is_told):
    monkeypatch.setenv("PROMETHEUS_DISABLE_CREATED_SERIES", value)
    exposition = generate_latest(counted_here()).decode()
    assert ("_created" in exposition) is is_told
    assert 'labelled_total{code="200",model="model"}' in exposition


def test_a_counter_never_becomes_less():
    registry = CollectorRegistry()
    counter = Counter(registry, "plain", "Of everything")
    counter.add(2)
    with pytest.raises(ValueError, match="plain cannot count -1"):
        counter.add(-1)
    assert registry.get_sample_value("plain_total") == 2.0


def test_a_number_beyond_what_prometheus_knows_is_refused_when_it_comes_and_not_at_every_reading():
    registry = CollectorRegistry()
    counter = Counter(registry, "tokens", "Generated", ["model"])
    counter.add(5, "model")
    with pytest.raises(OverflowError):
        counter.add(10**400, "model")
    assert registry.get_sample_value("tokens_total", {"model": "model"}) == 5.0


@pytest.mark.parametrize("values", [(), ("model",), ("model", "200", "more")])
def test_a_series_has_all_its_labels_and_no_others(values):
    registry = CollectorRegistry()
    counter = Counter(registry, "labelled", "By two", ["model", "code"])
    with pytest.raises(ValueError, match="has the labels"):
        counter.add(1, *values)
    assert "labelled_total{" not in generate_latest(registry).decode()


def test_two_families_of_one_name_are_refused():
    registry = CollectorRegistry()
    Counter(registry, "plain", "Of everything")
    with pytest.raises(ValueError, match="plain"):
        Histogram(registry, "plain", "Again", bounds=BOUNDS)
