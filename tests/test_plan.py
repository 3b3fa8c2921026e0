from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from its_proxy.checkpoint import Checkpoint, open_checkpoint
from its_proxy.codesign.errors import NotPermitted, RequestError, StrategyNotApplicable
from its_proxy.codesign.personas import Persona, pool_jsonl, taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named, strategy_names
from its_proxy.handshake import NO_MANIFEST
from its_proxy.plan import Member, Plan, VoteRules, make_plan, sizes
from its_proxy.protocol.chat import SAMPLING_FIELDS, read_chat
from its_proxy.upstreams.http import HttpUpstream
from tests.serving import manifest, write_checkpoint
from tests.voting.test_expectation import ERRANDS

PROBLEM, CHAT = "How many eggs are 3 eggs and 4 eggs?", "Hello, who are you?"
RIGHTS = frozenset({"force", "explain", "candidates"})
RECORDED = {"temperature": 0.8, "top_p": 0.95}
RULES = VoteRules(n=8)
UPSTREAM = HttpUpstream("gpu", "http://gpu/v1")


def opened(folder: Path, strategy: str = "random", **fields: Any) -> Checkpoint:
    return open_checkpoint(write_checkpoint(folder, manifest(strategy, **fields)))


def member(checkpoint: Checkpoint | None, name: str = "model", weight: int = 1) -> Member:
    return Member(name, UPSTREAM, f"served-{name}", checkpoint, NO_MANIFEST, weight)


def plan(
    *members: Member, rules: VoteRules = RULES, rights: frozenset[str] = RIGHTS, query: str = PROBLEM, **fields: Any
) -> Plan:
    body = {"model": "model", "messages": [{"role": "user", "content": query}], **fields}
    return make_plan(read_chat(body), members, rules, rights, "model")


@pytest.fixture
def none(tmp_path: Path) -> Member:
    return member(opened(tmp_path / "none", "none"))


@pytest.fixture
def persona(tmp_path: Path) -> Member:
    return member(opened(tmp_path / "random", "random"))


def body_of(made: Plan) -> dict[str, Any]:
    return dict(made.members[0].body)


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_the_query_is_rewritten_and_everything_unknown_is_kept(persona):
    made = plan(persona, stop=["\n"], unknown={"a": [1]}, user="me", n=1, seed=5, stream=True, stream_options={})
    recipe = Recipe(strategy_named("random"), pool=taxonomy_pool(), seed=7)
    assert body_of(made) == {
        "model": "served-model",
        "messages": rewrite(recipe, [{"role": "user", "content": PROBLEM}]).messages,
        "stop": ["\n"],
        "unknown": {"a": [1]},
        "user": "me",
        "max_tokens": 256,
        **RECORDED,
    }
    assert (made.seed, made.n, made.members[0].strategy, made.is_forced) == (5, 8, "random", False)


def test_a_plain_model_is_asked_plainly(none):
    made = plan(none)
    assert body_of(made)["messages"] == [{"role": "user", "content": PROBLEM}]
    assert made.members[0].strategy == "none"


def test_without_a_seed_of_the_clients_each_plan_draws_its_own(none):
    assert len({plan(none).seed for _ in range(5)}) == 5


def test_a_plan_does_not_change_nor_change_the_request(persona):
    body = {"model": "model", "messages": [{"role": "user", "content": PROBLEM}], "its": {"n": 4}, "temperature": 0}
    request = read_chat(body)
    made = make_plan(request, [persona], RULES, RIGHTS, "model")
    assert make_plan(request, [persona], RULES, RIGHTS, "model").members == made.members
    assert body["messages"] == [{"role": "user", "content": PROBLEM}]
    with pytest.raises(TypeError):
        made.members[0].body["model"] = "other"  # type: ignore[index]
    assert RULES.n == 8


# -- who owns what -----------------------------------------------------------------------------------------------------


