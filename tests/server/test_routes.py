"""The routes around the chat: models, health, metrics, and who may use them."""

import pytest

from its_proxy.server.passed import FORM_ROUTES, JSON_ROUTES
from tests.scripted import Say
from tests.serving import manifest, model_settings, serving, serving_script, write_checkpoint

LOCKED = {"keys": [{"name": "team", "env": "TEAM_KEY"}, {"name": "other", "env": "OTHER_KEY"}]}
KEYS = {"TEAM_KEY": "team-secret", "OTHER_KEY": "other-secret"}
OPEN = ("/livez", "/health", "/readyz")
CLOSED = ("/v1/models", "/v1/models/model", "/metrics")


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


class TestModels:
    async def test_a_voted_model_tells_its_pair_and_its_handshake(self, checkpoint):
        async with serving_script(Say(), checkpoint) as (server, _):
            listed = (await server.get("/v1/models")).json
            shown = (await server.get("/v1/models/model")).json
            pair_id = server.context.catalog.served["model"].checkpoint.pair_id
        assert listed == {"object": "list", "data": [shown]}
        assert (shown["id"], shown["object"], shown["owned_by"]) == ("model", "model", "its-proxy")
        assert shown["its"]["pair_id"] == pair_id
        assert (shown["its"]["strategy"], shown["its"]["handshake"], shown["its"]["n"]) == ("random", "unverified", 8)

    async def test_an_open_upstreams_models_are_listed_with_a_line_of_advice(self):
        async with serving_script(Say(), None, models={}) as (server, upstream):
            upstream.models += ["org/other"]
            listed = (await server.get("/v1/models")).json["data"]
            assert [card["id"] for card in listed] == ["model", "org/other"]
            assert listed[0]["its"]["reason"].startswith("no manifest")
            assert (await server.get("/v1/models/org/other")).json["id"] == "org/other"

    async def test_an_open_upstream_that_is_down_lists_nothing(self):
        async with serving(model_settings("http://127.0.0.1:9/v1", None) | {"models": {}}) as server:
            assert (await server.get("/v1/models")).json["data"] == []
            assert (await server.ask()).status == 502

    async def test_a_model_that_is_not_here_is_not_found(self, checkpoint):
        async with serving_script(Say(), checkpoint) as (server, _):
            reply = await server.get("/v1/models/nobody")
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")


