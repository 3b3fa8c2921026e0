"""Plain chat completions, voted and passed through, over a scripted upstream."""

import asyncio

import pytest

from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, model_settings, serving, serving_script, tokens_of, write_checkpoint

CHAT_QUERY = "Hello, who are you?"
ANSWERABLE = "Which of these is right, and how many are 2 + 5?"
LOCKED = {"keys": [{"name": "team", "env": "TEAM_KEY"}, {"name": "lab", "env": "LAB_KEY", "rights": ["force"]}]}
KEYS = {"TEAM_KEY": "team-secret", "LAB_KEY": "lab-secret"}


def box(value):
    return Say(f"so it is \\boxed{{{value}}}")


def by_index(*says, base=100):
    """Candidate k says `says[k]`: requests that use it send `seed=base`."""
    return lambda body, number: says[body["seed"] - base]


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


@pytest.fixture
def plain_checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "plain", manifest("none"))


def text_sent(upstream, number=0):
    return upstream.bodies[number]["messages"][-1]["content"]


class TestTheReply:
    async def test_a_voted_reply_has_all_that_clients_need(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, _):
            reply = await server.ask()
        completion = reply.json
        assert completion["id"].startswith("chatcmpl-")
        assert completion["object"] == "chat.completion"
        assert completion["created"] > 1_700_000_000
        assert completion["model"] == "model"
        assert completion["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "so it is \\boxed{7}"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert set(completion["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert completion["its"]["version"] == 1

    async def test_what_an_upstream_leaves_out_is_filled_in(self, checkpoint):
        bare = Say(raw=b'{"choices": [{"message": {"content": "\\\\boxed{7}"}, "finish_reason": "stop"}]}')
        async with serving_script(bare, checkpoint) as (server, _):
            _, completion = await server.chat()
        message = {"role": "assistant", "content": "\\boxed{7}"}
        assert completion["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
        assert completion["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

    async def test_the_winner_is_untouched_unknown_fields_included(self, checkpoint):
        raw = (
            b'{"system_fingerprint": "fp", "choices": [{"index": 0, "finish_reason": "stop", "stop_reason": 7, '
            b'"message": {"role": "assistant", "content": "\\\\boxed{7}", "reasoning": "hm"}}]}'
        )
        async with serving_script(Say(raw=raw), checkpoint) as (server, _):
            _, completion = await server.chat()
        assert completion["system_fingerprint"] == "fp"
        assert completion["choices"][0]["stop_reason"] == 7
        assert completion["choices"][0]["message"]["reasoning"] == "hm"

    async def test_strange_usage_and_content_of_an_upstream_are_no_error_of_ours(self, checkpoint):
        choice = b'{"finish_reason": "stop", "message": {"content": ["x"]}}'
        raw = b'{"choices": [' + choice + b'], "usage": {"prompt_tokens": "9"}}'
        async with serving_script(Say(raw=raw), checkpoint) as (server, _):
            status, completion = await server.chat(its={"candidates": True})
        assert status == 200
        assert completion["usage"]["prompt_tokens"] == 0
        assert completion["its"]["candidates"][0]["text"] is None

    async def test_headers_tell_the_vote_to_clients_that_drop_unknown_fields(self, checkpoint):
        script = by_index(*[box(7)] * 5, *[box(8)] * 2, Say("cut", finish_reason="length"))
        async with serving_script(script, checkpoint) as (server, _):
            reply = await server.ask(seed=100, its={"stop": "none"})
            pair_id = server.context.catalog.served["model"].checkpoint.pair_id
        assert reply.headers["x-its-pair"] == pair_id[:16]
        assert reply.headers["x-its-votes"] == "7/8/8"
        assert reply.headers["x-its-agreement"] == "0.7143"
        assert "x-its-degraded" not in reply.headers
        assert reply.json["its"]["abstained"] == {"truncated": 1}

    async def test_the_clients_request_id_comes_back_and_goes_on_numbered(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            body = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}]}
            reply = await server.send("POST", "/v1/chat/completions", body, {"x-request-id": "mine-1"})
            assert reply.headers["x-request-id"] == "mine-1"
            assert reply.json["id"] == "chatcmpl-mine-1"
            ids = {value for headers in upstream.headers for name, value in headers.items() if name == "X-Request-ID"}
            assert ids
            assert ids <= {f"mine-1-{k}" for k in range(8)}

    @pytest.mark.parametrize("presented", ["", "x" * 65, "a b", "a;b", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
    async def test_a_request_id_that_could_harm_a_log_is_replaced(self, checkpoint, presented):
        async with serving_script(box(7), checkpoint) as (server, _):
            reply = await server.get("/livez", **{"x-request-id": presented})
        assert reply.headers["x-request-id"] not in ("", presented)


class TestPassThrough:
    async def test_the_request_goes_on_as_it_came_and_the_reply_comes_back_as_it_was(self):
        async with serving_script(Say("hello"), None) as (server, upstream):
            reply = await server.ask(n=1, seed=5, temperature=0, guided_regex="x", tools=[], chat_template="own")
            assert reply.json["id"] == "cmpl-upstream"
            assert "its" not in reply.json
            assert reply.headers["x-request-id"]
            assert upstream.bodies == [
                {
                    "model": "model",
                    "messages": [{"role": "user", "content": "What is 2 + 5?"}],
                    "n": 1,
                    "seed": 5,
                    "temperature": 0,
                    "guided_regex": "x",
                    "tools": [],
                    "chat_template": "own",
                }
            ]

    @pytest.mark.parametrize("fields", [{"its": {"n": 8}}, {"model": "model:its-8"}, {"model": "model:its-off"}])
    async def test_what_cannot_be_done_without_a_manifest_is_refused_not_ignored(self, fields):
        async with serving_script(Say("hello"), None) as (server, upstream):
            reply = await server.ask(**fields)
            assert (reply.status, reply.error["param"]) == (400, "its")
            assert upstream.bodies == []

    async def test_only_the_models_that_an_open_upstream_lists_are_passed_through(self):
        async with serving_script(Say("hello"), None, models={}) as (server, upstream):
            assert (await server.chat())[0] == 200
            assert (await server.chat(model="other"))[0] == 404
            assert (await server.ask(model="model:its-8")).error["param"] == "its"
            assert len(upstream.bodies) == 1

    async def test_embeddings_go_on_to_a_model_without_a_strategy(self, plain_checkpoint):
        for checkpoint in (None, plain_checkpoint):
            async with serving_script(Say("hello"), checkpoint) as (server, upstream):
                reply = await server.send("POST", "/v1/embeddings", {"model": "model", "input": "2 + 5 ="})
                assert reply.status == 200
                assert upstream.bodies == [{"model": "model", "input": "2 + 5 ="}]


class TestVoteAuto:
    async def test_an_ordinary_chat_question_makes_one_call_and_says_so(self, checkpoint):
        async with serving_script(Say("I am a model."), checkpoint) as (server, upstream):
            status, completion = await server.chat(CHAT_QUERY)
            assert status == 200
            assert completion["its"]["stopped"] == "no_answer"
            assert completion["its"]["answer"] is None
            assert completion["its"]["cancelled"]["candidates"] == 0
            assert len(upstream.bodies) == 1
            assert text_sent(upstream).endswith(CHAT_QUERY)
            assert text_sent(upstream) != CHAT_QUERY, "one candidate is rewritten like eight"

    async def test_an_ordinary_question_whose_reply_holds_an_answer_is_topped_up_to_a_vote(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            _, completion = await server.chat(CHAT_QUERY)
            assert completion["its"]["votes"].keys() == {"7"}
            assert completion["its"]["stopped"] in ("decided", "complete")
            assert len(upstream.bodies) >= 5, "a majority of eight"

    async def test_a_question_that_only_looks_answerable_costs_two_candidates(self, checkpoint):
        def script(body, number):
            return Say("That depends.", delay_s=0.01 if number < 2 else 30)

        async with serving_script(script, checkpoint) as (server, upstream):
            status, completion = await server.chat(ANSWERABLE)
            await upstream.until(lambda: upstream.n_open == 0)
            assert (upstream.n_finished, upstream.n_cancelled) == (2, 6)
        assert status == 200
        assert completion["its"]["stopped"] == "no_answer"
        assert completion["its"]["abstained"] == {"no_answer": 2}
        assert completion["its"]["cancelled"]["candidates"] == 6

    @pytest.mark.parametrize(
        "fields",
        [
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {"max_tokens": 1},
            {"max_completion_tokens": 16},
            {"its": {"vote": "off"}},
            {"its": {"n": 1}},
            {"model": "model:its-off"},
            {"model": "model:its-1"},
            {"query": "### Task:\nGenerate a concise, 3-5 word title for: what is 2 + 5?"},
        ],
    )
    async def test_one_candidate_is_enough_for(self, checkpoint, fields):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            status, completion = await server.chat(**fields)
            assert status == 200
            assert completion["its"]["n"] == 1
            assert len(upstream.bodies) == 1

    async def test_tools_in_a_persona_models_prompt_are_told_on_the_reply(self, checkpoint):
        tools = [{"type": "function", "function": {"name": "f"}}]
        async with serving_script(box(7), checkpoint) as (server, _):
            reply = await server.ask(tools=tools)
            streamed = await server.ask(tools=tools, stream=True)
        assert (reply.json["its"]["degraded"], reply.headers["x-its-degraded"]) == ("tools", "tools")
        assert streamed.headers["x-its-degraded"] == "tools"

    async def test_always_asks_all_of_them_whatever_the_question(self, checkpoint):
        async with serving_script(Say("I am a model."), checkpoint) as (server, upstream):
            _, completion = await server.chat(CHAT_QUERY, its={"vote": "always"})
            assert len(upstream.bodies) == 8
            assert completion["its"]["abstained"] == {"no_answer": 8}

    async def test_a_suffix_sets_n_and_the_body_wins_over_it(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            for fields, n in [({"model": "model:its-4"}, 4), ({"model": "model:its-4", "its": {"n": 2}}, 2)]:
                upstream.forget()
                _, completion = await server.chat(**fields)
                assert completion["its"]["n"] == n == len(upstream.bodies)
                assert completion["model"] == fields["model"], "clients get back the name they asked for"
            _, completion = await server.chat(model="model:its-off", its={"vote": "always"})
            assert completion["its"]["n"] == 8


class TestOverrides:
    async def test_another_strategy_needs_force_and_is_marked(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            assert (await server.ask(its={"strategy": "none"})).status == 400
            reply = await server.ask(its={"strategy": "none", "force": True})
            assert text_sent(upstream) == "What is 2 + 5?"
        assert reply.json["its"]["strategy"] == "none"
        assert reply.json["its"]["forced"] is True
        assert reply.headers["x-its-degraded"] == "forced"

    async def test_a_forced_persona_reaches_a_plain_model(self, plain_checkpoint):
        async with serving_script(box(7), plain_checkpoint) as (server, upstream):
            reply = await server.ask(its={"strategy": "similar", "force": True}, stream=True, max_tokens=5)
            assert text_sent(upstream).endswith("\n\nWhat is 2 + 5?")
            assert reply.headers["x-its-degraded"] == "forced"

    async def test_the_papers_letter_for_the_recorded_strategy_forces_nothing(self, plain_checkpoint):
        async with serving_script(box(7), plain_checkpoint) as (server, _):
            _, completion = await server.chat(its={"strategy": "N"})
        assert completion["its"]["forced"] is False

    async def test_rights_are_asked_for(self, checkpoint):
        none = {"strategy": "none", "force": True}
        async with serving_script(box(7), checkpoint, environ=KEYS, **LOCKED) as (server, upstream):
            refused = await server.ask(its=none, key="team-secret")
            assert (refused.status, refused.error["type"], refused.error["code"]) == (
                403, "permission_error", "not_permitted",
            )  # fmt: skip
            assert (await server.ask(its={"explain": True}, key="lab-secret")).status == 403
            assert (await server.ask(its={"candidates": True}, key="lab-secret")).status == 403
            assert upstream.bodies == []
            assert (await server.ask(its=none, key="lab-secret")).status == 200
            assert (await server.ask(its={"explain": True}, key="team-secret")).status == 200

    async def test_without_keys_an_operator_may_still_forbid_force(self, checkpoint):
        async with serving_script(box(7), checkpoint, allow_force=False) as (server, _):
            assert (await server.ask(its={"strategy": "none", "force": True})).status == 403
            assert (await server.ask(its={"explain": True})).status == 200

    async def test_explain_shows_the_very_messages_and_calls_nobody(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            _, plan = await server.chat(its={"explain": True}, stream=True, seed=3)
            assert upstream.bodies == []
            await server.chat(seed=3, its={"stop": "none"})
            assert [body["messages"] for body in upstream.bodies] == [plan["members"][0]["messages"]] * 8
            assert sorted(body["seed"] for body in upstream.bodies) == plan["seeds"]
        assert plan["object"] == "its.plan"
        assert plan["members"][0]["body"]["model"] == "model"

    async def test_candidates_are_shown_on_request_and_only_then(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, _):
            _, completion = await server.chat(seed=100, its={"candidates": True, "stop": "none"})
            assert [c["seed"] for c in completion["its"]["candidates"]] == list(range(100, 108))
            assert {c["answer"] for c in completion["its"]["candidates"]} == {"7"}
            assert (await server.chat())[1]["its"]["candidates"] is None

    async def test_a_candidate_tells_when_it_started_and_finished(self, checkpoint):
        script = by_index(*[Say(r"\boxed{7}", delay_s=0.05)] * 7, Say(r"\boxed{7}", delay_s=0.2))
        async with serving_script(script, checkpoint) as (server, _):
            _, completion = await server.chat(seed=100, its={"candidates": True, "stop": "none"})
        candidates = completion["its"]["candidates"]
        assert all(0 <= c["started_s"] < c["finished_s"] - 0.04 for c in candidates)
        assert max(candidates, key=lambda c: c["finished_s"])["index"] == 7
        assert {c["first_token_s"] for c in candidates} == {None}

    async def test_a_client_librarys_temperature_0_does_not_turn_the_vote_off(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            _, completion = await server.chat(temperature=0, top_p=1, presence_penalty=0.5)
            assert completion["its"]["sampling"] == {"temperature": 0.8, "top_p": 0.95}
            assert {(body["temperature"], body["top_p"]) for body in upstream.bodies} == {(0.8, 0.95)}
            assert {body["presence_penalty"] for body in upstream.bodies} == {0.5}
            upstream.forget()
            _, completion = await server.chat(temperature=0.3, its={"sampling": "client"})
            assert {body["temperature"] for body in upstream.bodies} == {0.3}
            assert completion["its"]["sampling"] == {"temperature": 0.3}
            upstream.forget()
            await server.chat(temperature=0, its={"vote": "off"})
            assert upstream.bodies[0]["temperature"] == 0, "one candidate is sampled as its client says"

    async def test_the_smaller_of_both_caps_is_sent(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            for fields, sent in [
                ({}, {"max_tokens": 256}),
                ({"max_tokens": 100}, {"max_tokens": 100}),
                ({"max_tokens": 9_999}, {"max_tokens": 256}),
                ({"max_completion_tokens": 100}, {"max_completion_tokens": 100}),
            ]:
                upstream.forget()
                await server.chat(**fields)
                assert {k: v for k, v in upstream.bodies[0].items() if k.startswith("max_")} == sent

    async def test_candidate_k_gets_seed_plus_k_and_the_seed_is_told(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            _, completion = await server.chat(seed=1234, its={"stop": "none"})
            assert sorted(body["seed"] for body in upstream.bodies) == list(range(1234, 1242))
            assert completion["its"]["seed"] == 1234
            upstream.forget()
            _, completion = await server.chat(its={"stop": "none"})
            seeds = sorted(body["seed"] for body in upstream.bodies)
            assert seeds == list(range(completion["its"]["seed"], completion["its"]["seed"] + 8))

    async def test_its_and_stream_fields_never_reach_an_upstream(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            streaming = {"stream": True, "stream_options": {"include_usage": True}}
            await server.ask(its={"n": 3}, n=2, logit_bias={"5": 1}, **streaming)
            for body in upstream.bodies:
                assert not body.keys() & {"its", "stream", "stream_options", "n"}
                assert body["logit_bias"] == {"5": 1}

    async def test_the_clients_headers_and_key_stay_here(self, checkpoint):
        async with serving_script(box(7), checkpoint, environ=KEYS, **LOCKED) as (server, upstream):
            await server.ask(key="team-secret")
            for headers in upstream.headers:
                assert "Authorization" not in headers
                assert "team-secret" not in str(headers)


class TestVerdicts:
    SPLIT = staticmethod(by_index(*[box(k % 4) for k in range(8)]))

    async def test_low_agreement_is_marked(self, checkpoint):
        async with serving_script(self.SPLIT, checkpoint) as (server, _):
            status, completion = await server.chat(seed=100, its={"min_agreement": 0.6})
        assert status == 200
        assert completion["its"]["consensus"] is False
        assert completion["its"]["tie"] is True
        assert completion["its"]["answer"] == "0"

    async def test_low_agreement_is_an_error_for_a_client_that_insists(self, checkpoint):
        async with serving_script(self.SPLIT, checkpoint) as (server, _):
            reply = await server.ask(seed=100, its={"min_agreement": 0.6, "on_no_consensus": "error"})
        assert (reply.status, reply.error["code"], reply.error["type"]) == (422, "no_consensus", "vote_error")
        assert reply.headers["x-should-retry"] == "false"

    async def test_no_answer_is_an_error_for_a_client_that_insists(self, checkpoint):
        async with serving_script(Say("That depends."), checkpoint) as (server, _):
            reply = await server.ask(ANSWERABLE, its={"on_no_answer": "error"})
        assert (reply.status, reply.error["code"]) == (422, "no_vote")
        assert reply.headers["x-should-retry"] == "false"


class TestCost:
    async def test_usage_sums_all_candidates_and_the_prompts_of_cancelled_ones(self, checkpoint):
        def script(body, number):
            return Say("\\boxed{7}", delay_s=30 if number >= 5 else 0.01 * number)

        async with serving_script(script, checkpoint) as (server, upstream):
            _, completion = await server.chat()
            await upstream.until(lambda: upstream.n_open == 0)
            assert (upstream.n_finished, upstream.n_cancelled) == (5, 3)
        assert completion["usage"] == {"prompt_tokens": 8 * 7, "completion_tokens": 50, "total_tokens": 8 * 7 + 50}
        assert completion["its"]["cancelled"]["candidates"] == 3
        assert completion["its"]["cancelled"]["prompt_tokens"] == 21
        assert completion["its"]["usage_winner"] == {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}

    async def test_more_choices_come_with_the_winner_first_then_by_their_class(self, checkpoint):
        says = [box(9), box(5), box(7), box(7), box(5), box(7), Say("hm"), box(7)]
        async with serving_script(by_index(*says), checkpoint) as (server, _):
            _, completion = await server.chat(seed=100, n=8)
        texts = [choice["message"]["content"] for choice in completion["choices"]]
        assert [choice["index"] for choice in completion["choices"]] == list(range(8))
        assert texts == ["so it is \\boxed{7}"] * 4 + ["so it is \\boxed{5}"] * 2 + ["so it is \\boxed{9}", "hm"]

    async def test_without_a_vote_n_choices_are_n_candidates(self, checkpoint):
        async with serving_script(box(7), checkpoint) as (server, upstream):
            _, completion = await server.chat(n=3, its={"vote": "off"})
            assert len(completion["choices"]) == 3 == len(upstream.bodies)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_when_the_client_leaves_all_candidates_are_cancelled(self, checkpoint, stream):
        async with serving_script(Say("\\boxed{7}", delay_s=60), checkpoint) as (server, upstream):
            asking = asyncio.create_task(server.ask(stream=stream))
            await upstream.until(lambda: len(upstream.bodies) == 8)
            asking.cancel()
            await upstream.until(lambda: upstream.n_cancelled == 8)


async def test_a_one_sided_pair_is_served_only_where_the_operator_forces_it_and_is_marked(tmp_path):
    folder = write_checkpoint(tmp_path, manifest("random", "none"))
    async with scripted_upstream(lambda body, number: Say("\\boxed{7}")) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        async with serving(model_settings(upstream.url, folder) | {"strict": False}) as server:
            refused = await server.ask()
        async with serving(model_settings(upstream.url, folder, force_pair=True)) as server:
            forced = await server.ask()
    assert refused.status == 503
    assert "one side only" in refused.error["message"]
    assert (forced.status, forced.json["its"]["forced"]) == (200, True)
    assert forced.headers["x-its-degraded"] == "forced"
