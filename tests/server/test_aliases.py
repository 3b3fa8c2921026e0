"""Several targets behind a model, aliases by weight, and what keeps a caller at one of them."""

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.handshake import NO_MANIFEST, Verdict
from its_proxy.plan import VoteRules
from its_proxy.served import Model, Served
from its_proxy.server.catalog import Alias
from its_proxy.settings import load_settings
from its_proxy.targets import Target
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, serving, tokens_of, write_checkpoint

# -- the draw ----------------------------------------------------------------------------------------------------------


def served(name, verdict=NO_MANIFEST):
    class Nowhere:
        name = "nowhere"

    return Served(name, (Model(name, None, (Target(name, Nowhere(), name, None, verdict=verdict),)),), VoteRules())


def drawn(alias, traits):
    return [alias.choose({alias.sticky: trait}).name for trait in traits]


QUERIES = [f"query {number}" for number in range(4000)]


def test_models_get_traffic_by_their_weight():
    alias = Alias("m", ((served("a"), 90), (served("b"), 10), (served("c"), 0)))
    counts = Counter(drawn(alias, QUERIES))
    assert set(counts) == {"a", "b"}
    assert 0.08 < counts["b"] / len(QUERIES) < 0.12


def test_the_same_trait_gets_the_same_model_and_new_weights_move_only_the_difference():
    a, b = served("a"), served("b")
    before, again, after = (drawn(Alias("m", ((a, 100 - share), (b, share))), QUERIES) for share in (10, 10, 20))
    assert before == again
    moved = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert set(moved) == {("a", "b")}
    assert 0.08 < len(moved) / len(QUERIES) < 0.12


def test_without_a_trait_every_query_is_drawn_anew():
    alias = Alias("m", ((served("a"), 1), (served("b"), 1)), sticky="none")
    assert {alias.choose({"none": None}).name for _ in range(100)} == {"a", "b"}


def test_what_does_not_serve_is_passed_over_and_weight_zero_is_never_used():
    gone = served("a", Verdict("mismatch", "why"))
    assert set(drawn(Alias("m", ((gone, 90), (served("b"), 10))), QUERIES[:50])) == {"b"}
    assert set(drawn(Alias("m", ((gone, 90), (served("c"), 0))), QUERIES[:50])) == {"a"}, "its own reason is told"


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def vote_for(answer):
    def say(body, number):
        if body.get("return_token_ids"):
            return Say("x", finish_reason="length")
        return Say(f"\\boxed{{{answer}}}")

    return say


@asynccontextmanager
async def fleet(folder, n=2, **settings):
    """Upstreams `s0`, `s1`, ... and models `a` (strategy random) and `b` (none), each wherever it is listed."""
    async with AsyncExitStack() as stack:
        upstreams = []
        for number in range(n):
            upstream = await stack.enter_async_context(scripted_upstream(vote_for(number), []))
            upstream.tokens = lambda body: tokens_of(body["messages"])
            upstreams.append(upstream)
        names = {}
        for name, strategy in (("a", "random"), ("b", "none")):
            write_checkpoint(folder / name, manifest(strategy))
            names[name] = f"{name}@{{pair}}"
        document = {
            "upstreams": {f"s{k}": {"url": upstream.url, "poll_s": 0.05} for k, upstream in enumerate(upstreams)},
            "models": {
                name: {"upstream": [f"s{k}" for k in range(n)], "checkpoint": folder / name, "served_name": served_name}
                for name, served_name in names.items()
            },
            **settings,
        }
        yield upstreams, document


def pair_names(folder):
    return {name: f"{name}@{open_checkpoint(folder / name).pair_id[:8]}" for name in ("a", "b")}


async def test_all_candidates_of_a_query_go_to_one_target_and_queries_to_all(tmp_path):
    async with fleet(tmp_path) as (upstreams, document):
        for upstream in upstreams:
            upstream.models[:] = pair_names(tmp_path).values()
        async with serving(document) as server:
            replies = [await server.ask(model="a", its={"stop": "none"}) for _ in range(20)]
    assert {reply.status for reply in replies} == {200}
    votes = [(reply.json["its"]["target"], reply.json["its"]["votes"]) for reply in replies]
    assert {str(vote) for vote in votes} == {str(("s0", {"0": 8})), str(("s1", {"1": 8}))}


async def test_a_target_that_answers_404_to_the_pairs_name_is_left_and_the_query_is_not_lost(tmp_path):
    async with fleet(tmp_path) as (upstreams, document):
        names = pair_names(tmp_path)
        for upstream in upstreams:
            upstream.models[:] = names.values()
        # Polls so rare that only the 404 itself can tell.
        for settings in document["upstreams"].values():
            settings["poll_s"] = 60.0
        async with serving(document) as server:
            upstreams[0].models[:] = [names["b"]]
            gone = upstreams[0].script
            upstreams[0].script = lambda body, number: Say(status=404) if body["model"] == names["a"] else gone(body, 0)
            replies = [await server.ask(model="a") for _ in range(30)]
            states = {target.upstream.name: target.state for target in server.context.catalog.served["a"].targets}
    assert {reply.status for reply in replies} == {200}
    assert {reply.json["its"]["lost"] for reply in replies} == {0}
    assert states == {"s0": "pending", "s1": "unverified"}