def test_in_a_vote_the_manifest_owns_the_sampling(none):
    made = plan(none, temperature=0, top_p=1, top_k=1, min_p=0.5)
    assert made.sampling == RECORDED
    assert {key: value for key, value in body_of(made).items() if key in SAMPLING_FIELDS} == RECORDED


def test_a_client_may_insist_on_its_own_sampling(none):
    made = plan(none, temperature=0, top_k=1, its={"sampling": "client"})
    assert made.sampling == {"temperature": 0, "top_k": 1}
    assert "top_p" not in body_of(made)


def test_without_a_vote_the_clients_sampling_comes_first(none):
    made = plan(none, temperature=0, its={"vote": "off"})
    assert made.sampling == {"temperature": 0, "top_p": 0.95}


def test_without_recorded_sampling_the_clients_own_is_used(tmp_path):
    made = plan(member(opened(tmp_path, "none", vote={"n": 8})), temperature=0.3)
    assert made.sampling == {"temperature": 0.3}


def test_each_member_is_sampled_as_its_own_manifest_advises(tmp_path):
    cool = member(opened(tmp_path / "a", "none", vote={"n": 8, "temperature": 0.2, "max_tokens": 64}), "a")
    warm = member(opened(tmp_path / "b", "none", vote={"n": 8, "temperature": 0.9, "max_tokens": 99}), "b")
    made = plan(cool, warm)
    sent = [(planned.body["temperature"], planned.body["max_tokens"]) for planned in made.members]
    assert sent == [(0.2, 64), (0.9, 99)]
    assert made.sampling == {}


@pytest.mark.parametrize(
    ("asked", "cap", "sent"),
    [
        ({}, 256, {"max_tokens": 256}),
        ({}, None, {}),
        ({"max_tokens": 100}, 256, {"max_tokens": 100}),
        ({"max_tokens": 1000}, 256, {"max_tokens": 256}),
        ({"max_completion_tokens": 1000}, 256, {"max_completion_tokens": 256}),
        ({"max_completion_tokens": 100}, None, {"max_completion_tokens": 100}),
        ({"max_completion_tokens": 90, "max_tokens": 80}, 256, {"max_completion_tokens": 80, "max_tokens": 80}),
        ({"max_tokens": None}, 256, {"max_tokens": 256}),
    ],
)
def test_the_smaller_cap_counts_under_the_name_that_the_client_used(tmp_path, asked, cap, sent):
    advice = {"n": 8} if cap is None else {"n": 8, "max_tokens": cap}
    made = plan(member(opened(tmp_path, "none", vote=advice)), **asked)
    assert {key: value for key, value in body_of(made).items() if key.startswith("max_")} == sent


