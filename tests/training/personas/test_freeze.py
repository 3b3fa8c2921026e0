"""A ledger frozen into a pool: complete or told what is missing, the same bytes again, and believed by the proxy."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from its_proxy.checkpoint import folder_digest
from its_proxy.codesign import taxonomy
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import WrittenBy
from its_proxy.codesign.personas import Pool
from its_proxy.codesign.strategies import Recipe, strategy_named
from its_training.personas.endpoints import Endpoints
from its_training.personas.freeze import Frozen, freeze, keep_prompts
from its_training.personas.ledger import open_ledger
from its_training.personas.prompts import packaged_prompts
from its_training.personas.tasks import tasks_per_domain
from its_training.personas.write import Writer, write
from its_training.prepare.pools import open_source
from tests.scripted import Say, scripted_upstream
from tests.training.personas.crooked_writer import crooked_writer
from tests.training.personas.small_work import queries, write_all


async def written(work: Path, *, n: int = 2, model: str = "writer", concurrency: int = 16, domains: int = 99) -> Path:
    """A ledger with `n` personas of each of the first domains."""
    work.mkdir(exist_ok=True)
    writer = Writer(model, {"temperature": 1.0}, packaged_prompts())
    keep_prompts(work, writer.prompts)
    tasks = (task for k, task in enumerate(tasks_per_domain(n, 0)) if k < n * domains)
    async with crooked_writer(1, honest_share=1.0) as server:
        with open_ledger(work, create=True) as ledger:
            async with Endpoints([server.url], key=None, timeout_s=10, max_failures=0) as endpoints:
                await write(writer, tasks, endpoints, ledger, concurrency=concurrency)
    return work


def frozen(work: Path, out: Path, **more: object) -> Frozen:
    with open_ledger(work) as ledger:
        return freeze(ledger, work, out, **more)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


async def test_the_pool_serves_every_strategy_and_names_its_prompts(tmp_path: Path) -> None:
    pool = frozen(await written(tmp_path / "work"), tmp_path / "pool").pool
    for strategy in ("similar", "dissimilar", "random", "shuffled"):
        Recipe(strategy_named(strategy), pool=pool)  # raises where a domain is missing
    data = (tmp_path / "pool/its-personas.jsonl").read_bytes()
    assert Pool.from_jsonl(data).sha256 == sha256(data).hexdigest() == pool.sha256
    written_by = WrittenBy.model_validate_json((tmp_path / "pool/written_by.json").read_bytes())
    assert (written_by.model, written_by.sampling) == ("writer", {"temperature": 1.0})
    assert written_by.prompts is not None
    assert written_by.prompts.sha256 == folder_digest(tmp_path / "pool" / written_by.prompts.folder)


async def test_preparation_opens_the_frozen_folder(tmp_path: Path) -> None:
    frozen(await written(tmp_path / "work"), tmp_path / "pool")
    source = open_source(tmp_path / "pool")
    assert source.personas.written_by is not None
    assert source.personas.written_by.model == "writer"


async def test_freezing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    work = await written(tmp_path / "work")
    first, second = frozen(work, tmp_path / "pool one"), frozen(work, tmp_path / "pool two")
    assert contents(tmp_path / "pool one") == contents(tmp_path / "pool two")
    assert first == second


async def test_the_order_in_which_replies_came_does_not_matter(tmp_path: Path) -> None:
    def script(body: dict[str, Any], n: int) -> Say:
        """The same words for the same task, after a while that depends on when it was asked."""
        asked = dict(line.split(": ", 1) for line in body["messages"][1]["content"].splitlines() if ": " in line)
        words = asked["Use at least one of these words"].split(", ")
        text = f"A patient person who likes every {words[body['seed'] % len(words)]} and sleeps little."
        return Say(json.dumps({"persona": text, "domain": asked["Domain"]}), delay_s=n * 7 % 5 / 50)

    pools = []
    for concurrency in (1, 16):
        work = tmp_path / f"work {concurrency}"
        async with scripted_upstream(script) as server:
            await write_all(work, [server.url], queries(15), concurrency=concurrency)
        keep_prompts(work, packaged_prompts())
        pools.append(frozen(work, tmp_path / f"pool {concurrency}", allow_missing=True).pool.personas)
    assert pools[0] == pools[1]
    names = (*taxonomy.NAMES, taxonomy.GENERAL)
    assert list(pools[0]) == sorted(pools[0], key=lambda persona: (names.index(persona.domain), persona.text))


async def test_missing_domains_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    work = await written(tmp_path / "work", domains=39)
    with pytest.raises(ConfigError, match=r"no persona of 2 domains: painting and film, everyday life \(its-"):
        frozen(work, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()
    partial = frozen(work, tmp_path / "pool", allow_missing=True)
    assert partial.missing == ("painting and film", "everyday life")


async def test_personas_of_queries_and_of_domains_go_into_one_pool(tmp_path: Path) -> None:
    work = await written(tmp_path / "work", n=1)
    async with crooked_writer(2, honest_share=1.0) as server:
        await write_all(work, [server.url], queries(10), strategies=["similar"])
    assert len(frozen(work, tmp_path / "pool").pool.personas) > 41


async def test_a_pool_has_one_writer(tmp_path: Path) -> None:
    work = await written(tmp_path / "work", model="first")
    await written(work, model="second")
    with pytest.raises(ConfigError, match=r"written in 2 ways: .*--model chooses one"):
        frozen(work, tmp_path / "pool")
    assert frozen(work, tmp_path / "pool", model="second").written_by.model == "second"
    with pytest.raises(ConfigError, match="no persona was written by third"):
        frozen(work, tmp_path / "other", model="third")


async def test_a_folder_that_holds_another_pool_is_left_alone(tmp_path: Path) -> None:
    frozen(await written(tmp_path / "one", n=1), tmp_path / "pool")
    before = contents(tmp_path / "pool")
    other = await written(tmp_path / "two", n=3)
    with pytest.raises(ConfigError, match="was built by another recipe"):
        frozen(other, tmp_path / "pool")
    assert contents(tmp_path / "pool") == before


async def test_prompts_that_were_changed_since_are_refused(tmp_path: Path) -> None:
    work = await written(tmp_path / "work")
    (prompt,) = work.glob("prompts-*/its-persona-prompts/system.txt")
    prompt.write_text("Be bad.")
    with pytest.raises(ConfigError, match="does not hold the prompts that were sent"):
        frozen(work, tmp_path / "pool")


def test_the_packaged_prompts_are_a_plain_folder_with_our_schema() -> None:
    prompts = packaged_prompts()
    assert json.loads(prompts.texts["schema.json"])["additionalProperties"] is False
    assert len(prompts.sha256) == 64
