import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.demo.arms import prepare, side_of
from its_training.demo.pretrain import build_tokenizer
from its_training.demo.problems import draw
from its_training.demo.recipe import DemoRecipe, tiny
from its_training.sft.trainer import check_mask


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(tiny(DemoRecipe()))


@pytest.fixture
def rows(tmp_path):
    return prepare(draw(10, "sft"), side_of("random", 7), tmp_path).rows


def test_only_the_assistant_s_tokens_and_its_end_of_turn_carry_loss(tokenizer, rows):
    for row in rows:
        encoded = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        tokens, mask = encoded["input_ids"], encoded["assistant_masks"]
        answer = tokenizer(row["messages"][1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        start = mask.index(1)
        assert tokens[start : start + len(answer)] == answer
        assert mask == [0] * start + [1] * len(answer) + [0] * (len(tokens) - start - len(answer))
        assert tokenizer.decode(tokens[:start]).endswith("<|im_start|>assistant\n")
    check_mask(tokenizer, rows, max_length=512)


def test_a_template_that_never_teaches_to_stop_is_refused(tokenizer, rows, monkeypatch):
    outside = tokenizer.chat_template.replace(
        "message['content'] + '<|im_end|>' }}{% endgeneration %}",
        "message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    assert outside != tokenizer.chat_template
    monkeypatch.setattr(tokenizer, "chat_template", outside)
    with pytest.raises(ConfigError, match="loss falls on other tokens"):
        check_mask(tokenizer, rows, max_length=512)


def test_a_row_that_would_be_cut_is_refused(tokenizer, rows):
    with pytest.raises(ConfigError, match="at most 40"):
        check_mask(tokenizer, rows, max_length=40)