def test_recorded_template_arguments_are_sent_and_a_plain_model_takes_more(tmp_path):
    document = manifest("none")
    for side in document["pair"].values():
        side["chat_template_kwargs"] = {"enable_thinking": False}
    thinking = member(open_checkpoint(write_checkpoint(tmp_path, document)))
    assert body_of(plan(thinking))["chat_template_kwargs"] == {"enable_thinking": False}
    more = body_of(plan(thinking, chat_template_kwargs={"tone": "dry"}))
    assert more["chat_template_kwargs"] == {"enable_thinking": False, "tone": "dry"}
    assert body_of(plan(thinking, chat_template_kwargs=None))["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("value", ["x", 1, [], True])
def test_template_arguments_that_are_no_object_are_refused(none, value):
    with pytest.raises(RequestError) as caught:
        plan(none, chat_template_kwargs=value)
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("key", ["chat_template", "chat_template_kwargs", "chat_template_content_format"])
def test_a_clients_own_template_is_refused_by_a_persona_model(none, persona, key):
    with pytest.raises(StrategyNotApplicable) as caught:
        plan(persona, **{key: {}})
    assert caught.value.param == key
    assert key in body_of(plan(none, **{key: {}}))
    assert key in body_of(plan(persona, **{key: {}}, its={"strategy": "none", "force": True}))
    assert plan(persona, **{key: None}).n == 8


@pytest.mark.parametrize(("field", "changes", "leaves"), [
    ("add_generation_prompt", False, True), ("continue_final_message", True, False),
    ("add_special_tokens", True, False),
    ("documents", [{"text": "x"}], []), ("reasoning_effort", "high", None), ("truncate_prompt_tokens", 9, None),
])  # fmt: skip
def test_a_field_that_changes_the_rendered_prompt_is_refused_by_a_persona_model(none, persona, field, changes, leaves):
    with pytest.raises(StrategyNotApplicable) as caught:
        plan(persona, **{field: changes})
    assert caught.value.param == field
    assert body_of(plan(none, **{field: changes}))[field] == changes
    assert plan(persona, **{field: leaves}).n == 8


def test_tools_in_a_prompt_that_was_trained_without_are_told(none, persona):
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert plan(persona, tools=tools).reservations == ("tools",)
    assert not plan(persona, tools=[]).reservations
    assert not plan(none, tools=tools).reservations


@pytest.mark.parametrize("messages", [
    [{"role": "system", "content": "Be brief."}],
    [{"role": "user", "content": "  "}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
])  # fmt: skip
def test_without_a_users_text_a_persona_model_is_not_asked_unless_forced_plain(none, persona, messages):
    with pytest.raises(StrategyNotApplicable):
        plan(persona, messages=messages)
    assert body_of(plan(none, messages=messages))["messages"] == messages
    forced = plan(persona, messages=messages, its={"strategy": "none", "force": True})
    assert (body_of(forced)["messages"], forced.is_forced) == (messages, True)


# -- another strategy --------------------------------------------------------------------------------------------------


def test_the_recorded_strategy_may_be_named(persona):
    assert not plan(persona, its={"strategy": "random"}).is_forced
    assert not plan(persona, its={"strategy": "R"}).is_forced


@pytest.mark.parametrize(
    ("letter", "name"), [("N", "none"), ("S", "similar"), ("U", "dissimilar"), ("D", "dissimilar"), ("R", "random")]
)
def test_the_papers_letters_are_accepted(tmp_path, letter, name):
    made = plan(member(opened(tmp_path, "fixed")), its={"strategy": letter, "force": True})
    assert (made.members[0].strategy, made.is_forced) == (name, True)


def test_another_strategy_needs_force_and_the_right_to_it(persona):
    with pytest.raises(RequestError, match="recorded with strategy 'random', not 'similar'") as caught:
        plan(persona, its={"strategy": "similar"})
    assert "force" in caught.value.hint
    with pytest.raises(NotPermitted):
        plan(persona, its={"strategy": "similar", "force": True}, rights=frozenset())
    made = plan(persona, its={"strategy": "similar", "force": True})
    assert (made.is_forced, made.members[0].strategy) == (True, "similar")


def test_force_without_another_strategy_changes_nothing(persona):
    assert not plan(persona, its={"force": True}, rights=frozenset()).is_forced


@pytest.mark.parametrize("name", strategy_names())
def test_a_plain_checkpoint_borrows_the_template_personas(none, name):
    made = plan(none, its={"strategy": name, "force": True})
    recipe = Recipe(strategy_named(name), pool=taxonomy_pool(), seed=7)
    assert body_of(made)["messages"] == rewrite(recipe, [{"role": "user", "content": PROBLEM}]).messages
    assert made.is_forced is (name != "none")


def test_a_forced_strategy_draws_from_the_checkpoints_own_pool(tmp_path):
    data = pool_jsonl([Persona("You know cooking.", "cooking")])
    cook = member(_with_pool(tmp_path, data))
    messages = body_of(plan(cook, its={"strategy": "fixed", "force": True}))["messages"]
    assert messages[0]["content"] == f"You know cooking.\n\n{PROBLEM}"
    with pytest.raises(RequestError, match="needs personas of every domain"):
        plan(cook, its={"strategy": "similar", "force": True})


def _with_pool(folder: Path, data: bytes) -> Checkpoint:
    document = manifest("random", probes=[])
    for side in document["pair"].values():
        side["personas"] = {"source": "pool", "file": "pool.jsonl", "sha256": sha256(data).hexdigest()}
    write_checkpoint(folder, document)
    (folder / "pool.jsonl").write_bytes(data)
    return open_checkpoint(folder)


@pytest.mark.parametrize("name", ["", "unknown", "s", "Similar", "\n", "none "])
def test_an_unknown_strategy_is_the_requests_fault(none, name):
    with pytest.raises(RequestError) as caught:
        plan(none, its={"strategy": name, "force": True})
    assert caught.value.param == "its.strategy"


def test_a_model_without_a_manifest_takes_no_strategy():
    with pytest.raises(RequestError, match="has no manifest"):
        plan(member(None), its={"strategy": "none"})


def test_a_one_sided_pair_that_was_allowed_marks_every_reply(tmp_path):
    folder = write_checkpoint(tmp_path, manifest("none", served="random"))
    assert plan(member(open_checkpoint(folder, allow_one_sided=True))).is_forced


# -- how many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "n", "is_vote", "starts_with_one", "gives_up"),
    [
        ({}, 8, True, False, True),
        ({"query": CHAT}, 8, True, True, True),
        ({"query": CHAT, "response_format": {"type": "json_object"}}, 8, True, False, False),
        ({"query": CHAT, "response_format": {"type": "text"}}, 8, True, True, True),
        ({"query": CHAT, "response_format": None}, 8, True, True, True),
        ({"query": CHAT, "its": {"n": 5}}, 5, True, False, True),
        ({"query": CHAT, "its": {"vote": "always"}}, 8, True, False, False),
        ({"query": CHAT, "its": {"stop": "none"}}, 8, True, False, False),
        ({"its": {"vote": "off"}}, 1, False, False, False),
        ({"its": {"n": 1}}, 1, False, False, False),
        ({"its": {"vote": "off"}, "n": 3}, 3, False, False, False),
        ({"n": 3}, 8, True, False, True),
        ({"n": 12}, 12, True, False, True),
        ({"query": CHAT, "n": 3}, 8, True, False, True),
        ({"tools": [{"type": "function"}]}, 1, False, False, False),
        ({"tools": [{"type": "function"}], "its": {"answer": "tool_calls"}}, 8, True, False, True),
        (
            {"tools": [{"type": "function"}], "tool_choice": "none", "its": {"answer": "tool_calls"}},
            1,
            False,
            False,
            False,
        ),
        ({"its": {"answer": "tool_calls"}}, 1, False, False, False),
        ({"its": {"answer": "tool_calls", "vote": "always"}}, 8, True, False, False),
        ({"query": CHAT, "its": {"answer": "letter"}}, 8, True, False, True),
        ({"tools": []}, 8, True, False, True),
        ({"tools": [{"type": "function"}], "its": {"vote": "always"}}, 8, True, False, False),
        ({"max_tokens": 16}, 1, False, False, False),
        ({"max_completion_tokens": 1}, 1, False, False, False),
        ({"max_tokens": 17}, 8, True, False, True),
        ({"query": ERRANDS[0]}, 1, False, False, False),
    ],
)
def test_how_many_candidates_a_request_gets(none, fields, n, is_vote, starts_with_one, gives_up):
    made = plan(none, **fields)
    assert (made.n, made.is_vote, made.starts_with_one, made.gives_up) == (n, is_vote, starts_with_one, gives_up)


def test_a_system_prompt_that_asks_for_a_box_is_a_sign_of_an_answer(none):
    for content in ("Put your final answer within \\boxed{}.", [{"type": "text", "text": "Use \\boxed{}."}]):
        messages = [{"role": "system", "content": content}, {"role": "user", "content": CHAT}]
        assert not plan(none, messages=messages).starts_with_one
    messages = [{"role": "system", "content": "Be kind. How many? 3 or 4?"}, {"role": "user", "content": CHAT}]
    assert plan(none, messages=messages).starts_with_one


def test_only_the_last_question_counts(none):
    turns = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": "7"}]
    assert plan(none, messages=[*turns, {"role": "user", "content": CHAT}]).starts_with_one


@pytest.mark.parametrize(("fields", "param"), [({"n": 17}, "n"), ({"its": {"n": 17}}, "its.n"),
                                               ({"its": {"n": 99, "vote": "off"}}, "its.n")])  # fmt: skip
def test_more_candidates_than_allowed_are_refused(none, fields, param):
    with pytest.raises(RequestError, match="at most 16") as caught:
        plan(none, **fields)
    assert (caught.value.param, caught.value.code) == (param, "n_too_large")


def test_a_request_overrides_the_rules_for_itself_alone(none):
    its = {"n": 3, "stop": "none", "min_agreement": 0.5, "on_no_answer": "error", "on_no_consensus": "error"}
    made = plan(none, its=its)
    assert {key: getattr(made.rules, key) for key in its} == its
    assert plan(none).rules == RULES


# -- the kind of answer ------------------------------------------------------------------------------------------------

SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "required": ["a"]}}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("form", [SCHEMA, {"type": "json_object"}])
def test_who_asks_for_json_gets_a_vote_over_json(none, form):
    made = plan(none, response_format=form)
    assert made.rules.answer == "json"
    assert [made.is_valid(text) for text in ('{"a": 1}', "[]")] == [True, False]
    assert body_of(made)["response_format"] == form