class TestHealth:
    async def test_a_server_with_a_model_is_ready(self, checkpoint):
        async with serving_script(Say(), checkpoint) as (server, _):
            assert [(await server.get(path)).status for path in OPEN] == [200, 200, 200]
            assert (await server.get("/readyz")).json == {"status": "ready", "models": 1, "serving": 1}

    async def test_a_server_none_of_whose_models_serves_lives_but_is_not_ready(self, tmp_path):
        broken = write_checkpoint(tmp_path / "broken", manifest("random", "none"))
        async with serving(model_settings("http://127.0.0.1:9/v1", broken) | {"strict": False}) as server:
            assert [(await server.get(path)).status for path in OPEN] == [200, 200, 503]

    async def test_a_server_that_is_ending_is_not_ready_but_still_answers(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            server.context.is_draining = True
            assert (await server.get("/readyz")).status == 503
            assert (await server.chat())[0] == 200

    async def test_a_required_handshake_that_proves_nothing_is_refused(self, checkpoint):
        models = {"model": {"upstream": "gpu", "checkpoint": checkpoint, "handshake": "require"}}
        async with serving_script(Say(), checkpoint, models=models) as (server, _):
            reply = await server.ask()
        assert (reply.status, reply.error["code"]) == (503, "model_unverified")


class TestKeys:
    @pytest.mark.parametrize(
        "authorization",
        [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic team-secret", "team-secret", "Bearer TEAM-SECRET",
         "Bearer team-secret other", "Bearer \N{LATIN SMALL LETTER E WITH ACUTE}", "Bearer " + "x" * 5_000],
    )  # fmt: skip
    async def test_a_stranger_gets_the_same_401_everywhere(self, checkpoint, authorization):
        headers = {} if authorization is None else {"Authorization": authorization}
        async with serving_script(Say(), checkpoint, environ=KEYS, **LOCKED) as (server, upstream):
            replies = [await server.get(path, **headers) for path in CLOSED]
            for path in ("/v1/chat/completions", "/v1/completions", *JSON_ROUTES, *FORM_ROUTES):
                replies.append(await server.send("POST", path, b"not even JSON", headers))
            assert upstream.bodies == []
        assert {reply.status for reply in replies} == {401}
        assert len({reply.raw for reply in replies}) == 1
        assert replies[0].error["code"] == "invalid_api_key"
        assert replies[0].headers["WWW-Authenticate"] == "Bearer"

    async def test_no_route_is_open_but_those_that_are_meant_to_be(self, checkpoint):
        """By the application's own table, so that a route added later is asked, too."""
        async with serving_script(Say(), checkpoint, environ=KEYS, **LOCKED) as (server, upstream):
            opened = set()
            for method, pattern in server.site.app.router.routes():
                path = pattern.replace("{name}", "app.js" if pattern.startswith("/playground") else "model")
                reply = await server.send(method, path)
                assert reply.status in (200, 401), path
                if reply.status == 200:
                    opened.add(path)
            assert opened == {*OPEN, "/playground", "/playground/app.js"}
            assert upstream.bodies == []

    @pytest.mark.parametrize("key", KEYS.values())
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
    async def test_each_key_opens_every_route(self, checkpoint, key, scheme):
        async with serving_script(Say("\\boxed{7}"), checkpoint, environ=KEYS, **LOCKED) as (server, _):
            for path in CLOSED:
                assert (await server.get(path, Authorization=f"{scheme} {key}")).status == 200
            assert (await server.ask(key=key)).status == 200

    async def test_open_routes_ask_for_no_key_and_tell_no_names(self, checkpoint):
        async with serving_script(Say(), checkpoint, environ=KEYS, **LOCKED) as (server, _):
            for path in OPEN:
                reply = await server.get(path)
                assert reply.status == 200
                assert b'"model"' not in reply.raw

    async def test_without_keys_any_authorization_will_do(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            for authorization in ("Bearer", "Bearer DUMMY_KEY", "Basic x"):
                assert (await server.get("/v1/models", Authorization=authorization)).status == 200


class TestMetrics:
    async def test_a_vote_is_counted(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            await server.chat(its={"stop": "none"})
            reply = await server.get("/metrics")
        lines = reply.raw.decode().splitlines()
        assert reply.headers["Content-Type"].startswith("text/plain")
        assert 'its_proxy_requests_total{code="200",model="model"} 1.0' in lines
        assert 'its_proxy_candidates_total{model="model",state="ok"} 8.0' in lines
        assert 'its_proxy_votes_total{model="model",stopped="complete"} 1.0' in lines
        assert 'its_proxy_generated_tokens_total{model="model"} 80.0' in lines
        assert "its_proxy_inflight_requests 1.0" in lines, "the one that asks"

    async def test_a_decided_vote_tells_what_it_saved_and_who_abstained(self, checkpoint):
        def answer(body, number):
            if number == 0:
                return Say("I do not know")
            if number == 1:
                return Say("\\boxed{", finish_reason="length")
            return Say("\\boxed{7}", delay_s=0.0 if number < 7 else 30.0)

        async with serving_script(answer, checkpoint) as (server, _):
            await server.chat(its={"vote": "always"})
            total = server.context.metrics.registry.get_sample_value
            assert total("its_proxy_candidates_saved_total", {"model": "model", "stopped": "decided"}) == 1
            for reason in ("no_answer", "truncated"):
                assert total("its_proxy_abstentions_total", {"model": "model", "reason": reason}) == 1
            assert total("its_proxy_wasted_tokens_total", {"model": "model"}) >= 10
            assert total("its_proxy_vote_agreement_ratio_count", {"model": "model"}) == 1

    async def test_agreement_is_of_votes_that_somebody_cast_a_ballot_in(self, checkpoint):
        def answer(body, number):
            return Say("hello", delay_s=0.0 if number < 2 else 30.0)

        async with serving_script(answer, checkpoint) as (server, _):
            await server.chat()
            total = server.context.metrics.registry.get_sample_value
            assert total("its_proxy_votes_total", {"model": "model", "stopped": "no_answer"}) == 1
            assert total("its_proxy_candidates_saved_total", {"model": "model", "stopped": "no_answer"}) == 6
            assert total("its_proxy_vote_agreement_ratio_count", {"model": "model"}) is None

    async def test_what_votes_are_held_against_stands_beside_them(self, tmp_path):
        measured = {"benchmark": "sums", "split": "test", "items": 9, "metric": "pass@1", "value": 0.75}
        evaluated = write_checkpoint(tmp_path / "evaluated", manifest("random", evaluation=[measured]))
        async with serving_script(Say("\\boxed{7}"), evaluated) as (server, _):
            lines = (await server.get("/metrics")).raw.decode().splitlines()
        assert 'its_proxy_evaluated_agreement_ratio{model="model"} 0.75' in lines
        assert "its_proxy_candidates_limit 512.0" in lines
        assert any(line.startswith("process_resident_memory_bytes ") for line in lines)

    async def test_what_clients_say_never_becomes_a_series(self, checkpoint):
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            await server.chat()
            await server.chat(model="unknown")
            await server.get("/v1/unknown")
            before = self.series((await server.get("/metrics")).raw)
            for number in range(100):
                await server.chat(model=f"unknown-{number}")
                await server.chat(model=f"model:its-{number + 100}")
                await server.get(f"/v1/unknown-{number}")
                await server.get(f"/v1/models/unknown-{number}")
            after = self.series((await server.get("/metrics")).raw)
        assert after - before <= {'its_proxy_requests_total{code="400",model="model"}',
                                  'its_proxy_requests_created{code="400",model="model"}'}  # fmt: skip
        assert not any("unknown" in name for name in after)

    @staticmethod
    def series(exposition: bytes) -> set[str]:
        return {line.rpartition(" ")[0] for line in exposition.decode().splitlines() if not line.startswith("#")}
