"""Each family against the templates of the models themselves, as TRL carries them, on a tokenizer with their tokens."""

from importlib.resources import files

import pytest
from transformers import AutoTokenizer

from its_proxy.codesign.errors import ConfigError
from its_training.demo.tokenizer import CHAT_TEMPLATE
from its_training.sft.templates import CONVERSATIONS, template_for, variants
from tests.training.sft.conftest import BASE

TOKENS = ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
TOKENS += [
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<think>",
    "</think>",
]
OWN = {
    "chatml": ("chatml", None),
    "qwen2_5": ("qwen2_5", "qwen2_5"),
    "deepseek_r1_distill": ("deepseek_r1_distill", "deepseek_r1_distill"),
    "llama_3": ("llama_3", "llama3"),
    "llama_3_1": ("llama_3", "llama3_1"),
}
"""By the template that must be found: the recipe's word, and TRL's file of the model's own template."""


def base_tokenizer(found):
    """A base of that family: the demo's tokenizer with the family's tokens, and the family's own template."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
    tokenizer.bos_token = "<|begin_of_text|>"
    _, own = OWN[found]
    tokenizer.chat_template = CHAT_TEMPLATE if own is None else trl_template(own)
    return tokenizer


def trl_template(name):
    return files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("found", OWN)
def test_the_base_decides_which_template_of_its_family_trains(found):
    family, _ = OWN[found]
    template, compared = template_for(family, base_tokenizer(found), [])
    assert template.name == found
    assert compared == len(CONVERSATIONS) == 3


@pytest.mark.parametrize("found", OWN)
def test_whole_conversations_render_as_the_base_renders_them(found):
    """Not only prompts: but for the thoughts that DeepSeek's own template drops, which are what is to be learned."""
    tokenizer = base_tokenizer(found)
    template, _ = template_for(OWN[found][0], tokenizer, [])
    for messages in CONVERSATIONS:
        reply = {"role": "assistant", "content": "It is 4."}
        whole, _ = template.marked(tokenizer, [*messages, reply])
        assert whole == tokenizer.apply_chat_template([*messages, reply], tokenize=False)


def test_qwen_s_own_system_message_stands_where_there_is_none():
    tokenizer = base_tokenizer("qwen2_5")
    template, _ = template_for("qwen2_5", tokenizer, [])
    plain = template.prompt(tokenizer, [{"role": "user", "content": "Hi"}])
    told = template.prompt(tokenizer, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert "You are Qwen, created by Alibaba Cloud." in plain
    assert "Qwen" not in told


def test_another_family_s_template_is_refused_with_the_place_where_they_part():
    with pytest.raises(ConfigError, match=r"chat.template 'chatml' renders another prompt than .*You are Qwen"):
        template_for("chatml", base_tokenizer("qwen2_5"), [])


def test_a_difference_in_one_prompt_of_the_data_is_enough():
    tokenizer = base_tokenizer("chatml")
    tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "message['content'] | replace('teh', 'the')")
    template_for("chatml", tokenizer, [])
    with pytest.raises(ConfigError, match=r"'eh sum.* where its own has 'he sum"):
        template_for("chatml", tokenizer, [[{"role": "user", "content": "What is teh sum?"}]])


def test_a_template_that_refuses_a_prompt_is_another():
    tokenizer = base_tokenizer("chatml")
    tokenizer.chat_template = "{{ raise_exception('No system messages, please.') }}"
    with pytest.raises(ConfigError, match="its own says 'No system messages"):
        template_for("chatml", tokenizer, [])


def test_a_base_without_a_chat_template_is_refused():
    tokenizer = base_tokenizer("chatml")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        template_for("chatml", tokenizer, [])


def test_every_family_of_the_recipe_has_its_templates():
    from typing import get_args

    from its_training.recipe import Chat

    for family in get_args(Chat.model_fields["template"].annotation):
        for template in variants(family):
            assert "{%- generation %}" in template.text
            assert f"'{template.end_of_turn}'" in template.text
