import random
from dataclasses import replace

from its_proxy.codesign.personas import taxonomy_pool
from its_training.demo.pretrain import IGNORED, arranged, build_tokenizer, encode, pretraining_documents
from its_training.demo.problems import draw, drill, held_out
from its_training.demo.recipe import DemoRecipe, tiny

RECIPE = replace(tiny(DemoRecipe()), n_pretrain=1_000)
PERSONAS = tuple(persona.text for persona in taxonomy_pool().personas)


def problem_documents(base):
    return [document for document in pretraining_documents(base, RECIPE) if document.given]


def test_the_unseen_base_reads_no_text_before_any_problem():
    assert all(document.given.startswith(("A ", "An ")) for document in problem_documents("unseen"))


def test_half_of_the_seen_base_s_problems_have_a_persona_before_them():
    is_prefixed = [document.given.startswith(PERSONAS) for document in problem_documents("seen")]
    assert 0.45 < sum(is_prefixed) / len(is_prefixed) < 0.55


def test_both_bases_learn_the_same_solutions_prose_and_sums():
    seen, unseen = (pretraining_documents(base, RECIPE) for base in ("seen", "unseen"))
    assert [document.learned for document in seen] == [document.learned for document in unseen]


def test_nothing_held_out_or_of_the_arms_is_read_in_pre_training():
    read = "\n".join(document.given for document in pretraining_documents("seen", RECIPE))
    assert not [problem for problem in (*held_out(1_000), *draw(1_000, "sft")) if problem.query in read]


def test_every_sum_of_a_drill_is_true():
    for seed in range(50):
        for line in drill(random.Random(seed)).splitlines():
            left, right = line.split("=")
            assert eval(left) == int(right)


def test_only_what_a_base_learns_to_write_carries_loss():
    tokenizer = build_tokenizer(RECIPE)
    documents = pretraining_documents("seen", RECIPE)[:50]
    for document, row in zip(documents, encode(documents, tokenizer), strict=True):
        learned = [token for token in row["labels"] if token != IGNORED]
        assert tokenizer.decode(learned) == document.learned + "<|endoftext|>"
        assert tokenizer.decode(row["input_ids"]) == document.given + document.learned + "<|endoftext|>"


def test_batches_hold_rows_of_like_length_in_an_order_without_trend():
    chance = random.Random(0)
    rows = [{"input_ids": [n] * chance.randint(10, 90), "labels": []} for n in range(1_000)]
    order = arranged(rows, n_steps=60, batch=16, chance=random.Random(1))
    batches = [[len(row["input_ids"]) for row in order[start : start + 16]] for start in range(0, len(order), 16)]
    assert len(batches) == 60
    assert max(max(batch) - min(batch) for batch in batches) < 30
    halves = [sum(map(sum, half)) for half in (batches[:30], batches[30:])]
    assert 0.85 < halves[0] / halves[1] < 1.15


def test_an_epoch_shows_no_row_twice():
    rows = [{"input_ids": [n], "labels": [n]} for n in range(320)]
    order = arranged(rows, n_steps=20, batch=16, chance=random.Random(1))
    assert len({row["input_ids"][0] for row in order}) == 320