async def test_an_alias_answers_under_its_own_name_and_tells_whose_pair_it_was(tmp_path):
    aliases = {"best": {"models": {"a": 1, "b": 1}}}
    async with fleet(tmp_path, aliases=aliases) as (upstreams, document):
        for upstream in upstreams:
            upstream.models[:] = pair_names(tmp_path).values()
        async with serving(document) as server:
            replies = [(await server.ask(f"What is 2 + {k}?", model="best")).json for k in range(30)]
            again = [(await server.ask(f"What is 2 + {k}?", model="best")).json for k in range(30)]
            off = (await server.ask(model="best:its-off")).json
            cards = {card["id"]: card["its"] for card in (await server.get("/v1/models")).json["data"]}
    assert {reply["model"] for reply in replies} == {"best"}
    strategies = [reply["its"]["strategy"] for reply in replies]
    assert set(strategies) == {"none", "random"}
    assert strategies == [reply["its"]["strategy"] for reply in again], "a query stays where it began"
    assert off["its"]["n"] == 1
    assert cards["best"]["alias_of"] == {"a": 1, "b": 1}
    assert [t["handshake"] for t in cards["a"]["targets"]] == ["unverified", "unverified"]


async def test_a_conversation_stays_where_its_first_turn_began(tmp_path):
    aliases = {"best": {"models": {"a": 1, "b": 1}}}
    async with fleet(tmp_path, aliases=aliases) as (upstreams, document):
        for upstream in upstreams:
            upstream.models[:] = pair_names(tmp_path).values()
        async with serving(document) as server:
            for k in range(10):
                turns = [{"role": "user", "content": f"What is 2 + {k}?"}]
                first = (await server.ask(turns, model="best")).json
                turns += [first["choices"][0]["message"], {"role": "user", "content": "And doubled?"}]
                assert (await server.ask(turns, model="best")).json["its"]["pair_id"] == first["its"]["pair_id"]


async def test_when_the_last_target_goes_the_alias_asks_its_other_model(tmp_path):
    aliases = {"best": {"models": {"a": 1, "b": 1}}}
    async with fleet(tmp_path, n=1, aliases=aliases) as ([upstream], document):
        names = pair_names(tmp_path)
        upstream.models[:] = names.values()
        document["upstreams"]["s0"]["poll_s"] = 60.0
        async with serving(document) as server:
            upstream.models[:] = [names["b"]]
            upstream.script = lambda body, number: (
                Say(status=404) if body["model"] == names["a"] else vote_for("0")(body, number)
            )
            replies = [await server.ask(f"What is 2 + {k}?", model="best") for k in range(20)]
            streams = [await server.ask(f"What is 2 + {k}?", model="best", stream=True) for k in range(5)]
            direct = await server.ask(model="a")
    assert {reply.status for reply in replies} == {200}
    assert {reply.json["its"]["strategy"] for reply in replies} == {"none"}
    assert {stream.chunks[-1]["its"]["strategy"] for stream in streams} == {"none"}
    assert (direct.status, direct.error["code"]) == (503, "model_pending"), "by its own name no other model answers"


async def test_a_model_list_that_changes_is_noticed_and_examined(tmp_path):
    async with fleet(tmp_path, n=1) as ([upstream], document):
        names = pair_names(tmp_path)
        upstream.models[:] = [names["a"]]
        async with serving(document, wait=False) as server:
            states = lambda: {t.model: t.state for t in server.context.catalog.targets()}  # noqa: E731
            await upstream.until(lambda: states() == {"a": "unverified", "b": "pending"})
            upstream.models[:] = [names["b"]]
            await upstream.until(lambda: states() == {"a": "pending", "b": "unverified"})
            reply = await server.ask(model="a")
    assert (reply.status, reply.error["code"]) == (503, "model_pending")
    assert "does not list a@" in reply.error["message"]


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ({"a": {"models": {"b": 1}}}, "is also the name of a model"),
        ({"x": {"models": {"c": 1}}}, "no model is named 'c'"),
        ({"x": {"models": {"a": 0}}}, "every weight is 0"),
        ({"x": {"models": {}}}, "at least 1"),
        ({"x": {"models": {"a": 1}, "sticky": "moon"}}, "should be 'query', 'user', 'key' or 'none'"),
    ],
)
def test_an_alias_that_cannot_work_is_refused(aliases, words):
    settings = {"upstreams": {"s": {"url": "http://s/v1"}}, "models": {"a": {"upstream": "s"}, "b": {"upstream": "s"}}}
    with pytest.raises(ConfigError, match=words):
        load_settings(None, {}, {**settings, "aliases": aliases})
