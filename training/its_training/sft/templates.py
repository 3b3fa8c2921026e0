"""Chat templates that mark what the model learns, and the proof that their prompts are the base's own.

    template, compared = template_for("qwen2_5", tokenizer, prompts)

Ours only train: a checkpoint is saved with its base's own template, so that tools and all else it can do
keep working. What a prompt is must therefore be equal, byte for byte, under both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any, TypeAlias

from its_proxy.codesign.errors import ConfigError

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Span: TypeAlias = tuple[int, int]

THINK = "<think>\n"
"""What DeepSeek-R1-Distill's prompt ends with: the words after it are the model's."""

CONVERSATIONS: tuple[Messages, ...] = (
    [{"role": "user", "content": "  What is 2 + 2?\n"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "<think>\n2 + 2 = 4.\n</think>\n\n\\boxed{4}"},
        {"role": "user", "content": "And 3 + 3?"},
    ],
)
"""Prompts that every comparison holds besides the data's own: white space, a system message, a second turn."""


def _whole(content: str, is_last: bool) -> str | None:
    return content


def _trimmed(content: str, is_last: bool) -> str | None:
    return content.strip()


def _after_think(content: str, is_last: bool) -> str | None:
    if not is_last:
        return None if "</think>" in content else content
    return content.removeprefix(THINK)


@dataclass(frozen=True, slots=True)
class Template:
    """One of ours. `learned` says what carries loss of an assistant's content: (content, is it the last message).

    `opening` is what a prompt ends with that is the beginning of the reply's content.
    """

    name: str
    end_of_turn: str
    opening: str
    learned: Callable[[str, bool], str | None]
    text: str

    @property
    def sha256(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    def prompt(self, tokenizer: Any, messages: Messages) -> str:
        """The text that is served: up to where the model's own words begin."""
        return rendered_prompt(tokenizer, self.text, messages)

    def marked(self, tokenizer: Any, messages: Messages) -> tuple[str, list[Span]]:
        """The text that is trained, and which stretches of it the template marks as the model's own words."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            [list(messages)],
            chat_template=self.text,
            return_assistant_tokens_mask=True,
            add_generation_prompt=False,
            **tokenizer.special_tokens_map,
        )
        return str(texts[0]), [(start, end) for start, end in spans[0]]

    def wanted(self, messages: Messages) -> list[str]:
        """What must carry loss, said without the template: each reply's words and the end of its turn."""
        words = [
            self.learned(message["content"], place == len(messages) - 1)
            for place, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        return [said + self.end_of_turn for said in words if said is not None]


def _template(name: str, end_of_turn: str, opening: str, learned: Callable[[str, bool], str | None]) -> Template:
    text = files("its_training.sft").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
    return Template(name, end_of_turn, opening, learned, text)


def variants(name: str) -> tuple[Template, ...]:
    """The templates of a family. The base decides which of them it is."""
    im_end, eot = "<|im_end|>", "<|eot_id|>"
    families = {
        "chatml": [("chatml", im_end, "", _whole)],
        "qwen2_5": [("qwen2_5", im_end, "", _whole)],
        "deepseek_r1_distill": [
            ("deepseek_r1_distill", "<\uff5cend\u2581of\u2581sentence\uff5c>", THINK, _after_think)
        ],
        "llama_3": [("llama_3", eot, "", _trimmed), ("llama_3_1", eot, "", _trimmed)],
    }
    return tuple(_template(*family) for family in families[name])


def template_for(name: str, tokenizer: Any, prompts: Sequence[Messages]) -> tuple[Template, int]:
    """The template of family `name` whose prompts are the base's own, and how many prompts were compared.

    Raises ConfigError where the base has no template, or renders any prompt in another way.
    """
    own = own_template(tokenizer)
    compared = [*CONVERSATIONS, *prompts]
    differences = []
    for template in variants(name):
        difference = _first_difference(tokenizer, own, template, compared)
        if difference is None:
            return template, len(compared)
        differences.append(difference)
    raise ConfigError(
        f"chat.template {name!r} renders another prompt than {tokenizer.name_or_path}'s own: {differences[-1]}",
        hint="name the base's own family; what is trained and what is served must be the same text",
    )


def own_template(tokenizer: Any) -> str:
    """The base's chat template. Raises ConfigError where it has none: nobody could serve what is trained."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{tokenizer.name_or_path} has no chat template", hint="fine-tune the instruct model of the same family"
        )
    return str(tokenizer.get_chat_template())


def rendered_prompt(tokenizer: Any, template: str, messages: Messages) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
        )
    )


def _first_difference(tokenizer: Any, own: str, template: Template, prompts: Sequence[Messages]) -> str | None:
    from jinja2 import TemplateError

    for messages in prompts:
        ours = template.prompt(tokenizer, messages)
        try:
            theirs = rendered_prompt(tokenizer, own, messages)
        except TemplateError as error:
            return f"its own says {str(error)[:80]!r}"
        if ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
            return f"{ours[at : at + 40]!r} where its own has {theirs[at : at + 40]!r}"
    return None
