"""The quality report: figures that can be worked out by hand, the order told as it is, pages from every source."""

import json
from collections.abc import Callable
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest
from PIL import Image

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_training.personas.duplicates import THRESHOLD, find_duplicates
from its_training.personas.freeze import POOL_FILE
from its_training.personas.page import page
from its_training.personas.picture import draw
from its_training.personas.quality import measure
from its_training.personas.similarity import WordSimilarity, domain_similarity
from its_training.personas.sources import Source, Written, open_source
from tests.training.personas.crooked_writer import crooked_writer
from tests.training.personas.small_work import answers, queries, write_all, write_file


def prepared(folder: Path, arms: dict[str, str], n: int = 60) -> Path:
    """A prepared data set as its-train prepare lays it out: arm name -> strategy that its rows were made with."""
    (folder / "arms").mkdir(parents=True)
    for arm, strategy in arms.items():
        recipe = Recipe(strategy_named(strategy), pool=taxonomy_pool(), seed=7)
        rows = []
        for query in queries(n):
            rewritten = rewrite(recipe, [{"role": "user", "content": query.text}], row_id=query.id)
            persona = rewritten.personas.get(0)
            text, domain = (persona.text, persona.domain) if persona else (None, None)
            told = {"strategy": strategy, "text": text, "domain": domain, "generator": "template personas"}
            rows.append({"id": query.id, "query": query.text, "answer": query.answer, "persona": told})
        (folder / f"arms/{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {arm: {"file": f"arms/{arm}.jsonl"} for arm in arms}
    (folder / "dataset.json").write_text(json.dumps({"arms": files}))
    return folder


def test_template_personas_hold_the_expected_order(tmp_path: Path) -> None:
    names = ("none", "similar", "dissimilar", "random", "filler")
    source = open_source(prepared(tmp_path / "data", {name: name for name in names}), None, 1000)
    quality = measure(source)
    assert [each.strategy for each in quality.measured] == ["similar", "random", "dissimilar", "filler"]
    similar, random, dissimilar, filler = (each.by_domains.value for each in quality.measured)
    assert similar > random > dissimilar >= 0
    assert quality.compared[0].verdict == "holds"
    assert filler == 0
    written = page(source, quality, "quality.png")
    assert "template personas, arms of data" in written
    assert "similar > random: **holds**" in written


def test_an_order_that_does_not_hold_is_told_first(tmp_path: Path) -> None:
    swapped = {"similar": "dissimilar", "random": "random", "dissimilar": "similar"}
    source = open_source(prepared(tmp_path / "data", swapped), None, 1000)
    written = page(source, measure(source), None)
    assert "- random > dissimilar: **does not hold**" in written.splitlines()[:8]


def test_equal_personas_show_no_order() -> None:
    rows = [Written(f"q{k}", "How many pies does the cook bake?", "A cook of few words.") for k in range(20)]
    source = Source("equal", {"similar": rows, "random": rows}, [("cooking", "A cook of few words.")])
    (compared,) = measure(source).compared
    assert compared.verdict == "not shown"
    assert "**Not measured**" in page(source, measure(source), None)


def test_similarity_is_the_cosine_of_rare_words() -> None:
    similarity = WordSimilarity(["the red fox", "the blue whale", "the red whale"])
    assert similarity("the red fox", "the red fox") == pytest.approx(1.0)
    assert similarity("the red fox", "the blue whale") == 0.0  # "the" is in every text
    assert 0.0 < similarity("the red fox", "the red whale") < 1.0
    assert similarity("", "the red fox") == 0.0
    assert domain_similarity("A cook in the kitchen", "An oven") > 0.9 > domain_similarity("A cook", "A sailor") == 0.0


def test_near_duplicates_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    sentence = "a patient {} who knows every {} by heart and hates all waste of time and of good words in a {} year"
    slots = (("cook", "clerk", "guard"), ("oven", "coin", "gate"), ("dry", "wet"))
    texts = [sentence.format(*words) for words in product(*slots)]
    found = find_duplicates([*texts, texts[0].upper() + "!"])

    def shingles(text: str) -> set[tuple[str, str]]:
        words = text.split()
        return set(pairwise(words))

    near: set[int] = set()
    for first, second in combinations(range(len(texts)), 2):
        a, b = shingles(texts[first]), shingles(texts[second])
        if first not in near and len(a & b) / len(a | b) >= THRESHOLD:
            near.add(second)
    assert found.n_exact == 1
    assert found.n_near == len(near) == 13


async def test_a_ledger_reports_its_refusals(tmp_path: Path) -> None:
    some = queries(20)
    async with crooked_writer(1, answers(some)) as server:
        await write_all(tmp_path, [server.url], some)
    source = open_source(tmp_path, None, 1000)
    written = page(source, measure(source), None)
    assert source.totals is not None
    assert {"similar", "random", "dissimilar"} == set(source.beside)
    for reason, n in source.totals.rejected.items():
        assert f"| {reason} | {n} |" in written
    assert "personas written by writer-0501" in written


def test_a_pool_is_measured_on_what_the_strategies_draw_from_it(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": p.text, "domain": p.domain}) + "\n" for p in taxonomy_pool().personas)
    (tmp_path / POOL_FILE).write_text(lines)
    source = open_source(tmp_path, write_file(tmp_path / "queries.jsonl", queries(60)), 30)
    assert [len(rows) for rows in source.beside.values()] == [30, 30, 30]
    assert measure(source).compared[0].verdict == "holds"
    assert not measure(open_source(tmp_path, None, 30)).measured


def test_the_sample_is_the_same_queries_in_every_arm(tmp_path: Path) -> None:
    source = open_source(prepared(tmp_path / "data", {"similar": "similar", "random": "random"}), None, 10)
    ids = {tuple(row.id for row in rows) for rows in source.beside.values()}
    assert len(ids) == 1
    assert len(next(iter(ids))) == 10


@pytest.mark.parametrize("break_it", [
    lambda folder: (folder / "dataset.json").unlink(),
    lambda folder: (folder / "dataset.json").write_text("{}"),
    lambda folder: (folder / "arms/similar.jsonl").write_text("{"),
    lambda folder: (folder / "arms/similar.jsonl").unlink(),
    lambda folder: (folder / "arms/similar.jsonl").write_text('{"id": "x", "persona": {"text": "A cook"}}'),
])  # fmt: skip
def test_a_broken_data_set_is_one_line(tmp_path: Path, break_it: Callable[[Path], object]) -> None:
    folder = prepared(tmp_path / "data", {"similar": "similar"})
    break_it(folder)
    with pytest.raises(ConfigError) as refused:
        open_source(folder, None, 10)
    assert "\n" not in str(refused.value)


def test_the_picture_is_a_picture_and_the_same_again(tmp_path: Path) -> None:
    quality = measure(open_source(prepared(tmp_path / "data", {"similar": "similar", "random": "random"}), None, 30))
    draw("title", quality, tmp_path / "one.png")
    draw("title", quality, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (1300, 400)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20