@pytest.mark.parametrize("form", [None, {"type": "text"}, {"type": "structural_tag"}])
def test_any_other_format_leaves_the_kind_alone(none, form):
    made = plan(none, response_format=form)
    assert (made.rules.answer, made.is_valid) == ("boxed", None)


def test_an_operator_may_fix_the_kind_and_a_client_may_name_it(none):
    fixed = replace(RULES, answer="number", is_answer_fixed=True)
    assert plan(none, rules=fixed, response_format=SCHEMA).rules.answer == "number"
    assert plan(none, rules=fixed, its={"answer": "letter"}, response_format=SCHEMA).rules.answer == "letter"
    assert plan(none, rules=fixed, its={"answer": "json"}, response_format=SCHEMA).is_valid is not None


def test_with_tools_to_call_a_format_does_not_turn_a_vote_over_calls_away(none):
    calls = replace(RULES, answer="tool_calls")
    assert plan(none, rules=calls, response_format=SCHEMA, tools=TOOLS).rules.answer == "tool_calls"
    assert plan(none, rules=calls, response_format=SCHEMA).rules.answer == "json"


def test_a_schema_is_checked_only_where_a_vote_needs_it(none):
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": "any"}}}
    with pytest.raises(RequestError) as caught:
        plan(none, response_format=broken)
    assert caught.value.param == "response_format"
    for its in ({"vote": "off"}, {"answer": "boxed"}):
        assert body_of(plan(none, response_format=broken, its=its))["response_format"] == broken


