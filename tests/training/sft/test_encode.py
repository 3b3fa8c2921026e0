from dataclasses import replace

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.sft.encode import IGNORED, encode, encode_rows
from its_training.sft.templates import template_for
from tests.training.sft.test_templates import OWN, base_tokenizer

THOUGHTS = "<think>\nOne and one.\n</think>\n\n\\boxed{2}"
ENDS = {
    "chatml": "<|im_end|>",
    "qwen2_5": "<|im_end|>",
    "deepseek_r1_distill": "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "llama_3": "<|eot_id|>",
    "llama_3_1": "<|eot_id|>",
}
ROWS = {
    "one turn": [("user", "What is 1 + 1?"), ("assistant", THOUGHTS)],
    "a system message": [("system", "Be brief."), ("user", "What is 1 + 1?"), ("assistant", THOUGHTS)],
    "two turns": [
        ("system", "Be brief."),
        ("user", "What is 1 + 1?"),
        ("assistant", "It is 2."),
        ("user", "assistant\nWhat is 2 + 1?"),
        ("assistant", "<think>\nTwo and one.\n</think>\n\n\\boxed{3}"),
    ],
}


def row_of(turns):
    return {"id": "row", "messages": [{"role": role, "content": content} for role, content in turns]}


def opened(found):
    tokenizer = base_tokenizer(found)
    return tokenizer, template_for(OWN[found][0], tokenizer, [])[0]


def stretches(tokenizer, encoded):
    """The learned stretches as text, each with the text before it; by the labels alone."""
    found, before, learned = [], [], []
    for token, label in zip([*encoded.input_ids, 0], [*encoded.labels, IGNORED], strict=True):
        assert label in (IGNORED, token)
        if label != IGNORED:
            learned.append(token)
            continue
        if learned:
            found.append((tokenizer.decode(before), tokenizer.decode(learned)))
            before, learned = [], []
        before.append(token)
    return found


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("found", OWN)
def test_exactly_the_assistant_s_words_and_its_end_of_turn_carry_loss(found, kind):
    tokenizer, template = opened(found)
    is_deepseek = found == "deepseek_r1_distill"
    encoded = encode(tokenizer, template, row_of(ROWS[kind]))
    replies = [content for role, content in ROWS[kind] if role == "assistant"]
    # DeepSeek's prompt ends with the opening of the thoughts, so these are no words of the model's.
    words = [reply.removeprefix("<think>\n") if is_deepseek else reply for reply in replies]
    parts = stretches(tokenizer, encoded)
    assert [said for _, said in parts] == [word + ENDS[found] for word in words]
    header = {"d": "<\uff5cAssistant\uff5c>", "l": "<|start_header_id|>assistant<|end_header_id|>\n\n"}
    for before, _ in parts:
        assert before.removesuffix("<think>\n").endswith(header.get(found[0], "<|im_start|>assistant\n"))


@pytest.mark.parametrize("found", OWN)
def test_the_prompt_s_tokens_are_those_that_are_served(found):
    tokenizer, template = opened(found)
    for turns in ROWS.values():
        row = row_of(turns)
        served = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=True)
        encoded = encode(tokenizer, template, row)
        n = len(served["input_ids"])
        assert list(encoded.input_ids[:n]) == served["input_ids"]
        assert encoded.labels[n] != IGNORED


def test_a_reply_that_begins_with_a_line_break_does_not_melt_with_the_prompt():
    tokenizer, template = opened("chatml")
    row = row_of([("user", "Hi"), ("assistant", "\n\nHello")])
    served = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=True)
    encoded = encode(tokenizer, template, row)
    assert list(encoded.input_ids[: len(served["input_ids"])]) == served["input_ids"]
    assert [said for _, said in stretches(tokenizer, encoded)] == ["\n\nHello<|im_end|>"]


def test_thoughts_that_serving_leaves_out_of_the_history_are_neither_shown_nor_learned():
    tokenizer, template = opened("deepseek_r1_distill")
    turns = [("user", "What is 1 + 1?"), ("assistant", THOUGHTS), ("user", "Sure?"), ("assistant", "<think>\nYes.")]
    encoded = encode(tokenizer, template, row_of(turns))
    assert "One and one" not in tokenizer.decode(encoded.input_ids)
    assert [said for _, said in stretches(tokenizer, encoded)] == [f"Yes.{ENDS['deepseek_r1_distill']}"]


def test_a_reply_that_does_not_go_on_where_the_prompt_ends_is_refused():
    tokenizer, template = opened("deepseek_r1_distill")
    with pytest.raises(ConfigError, match=r"row row: what is trained does not begin with the prompt .*<think>"):
        encode(tokenizer, template, row_of([("user", "Hi"), ("assistant", "Hello")]))


@pytest.mark.parametrize("found", OWN)
@pytest.mark.parametrize("wrong", ["never learns to stop", "learns the user's words too", "learns nothing"])
def test_a_template_that_marks_other_words_is_refused(found, wrong):
    tokenizer, template = opened(found)
    end, close, start = ENDS[found], "{%- endgeneration %}", "{%- generation %}"
    unmarked = template.text.replace(start, "").replace(close, "")
    text = {
        "never learns to stop": template.text.replace(f" + '{end}' }}}}{close}", f" }}}}{close}{{{{- '{end}' }}}}"),
        "learns the user's words too": start + unmarked + close,
        "learns nothing": unmarked,
    }[wrong]
    assert text != template.text
    with pytest.raises(ConfigError, match="the loss falls on other tokens"):
        encode(tokenizer, replace(template, text=text), row_of(ROWS["one turn"]))


def test_a_row_that_ends_with_the_user_is_refused():
    tokenizer, template = opened("chatml")
    with pytest.raises(ConfigError, match="does not end with the assistant"):
        encode(tokenizer, template, row_of([("user", "Hi")]))


def test_rows_that_would_be_cut_are_counted_and_refused():
    tokenizer, template = opened("chatml")
    rows = [row_of(turns) | {"id": name} for name, turns in ROWS.items()]
    n_tokens = len(encode(tokenizer, template, rows[0]).input_ids)
    with pytest.raises(ConfigError, match=rf"2 of 3 rows have more than {n_tokens} tokens; two turns has \d+"):
        encode_rows(tokenizer, template, rows, n_tokens, lambda done, total: None)


def test_accents_that_a_tokenizer_composes_are_the_same_words():
    tokenizer, template = opened("chatml")
    encoded = encode(tokenizer, template, row_of([("user", "Hi"), ("assistant", "Cafe\u0301")]))
    assert [said for _, said in stretches(tokenizer, encoded)] == ["Caf\u00e9<|im_end|>"]
