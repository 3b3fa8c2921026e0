import pytest

from its_proxy.codesign.manifest import Logprobs, Probe
from its_proxy.evidence import NOISE_FACTOR, NOISE_FLOOR, Scored, compare
from its_training.record.power import power_of


def probe(base, siblings, noise=0.01, n=4):
    """`n + 1` tokens; each reference lies the given distance from this checkpoint on every one of them."""
    this = [-1.0] * n
    logprobs = Logprobs(
        this=this,
        base=[-1.0 - base] * n,
        siblings={name: [-1.0 - distance] * n for name, distance in siblings.items()},
        noise=noise,
    )
    return Probe(query="q", messages=[], prompt_token_ids=list(range(n + 1)), logprobs=logprobs)


def test_distances_are_given_in_nats_and_in_noise():
    power = power_of([probe(0.5, {"random": 0.2}), probe(0.7, {"random": 0.4})])
    assert [one.name for one in power.separations] == ["base", "random"]
    assert [one.distance for one in power.separations] == pytest.approx([0.6, 0.3])
    assert [one.ratio for one in power.separations] == pytest.approx([60, 30])
    assert (power.n_probes, power.n_tokens, power.noise) == (2, 8, pytest.approx(0.01))
    assert power.bound == pytest.approx(NOISE_FACTOR * 0.01)


def test_a_far_reference_is_told_always_a_nearer_one_by_a_quiet_server_and_a_near_one_never():
    power = power_of([probe(0.5, {"quiet": 0.04, "twin": 0.02})])
    assert {one.name: one.telling for one in power.separations} == {
        "base": "always",
        "quiet": "at recorded noise",
        "twin": "no power",
    }
    assert power.is_short
    assert "No power: twin cannot be told from this checkpoint with these probes" in power.verdict
    assert "weights of base is a mismatch" in power.verdict


@pytest.mark.parametrize("distance", [0.053, 0.06, 0.5])
def test_what_is_always_told_is_told_by_the_handshake_from_anywhere_within_the_bound(distance):
    """An honest server, pushed as near to the other checkpoint as the bound lets it be."""
    one = probe(distance, {})
    assert power_of([one]).separations[0].telling == "always"
    honest = [-1.0 - 0.999 * NOISE_FACTOR * 0.01] * 4
    assert compare([Scored(one, honest)], is_declared=False).finding == "this"
    assert compare([Scored(one, one.logprobs.base)], is_declared=False).finding == "another"


def test_what_has_no_power_leaves_the_handshake_undecided():
    one = probe(0.02, {})
    assert power_of([one]).separations[0].telling == "no power"
    assert compare([Scored(one, [-1.01] * 4)], is_declared=False).finding == "undecided"


def test_without_a_known_noise_the_handshakes_floor_counts():
    near, far = power_of([probe(2.9 * NOISE_FLOOR, {}, noise=0)]), power_of([probe(3.1 * NOISE_FLOOR, {}, noise=0)])
    assert [power.separations[0].telling for power in (near, far)] == ["no power", "always"]
    assert far.separations[0].ratio is None


def test_without_any_reference_the_power_is_short_and_says_why():
    alone = Probe(query="q", messages=[], prompt_token_ids=[1, 2], logprobs=Logprobs(this=[-1.0], noise=0.01))
    power = power_of([alone])
    assert power.is_short
    assert "No reference was measured" in power.verdict


def test_the_document_is_what_a_manifest_keeps():
    document = power_of([probe(0.5, {"twin": 0.02})]).document()
    assert document["references"]["twin"] == {
        "distance": 0.02,
        "distance_over_noise": 2.0,
        "told_apart": "no power",
    }
    assert (document["probes"], document["tokens"], document["noise"]) == (1, 4, 0.01)
