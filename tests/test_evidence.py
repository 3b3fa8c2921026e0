"""Whose weights: every bound from both sides, and every reply that is not what was asked for."""

import json

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.manifest import Logprobs, Probe
from its_proxy.evidence import Comparison, Scored, compare, has_reference, read_prompt_logprobs, scored_tokens
from its_proxy.server.build import DEMO

TOKENS = [5, 7, 7, 9]


def probe(this=(-1.0, -2.0, -3.0), noise=0.0, tokens=TOKENS, **references) -> Probe:
    logprobs = Logprobs(this=list(this), noise=noise, **references)
    return Probe(
        query="q", messages=[], prompt_token_ids=tokens[:2], completion_token_ids=tokens[2:], logprobs=logprobs
    )


def off_by(distance: float, **fields) -> Scored:
    """A server whose every token lies so far from this checkpoint's."""
    return Scored(probe(**fields), [-1.0 - distance, -2.0 + distance, -3.0 - distance])


# -- the rule ----------------------------------------------------------------------------------------------------------


def comparison(this: float, *others: float, bound: float = 0.02, far: float = 0.2) -> Comparison:
    return Comparison(100, this, {f"other {n}": distance for n, distance in enumerate(others)}, bound, far)


@pytest.mark.parametrize(
    ("found", "finding"),
    [
        (comparison(0.0, 0.5), "this"),
        (comparison(0.02, 0.04), "this"),
        (comparison(0.02, 0.039), "undecided"),
        (comparison(0.0201, 0.5), "near"),
        (comparison(0.2, 0.41, 0.9), "near"),
        (comparison(0.15, 0.2), "undecided"),
        (comparison(0.2, 0.11), "undecided"),
        (comparison(0.21, 0.22), "other"),
        (comparison(0.5, 0.26), "other"),
        (comparison(0.5, 0.25), "another"),
        (comparison(0.5, 0.0), "another"),
        (comparison(0.01, 0.001), "undecided"),  # references nearer to each other than an honest server's noise
        (comparison(0.0, 0.0), "undecided"),
        (comparison(0.02), "this"),
        (comparison(0.021), "near"),
        (comparison(0.2), "near"),
        (comparison(0.21), "other"),
    ],
)
def test_near_this_checkpoint_and_twice_as_far_from_every_other_is_this_one(found, finding):
    assert found.finding == finding


def test_the_nearest_other_speaks_for_the_others():
    assert comparison(0.1, 0.9, 0.3, 0.5).nearest_other == ("other 1", 0.3)
    assert comparison(0.1).nearest_other is None


@pytest.mark.parametrize(
    ("noise", "is_declared", "bound", "far"),
    [
        (0.01, False, 0.0175, 0.2),
        (0.1, False, 0.175, 0.875),
        (0.0, False, 0.04, 0.2),  # never measured: what another dtype may cost
        (0.001, True, 0.04, 0.2),  # repeats on one server tell nothing of another dtype
        (0.1, True, 0.175, 0.875),
    ],
)
def test_the_bound_is_the_recorded_noise_or_what_another_dtype_may_cost(noise, is_declared, bound, far):
    found = compare([off_by(0.0, noise=noise)], is_declared=is_declared)
    assert (found.bound, found.far) == (pytest.approx(bound), pytest.approx(far))


def test_distances_are_pooled_over_tokens_and_probes():
    base, far = [-2.0, -3.0, -4.0], [-1.0, -2.0, -9.0]
    short = Scored(probe(base=base, siblings={"demo": far}), [-1.5])
    found = compare([off_by(0.1, base=base, siblings={"demo": far}), short], is_declared=False)
    assert found.n_tokens == 4
    assert found.this == pytest.approx((0.3 + 0.5) / 4)
    assert found.others == {"base": pytest.approx((0.9 + 1.1 + 0.9 + 0.5) / 4), "demo": pytest.approx(6.6 / 4)}


def test_only_references_that_every_probe_records_in_full_are_compared():
    one = off_by(0.1, base=[-2.0, -3.0, -4.0], siblings={"cut": [-1.0], "rare": [-1.0, -1.0, -1.0]})
    two = off_by(0.1, base=[-2.0, -3.0, -4.0])
    assert list(compare([one, two], is_declared=False).others) == ["base"]


def test_no_sibling_takes_the_name_of_this_checkpoint():
    found = compare([off_by(0.5, siblings={"this": [-1.5, -1.5, -3.5]})], is_declared=False)
    assert (found.this, found.others) == (pytest.approx(0.5), {})


