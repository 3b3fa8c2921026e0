"""The checkpoints that servers and manifests are made from, each built on first use."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.torture_vllm.case import Make
from benchmarks.torture_vllm.files import with_pool
from benchmarks.torture_vllm.workshop import (
    ARM,
    Document,
    Workshop,
    adapter,
    adopt_template,
    edit_json,
    edit_pair,
    edit_template,
    merge_adapter,
    record,
    teach_to_think,
    with_parsed_replies,
)


def changed_in_folder(name: str, change: Callable[[Path], None]) -> Make:
    return lambda shop: shop.variant(name, change)


def changed_template(name: str, change: Callable[[str], str]) -> Make:
    return changed_in_folder(name, lambda folder: edit_template(folder, change))


def changed_tokenizer(name: str, change: Callable[[Document], object]) -> Make:
    return changed_in_folder(name, lambda folder: edit_json(folder / "tokenizer.json", change))


def demo(name: str = ARM) -> Make:
    return lambda shop: shop.demo(name)


def trained(name: str) -> Make:
    """Of the demo's own run."""
    return lambda shop: shop.trained(name)


def changed_with(name: str, change: Callable[[Workshop], Callable[[Path], None]]) -> Make:
    """For a change that itself needs something of the workshop."""
    return lambda shop: shop.variant(name, change(shop))


# Renders as the demo's own does, until a client or the server gives it something to add.
RICH_HEAD = (
    "{% for given in [tools, documents, reasoning_effort, voice] %}{% if given %}"
    "{{ '<|im_start|>system\\n' + (given | string) + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
VOICE = {"voice": "formal"}


def rich(shop: Workshop) -> Path:
    return shop.variant("rich", lambda folder: adopt_template(folder, lambda text: RICH_HEAD + text))


def rich_silent(shop: Workshop) -> Path:
    """The same, and the pair says that there is no voice; `null` would not say it, vLLM takes that for unset."""
    return shop.variant(
        "rich-silent",
        lambda folder: edit_pair(folder, lambda side: side.update(chat_template_kwargs={"voice": False})),
        rich(shop),
    )


def rich_voiced(shop: Workshop) -> Path:
    """The same, trained and served with a voice."""

    def change(folder: Path) -> None:
        edit_pair(folder, lambda side: side.update(chat_template_kwargs=VOICE))
        record(folder, shop.demo("demo-none"), rendered_by=baked)

    baked = shop.variant(
        "rich-baked", lambda folder: edit_template(folder, lambda text: "{% set voice = 'formal' %}" + text), rich(shop)
    )
    return shop.variant("rich-voiced", change, rich(shop))


def pooled(shop: Workshop) -> Path:
    return shop.variant("pooled", with_pool)


def thinking(shop: Workshop) -> Path:
    def change(folder: Path) -> None:
        teach_to_think(folder)
        record(folder, shop.demo())

    return shop.variant("thinking", change)


def thinking_parsed(shop: Workshop) -> Path:
    return shop.variant("thinking-parsed", with_parsed_replies, thinking(shop))


def lora(seed: int) -> Make:
    """An adapter without a manifest."""

    def make(shop: Workshop) -> Path:
        return shop.variant(f"lora-{seed}", lambda folder: only_adapter(folder, seed))

    return make


def only_adapter(folder: Path, seed: int) -> None:
    for file in folder.iterdir():
        file.unlink()
    adapter(folder, seed, strength=0.2)


def merged(seed: int) -> Make:
    """The adapter added into the weights, recorded as a checkpoint of its own."""

    def change(shop: Workshop) -> Callable[[Path], None]:
        def merge(folder: Path) -> None:
            merge_adapter(folder, lora(seed)(shop))
            record(folder, shop.demo())

        return merge

    return changed_with(f"lora-merged-{seed}", change)


def recorded_lora(seed: int) -> Make:
    """An adapter with its own manifest beside it: what was measured on the merged weights."""

    def make(shop: Workshop) -> Path:
        manifest = (merged(seed)(shop) / "its.json").read_bytes()

        def change(folder: Path) -> None:
            (folder / "its.json").write_bytes(manifest)

        return shop.variant(f"lora-recorded-{seed}", change, lora(seed)(shop))

    return make


def scaled_lora(shop: Workshop) -> Path:
    return shop.variant(
        "lora-scaled",
        lambda folder: edit_json(folder / "adapter_config.json", lambda config: config.update(lora_alpha=16)),
        lora(1)(shop),
    )
