"""One strategy, driven in batches and by `await`: the same bytes."""

from collections.abc import Iterator

import pytest

from its_proxy.codesign import taxonomy
from its_proxy.codesign.canonical import canonical_json
from its_proxy.codesign.errors import StrategyUnavailable
from its_proxy.codesign.strategies import PersonaRequest, rewrite, rewrite_async
from tests.codesign.strategies.rewriting import IMAGE, NAMES, SYSTEM, WITH_PERSONA, assistant, queries, recipe, user


def written(request: PersonaRequest) -> str:
    return f"You know {request.domain} and {{query}} ({request.strategy}, {len(request.text)})."


async def written_later(request: PersonaRequest) -> str:
    return written(request)


@pytest.mark.parametrize("name", NAMES)
async def test_batch_and_async_give_the_same_bytes_with_a_pool(name: str) -> None:
    for n, query in enumerate(queries(60)):
        messages = [SYSTEM, user(query), assistant("3"), user([{"type": "text", "text": query}, IMAGE])]
        for row_id in (None, f"row {n}"):
            at_once = rewrite(recipe(name), messages, row_id=row_id)
            later = await rewrite_async(recipe(name), messages, row_id=row_id)
            assert canonical_json(at_once.messages) == canonical_json(later.messages)
            assert at_once == later


@pytest.mark.parametrize("name", NAMES)
async def test_batch_and_async_give_the_same_bytes_with_a_writer(name: str) -> None:
    for n, query in enumerate(queries(60)):
        messages = [user(query), assistant("3"), user(query)]
        for row_id in (None, f"row {n}"):
            at_once = rewrite(recipe(name, pool=None), messages, row_id=row_id, write=written)
            later = await rewrite_async(recipe(name, pool=None), messages, row_id=row_id, write=written_later)
            assert canonical_json(at_once.messages) == canonical_json(later.messages)
            assert at_once == later


@pytest.mark.parametrize("name", WITH_PERSONA)
def test_a_writer_is_asked_for_the_domain_that_the_strategy_picks_once_a_turn(name: str) -> None:
    asked: list[PersonaRequest] = []

    def write(request: PersonaRequest) -> str:
        asked.append(request)
        return "You write {persona} and {query}."

    messages = [user("The chef has 3 eggs."), assistant("3"), user("And 4 trains?")]
    rewritten = rewrite(recipe(name, pool=None), messages, write=write)
    assert len(asked) == 2
    assert {request.domain for request in asked} <= {*taxonomy.NAMES, taxonomy.GENERAL}
    if name != "fixed":
        assert [request.text for request in asked] == ["The chef has 3 eggs.", "And 4 trains?"]
    if name == "similar":
        assert [request.domain for request in asked] == ["cooking", "railways"]
    if name != "filler":
        assert rewritten.messages[0] == user("You write {persona} and {query}.\n\nThe chef has 3 eggs.")


@pytest.mark.parametrize("name", WITH_PERSONA)
async def test_without_pool_and_writer_the_strategy_is_unavailable(name: str) -> None:
    with pytest.raises(StrategyUnavailable, match=name):
        rewrite(recipe(name, pool=None), [user("3 eggs")])
    with pytest.raises(StrategyUnavailable, match=name) as refusal:
        await rewrite_async(recipe(name, pool=None), [user("3 eggs")])
    assert refusal.value.is_retryable


def test_none_needs_neither_pool_nor_writer() -> None:
    assert rewrite(recipe("none", pool=None), [user("3 eggs")]).messages == [user("3 eggs")]


async def test_a_writer_that_fails_is_heard() -> None:
    texts: Iterator[str] = iter(["You cook."])

    def write(request: PersonaRequest) -> str:
        return next(texts)

    async def write_later(request: PersonaRequest) -> str:
        raise StrategyUnavailable("the writer is down")

    with pytest.raises(StopIteration):
        rewrite(recipe("random", pool=None), [user("3 eggs"), user("4 eggs")], write=write)
    with pytest.raises(StrategyUnavailable, match="is down"):
        await rewrite_async(recipe("random", pool=None), [user("3 eggs")], write=write_later)