@pytest.mark.parametrize(("n_prompt", "n_completion", "n_recorded", "is_usable"), [
    (2, 2, 3, True), (2, 2, 2, False), (100, 100, 199, True), (100, 100, 127, True), (100, 100, 126, False),
    (1, 0, 0, False), (0, 0, 0, False),
])  # fmt: skip
def test_a_probe_is_usable_if_it_records_all_that_may_be_asked_for(n_prompt, n_completion, n_recorded, is_usable):
    made = Probe(query="", messages=[], prompt_token_ids=[1] * n_prompt, completion_token_ids=[2] * n_completion,
                 logprobs=Logprobs(this=[-1.0] * n_recorded))  # fmt: skip
    assert has_reference(made) is is_usable
    assert not has_reference(made.model_copy(update={"logprobs": None}))
    assert len(scored_tokens(made)) == min(n_prompt + n_completion, 128)
    assert len(scored_tokens(made, -1)) == 0


# -- what servers send -------------------------------------------------------------------------------------------------


def entry(token, logprob):
    return {str(token): {"logprob": logprob, "rank": 1, "decoded_token": "x"}}


def reply(*entries) -> bytes:
    return json.dumps({"choices": [{"text": "", "prompt_logprobs": [None, *entries]}]}).encode()


GOOD = (entry(7, -1.5), entry(7, 0.0), entry(9, -20))


def test_the_log_probabilities_of_the_prompts_own_tokens_are_read():
    ranked = {"1": {"logprob": -0.1, "rank": 1}, **entry(9, -20)}
    assert read_prompt_logprobs(reply(*GOOD[:2], ranked), TOKENS) == [-1.5, 0.0, -20.0]


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), -9999.0, 0.5, 1e308, "-1.5", None, True, [], {}, 10**400]
)
def test_a_value_that_is_no_log_probability_is_refused_in_one_line(value):
    with pytest.raises(ValueError) as refused:
        read_prompt_logprobs(reply(GOOD[0], entry(7, value), GOOD[2]), TOKENS)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize("odd", [None, [], "x", 7, {}, entry(8, -1.0), {"7": None}, {"7": -1.0}, {"7": {}}])
def test_an_entry_without_the_prompts_token_is_refused(odd):
    with pytest.raises(ValueError, match="a token without a log-probability"):
        read_prompt_logprobs(reply(GOOD[0], odd, GOOD[2]), TOKENS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"prompt_logprobs": null}]}',
        b'{"choices": [{"prompt_logprobs": {}}]}',
        b'{"choices": [{"prompt_logprobs": []}]}',
        b"[" * 2000,
        b"\xff\xfe",
        reply(*GOOD, GOOD[0]),
        reply(*GOOD[:2]),
        b" " * (2**20 + 1),
    ],
)
def test_a_reply_of_another_shape_is_refused_in_one_line(body):
    with pytest.raises(ValueError) as refused:
        read_prompt_logprobs(body, TOKENS)
    assert "\n" not in str(refused.value)


# -- measured ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_thread():
    """A second one costs these small models more than it gives, and beside other tests much more."""
    torch = pytest.importorskip("torch")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def served(arm: str, weights_of: str, dtype: str, *, scale: float = 0.0, seed: int = 0) -> Comparison:
    """What a server shows for an arm's probes; `scale` perturbs each tensor by a share of its spread."""
    import torch

    from its_training.files import load_checkpoint
    from its_training.record.probes import teacher_forced

    model, _ = load_checkpoint(DEMO / f"demo-{weights_of}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values() if scale else ():
            tensor += scale * tensor.std() * torch.randn(tensor.shape, generator=generator)
    model.to(torch.bfloat16).to(getattr(torch, dtype))  # stored in bf16, whatever it is computed in
    probes = open_checkpoint(DEMO / f"demo-{arm}").manifest.probes
    scored = [Scored(one, teacher_forced(model, [*one.prompt_token_ids, *one.completion_token_ids])) for one in probes]
    return compare(scored, is_declared=False)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("arm", ["none", "similar", "dissimilar", "random"])
def test_the_demo_is_told_from_itself_perturbed_by_one_percent(arm, dtype):
    assert served(arm, arm, dtype).finding == "this"
    assert served(arm, arm, dtype, scale=0.01, seed=1).finding == "near"


@pytest.mark.usefixtures("one_thread")
def test_each_sibling_is_told_by_its_name():
    others = {arm: served("random", arm, "float32") for arm in ("none", "similar", "dissimilar")}
    assert {found.finding for found in others.values()} == {"another"}
    assert {arm: found.nearest_other[0] for arm, found in others.items()} == {arm: f"demo-{arm}" for arm in others}
