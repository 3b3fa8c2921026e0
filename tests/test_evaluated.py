"""The level that a manifest's evaluation promises of votes."""

import json

import pytest

from its_proxy.codesign.manifest import parse_manifest
from its_proxy.evaluated import evaluated_agreement
from its_proxy.server.build import DEMO
from tests.serving import manifest


def row(metric, value, benchmark="sums", **told):
    return {"benchmark": benchmark, "split": "test", "items": 100, "metric": metric, "value": value, **told}


def level_of(*rows):

    document = manifest("random", evaluation=list(rows))
    return evaluated_agreement(parse_manifest(json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("rows", "level"),
    [
        ([], None),
        ([row("greedy", 0.9), row("maj@8", 0.9)], None),
        ([row("pass@1", 0.7), row("maj@8", 0.9)], 0.7),
        ([row("pass@1", 0.7), row("agreement", 0.8)], 0.8),
        ([row("agreement", 0.8), row("agreement", 0.6, "fractions"), row("pass@1", 0.5)], 0.6),
        ([row("pass@1", 0.5, asked="none"), row("pass@1", 0.8, asked="random")], 0.8),
        ([row("pass@1", 0.5, forced=True, asked="random")], None),
        ([row("agreement", 80.0)], None),
    ],
)
def test_it_is_the_least_recorded_agreement_or_what_pass_at_1_promises(rows, level):
    assert level_of(*rows) == level


def test_every_packaged_checkpoint_promises_a_level():
    levels = [evaluated_agreement(parse_manifest((folder / "its.json").read_bytes())) for folder in DEMO.glob("demo-*")]
    assert len(levels) == 4
    assert all(level is not None and 0.8 < level < 0.9 for level in levels)
