import pytest

from its_training.demo.pretrain import build_tokenizer
from its_training.demo.recipe import DemoRecipe, tiny


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(tiny(DemoRecipe()))


def test_numbers_are_read_digit_by_digit(tokenizer):
    tokens = tokenizer("4096+17=4113", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in tokens] == [*"4096", "+", *"17", "=", *"4113"]


def test_text_never_seen_survives_byte_by_byte(tokenizer):
    text = "Größe 42 λ\n\n\t→ 漢字 \\boxed{7}"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_padding_differs_from_the_end_of_a_turn(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_template_adds_no_system_message(tokenizer):
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_training_row_starts_with_the_served_prompt(tokenizer):
    question = {"role": "user", "content": "How many eggs?"}
    prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = {"role": "assistant", "content": "2+3=5\n\\boxed{5}"}
    row = tokenizer.apply_chat_template([question, answer], return_dict=True)["input_ids"]
    assert row[: len(prompt)] == prompt


def test_a_server_that_rebuilds_the_tokenizer_reads_the_same_tokens(tokenizer, tmp_path):
    """transformers reads any qwen2 checkpoint with Qwen2's own splitter, and vLLM reads it with transformers."""
    from transformers import AutoTokenizer, Qwen2Config

    tokenizer.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    rebuilt = AutoTokenizer.from_pretrained(tmp_path)
    odd = ["e\u0301 naïve 12.5%", "A  cook\n\n\n x", "don't\t\r\n 日本", "A cook has 12 pies."]
    assert type(rebuilt) is not type(tokenizer)
    assert [rebuilt(text)["input_ids"] for text in odd] == [tokenizer(text)["input_ids"] for text in odd]