# -- the first wave ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "fields", "n_first"),
    [
        ({}, {}, 8),
        ({"first": "auto"}, {}, 5),
        ({"first": "auto", "stop": "beta"}, {}, 4),
        ({"first": "auto", "stop": "none"}, {}, 8),
        ({"first": "auto", "min_agreement": 0.75}, {}, 6),
        ({"first": 3}, {}, 3),
        ({"first": 3, "stop": "none"}, {}, 8),
        ({"first": 99}, {}, 8),
        ({"first": 3}, {"n": 4}, 4),
        ({"first": "auto"}, {"its": {"n": 5}}, 3),
        ({"first": "auto"}, {"its": {"stop": "beta", "n": 16}}, 4),
        ({"first": "auto"}, {"its": {"vote": "off"}}, None),
    ],
)
def test_how_many_candidates_a_vote_begins_with(none, rules, fields, n_first):
    assert plan(none, rules=replace(RULES, **rules), **fields).n_first == n_first


def test_a_heavy_member_makes_the_first_wave_smaller(tmp_path):
    members = [member(opened(tmp_path / name, name), name, weight) for name, weight in (("random", 3), ("none", 1))]
    assert plan(*members, rules=replace(RULES, first="auto")).n_first == 5
    assert plan(*members, rules=replace(RULES, first="auto", n=4)).n_first == 3


# -- ensembles ---------------------------------------------------------------------------------------------------------


def test_members_are_asked_in_turn_each_through_its_own_manifest(tmp_path):
    members = [member(opened(tmp_path / name, name), name) for name in ("similar", "random", "none")]
    made = plan(*members)
    assert [planned.strategy for planned in made.members] == ["similar", "random", "none"]
    assert [planned.body["model"] for planned in made.members] == ["served-similar", "served-random", "served-none"]
    assert [planned.n for planned in made.members] == [3, 3, 2]
    assert [made.member_of(index).member.name for index in range(4)] == ["similar", "random", "none", "similar"]
    assert len({planned.body["messages"][0]["content"] for planned in made.members}) == 3


def test_without_a_vote_the_first_member_answers_alone(tmp_path):
    members = [member(opened(tmp_path / name, name), name) for name in ("similar", "random")]
    made = plan(*members, its={"vote": "off"})
    assert [planned.member.name for planned in made.members] == ["similar"]


def test_a_strategy_is_forced_on_all_members_that_have_another(tmp_path):
    members = [member(opened(tmp_path / name, name), name) for name in ("similar", "random")]
    made = plan(*members, its={"strategy": "random", "force": True})
    assert [planned.is_forced for planned in made.members] == [True, False]
    assert made.is_forced


# -- how few -----------------------------------------------------------------------------------------------------------


def sizes_of(*members: Member, rules: VoteRules, **fields: Any) -> list[int]:
    body = {"model": "model", "messages": [{"role": "user", "content": PROBLEM}], **fields}
    request = read_chat(body)
    return [made.n for made in sizes(make_plan(request, members, rules, RIGHTS, "model"), request)]


@pytest.mark.parametrize(("min_n", "fields", "expected"), [
    (None, {}, [8]), (3, {}, [8, 7, 5, 3]), (4, {}, [8, 7, 5, 4]), (1, {}, [8, 7, 5, 3, 1]), (8, {}, [8]), (9, {}, [8]),
    (3, {"n": 6}, [8, 7, 6]),
    (3, {"its": {"n": 8}}, [8]), (3, {"its": {"vote": "off"}}, [1]), (3, {"its": {"vote": "off"}, "n": 5}, [5]),
])  # fmt: skip
def test_a_vote_may_shrink_to_min_n_and_never_below_what_was_asked_for(none, min_n, fields, expected):
    assert sizes_of(none, rules=replace(RULES, min_n=min_n), **fields) == expected


def test_the_members_of_an_ensemble_keep_equal_shares(none, persona):
    three = [none, persona, replace(none, name="third")]
    rules = VoteRules(n=12, min_n=4)
    assert sizes_of(*three, rules=rules) == [12, 9, 6]
    request = read_chat({"model": "model", "messages": [{"role": "user", "content": PROBLEM}]})
    smallest = sizes(make_plan(request, three, rules, RIGHTS, "model"), request)[-1]
    assert [planned.n for planned in smallest.members] == [2, 2, 2]


def test_a_smaller_plan_differs_in_nothing_but_its_number(none):
    request = read_chat({"model": "model", "messages": [{"role": "user", "content": PROBLEM}], "seed": 5})
    whole, *_, least = sizes(
        make_plan(request, [none], VoteRules(n=8, min_n=3, first="auto"), RIGHTS, "model"), request
    )
    assert (whole.n_requested, whole.wave, least.n_requested, least.wave) == (None, 5, 8, 2)
    assert (least.seed, least.sampling, least.members[0].body) == (whole.seed, whole.sampling, whole.members[0].body)
