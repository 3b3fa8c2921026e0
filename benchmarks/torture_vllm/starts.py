"""The servers that are started, each with what is tried on it.

A server is a minute of two cores, so many cases share one: a mismatch lies between two things, and either can be
the one that differs. Where weights are exchanged in a running server, vLLM reads them itself (`reload_weights`).
"""

import json
from collections.abc import Callable
from dataclasses import replace

from benchmarks.torture_vllm import clients, gateways, power
from benchmarks.torture_vllm.adapters import unrecorded_lora, with_adapter
from benchmarks.torture_vllm.case import (
    MISMATCH,
    NEVER_VERIFIED,
    NO_START,
    NOT_SERVED,
    VERIFIED,
    Ask,
    Case,
    Kind,
    Make,
    Start,
    against,
    with_weights,
)
from benchmarks.torture_vllm.checkpoints import (
    changed_in_folder,
    changed_template,
    changed_tokenizer,
    changed_with,
    demo,
    lora,
    merged,
    pooled,
    recorded_lora,
    rich,
    rich_silent,
    rich_voiced,
    scaled_lora,
    thinking,
    thinking_parsed,
    trained,
)
from benchmarks.torture_vllm.gateways import Change, behind, without
from benchmarks.torture_vllm.honest import honest, memory_of_the_check, under_load
from benchmarks.torture_vllm.workshop import (
    ARM,
    DEMO,
    SIBLINGS,
    Workshop,
    edit_json,
    edit_template,
    edit_weights,
    merge_adapter,
    mixed_with,
    pair_name,
    rounded,
    swapped_layers,
    swapped_tokens,
    without_last_layer,
    without_merges,
)

IN_PLACE = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
OWN = pair_name(DEMO / ARM)


def mismatch(name: str, group: str, ask: Ask, right: frozenset[str] = MISMATCH) -> Case:
    return Case(name, "mismatch", group, right, ask)


# -- the servers -----------------------------------------------------------------------------------------------------


def started(name: str, make: Make, *cases: Case, flags: tuple[str, ...] = (), names: tuple[str, ...] = (OWN,)) -> Start:
    return Start(name, make, cases, names, lambda shop: flags)


def honest_start(name: str, *flags: str, kind: Kind = "honest") -> Start:
    """The demo's arm as recorded, served with other flags."""
    cases = honest(name, demo())
    if kind == "note":
        cases = (Case(f"{name}: first", "note", name, frozenset(), against(demo())),)
    return started(name, demo(), *cases, flags=flags)


def starts() -> tuple[Start, ...]:
    """The most telling ones first."""
    return (_plain(), lora_server(), *_arms(), *_templates(), *_tokenizers(), *_parsers(), _of_the_bases(),
            *_honest(), *_configs(), *_perturbed(), *_notes())  # fmt: skip


def _plain() -> Start:
    """What a manifest can get wrong about a server, and what can stand in between."""
    siblings = [mismatch(f"manifest of {name}", "manifest", against(demo(name))) for name in SIBLINGS]
    rendered = {
        "pair recorded with template kwargs that this template ignores": rich_voiced,
        "manifest of a checkpoint that thinks": thinking,
        "manifest of a merged LoRA": merged(1),
    }
    manifests = [mismatch(name, "manifest", against(make)) for name, make in rendered.items()]
    names = [
        mismatch("a name that the server does not list", "name", against(demo(), f"{ARM}@00000000"), NOT_SERVED),
        mismatch("the bare name, not the pair's", "name", against(demo(), ARM), NOT_SERVED),
    ]
    cases = (
        *honest("default flags", demo()),
        *honest("personas from a pool file", pooled),
        *siblings, *manifests, *names,
    )  # fmt: skip
    return started("default flags", demo(), *cases)


def lora_server() -> Start:
    """Adapters and weights that change while the server runs, and all gateways."""
    manifest = against(recorded_lora(1), "tuned")
    own = with_adapter("tuned", lora(1), manifest)
    in_place = {
        "two layers swapped": lambda shop: lambda folder: edit_weights(folder, swapped_layers(1, 2)),
        "LoRA merged into the weights": lambda shop: lambda folder: merge_adapter(folder, lora(1)(shop)),
        "half a sibling's weights merged in": lambda shop: (
            lambda folder: edit_weights(folder, mixed_with(shop.demo("demo-similar"), 0.5))
        ),
        "weights rounded to 4 bits": lambda shop: lambda folder: edit_weights(folder, rounded(4)),
        "weights rounded to 6 bits": lambda shop: lambda folder: edit_weights(folder, rounded(6)),
    }
    exchanged = [
        mismatch(f"in place: {name}", "weights", with_weights(changed_with(f"in-place-{number}", change),
                 against(demo()), demo()), NEVER_VERIFIED if "rounded" in name else MISMATCH)
        for number, (name, change) in enumerate(in_place.items())
    ]  # fmt: skip
    note = with_weights(
        changed_with("rounded-8", lambda shop: lambda folder: edit_weights(folder, rounded(8))),
        against(demo()),
        demo(),
    )
    cases = (
        *honest("--enable-lora", demo()),
        *(replace(case, ask=with_adapter("tuned", lora(1), case.ask)) for case in gateways.cases("tuned")),
        Case("LoRA with its own manifest: first", "honest", "LoRA", VERIFIED, own),
        Case("LoRA with its own manifest: again", "honest", "LoRA", VERIFIED, own),
        Case("LoRA with its own manifest: under load", "honest", "LoRA", VERIFIED, under_load(own)),
        mismatch("LoRA under the base's manifest", "LoRA", with_adapter("tuned", lora(1), against(demo(), "tuned"))),
        mismatch("the base under a LoRA's manifest", "LoRA", against(recorded_lora(1))),
        mismatch("LoRA without a manifest", "LoRA", with_adapter("unrecorded", lora(2), unrecorded_lora),
                 frozenset({"refused"})),
        mismatch("LoRA scaled by two", "LoRA", with_adapter("tuned", scaled_lora, manifest)),
        mismatch("LoRA exchanged in place under its name", "LoRA",
                 with_adapter("tuned", lora(1), with_adapter("tuned", lora(2), manifest))),
        Case("LoRA put back in place", "honest", "LoRA", VERIFIED, own),
        *exchanged,
        Case("LoRA merged into the weights, with its own manifest", "honest", "LoRA", VERIFIED,
             with_weights(merged(1), against(merged(1)), demo())),
        Case("weights rounded to 8 bits", "note", "weights", frozenset(), note),
        *power.cases(),
        Case("own weights back in place", "honest", "own weights back in place", VERIFIED, against(demo())),
    )  # fmt: skip
    flags = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "3")
    return Start("--enable-lora", demo(), cases, (OWN,), lambda shop: flags, IN_PLACE)


def _arms() -> tuple[Start, ...]:
    """Each sibling's weights under its own name, honestly, and under this pair's."""
    return tuple(
        started(
            f"arm {name}", demo(name),
            *honest(f"arm {name}", demo(name), pair_name(DEMO / name)),
            mismatch(f"weights of {name} under this pair's name", "weights", against(demo())),
            mismatch(f"weights of {name}, listed as this pair and its own: another pair's manifest", "manifest",
                     against(demo("demo-random" if name == "demo-none" else "demo-none"), pair_name(DEMO / name))),
            names=(OWN, pair_name(DEMO / name)),
        )
        for name in SIBLINGS
    )  # fmt: skip


def _honest() -> tuple[Start, ...]:
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
    return (
        _measured(),
        honest_start("--dtype float32", "--dtype", "float32"),
        honest_start("--dtype float16", "--dtype", "float16"),
        honest_start("--no-enable-prefix-caching", "--no-enable-prefix-caching"),
        honest_start("--max-model-len 192", "--max-model-len", "192"),
        honest_start("--max-num-batched-tokens 64", "--max-num-batched-tokens", "64", "--max-num-seqs", "32"),
        honest_start("speculative n-gram", "--speculative-config", json.dumps(ngram)),
        honest_start("--max-num-seqs 8 --seed 123", "--max-num-seqs", "8", "--seed", "123"),
        honest_start("tool parser on, no tools asked", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        honest_start(
            "--block-size 128 --logprobs-mode processed_logprobs",
            "--block-size", "128", "--logprobs-mode", "processed_logprobs",
        ),
        honest_start(
            "--max-model-len 100", "--max-model-len", "100",
        ),
    )  # fmt: skip


def _measured() -> Start:
    """The same server again; what the check costs is looked at before anything else has been asked."""
    name = "default flags, started again"
    memory = Case("peak memory of the check", "note", "memory", frozenset({"measured"}), memory_of_the_check)
    return started(name, demo(), memory, *honest(name, demo()))


def _templates() -> tuple[Start, ...]:
    def system(said: str) -> str:
        return "{{ '<|im_start|>system\\n' + " + said + " + '<|im_end|>\\n' }}"

    helpful = "{% if messages[0].role != 'system' %}" + system("'You are a helpful assistant.'") + "{% endif %}"
    dated = system("'Today is ' + strftime_now('%d %B %Y') + '.'")
    marker = "message['role'] + '\\n'"
    edited: dict[str, Callable[[str], str]] = {
        "template with a default system prompt": lambda text: helpful + text,
        "template with today's date": lambda text: dated + text,
        "template with another role marker": lambda text: text.replace(marker, "message['role'] + ':'"),
    }
    from_folder = [
        started(name, changed_template(f"template-{number}", change), mismatch(name, "template", against(demo())))
        for number, (name, change) in enumerate(edited.items())
    ]
    return (*from_folder, _chat_template_flag(), _rich(), _rich_flipped())


def _chat_template_flag() -> Start:
    """`--chat-template` with one space more, over an untouched checkpoint."""

    def flags(shop: Workshop) -> tuple[str, ...]:
        folder = shop.variant(
            "template-flag",
            lambda folder: edit_template(folder, lambda text: text.replace("assistant\\n", "assistant \\n")),
        )
        return ("--chat-template", str(folder / "chat_template.jinja"))

    case = mismatch("--chat-template with one space more", "template", against(demo()))
    return Start("--chat-template", demo(), (case,), (OWN,), flags)


def _rich() -> Start:
    """A template that uses what clients may send, recorded as it is: honest, and what a request can do to it."""
    name = "template with tools, documents and kwargs"
    cases = (
        *honest(name, rich),
        *honest("pair with template kwargs", rich_voiced),
        mismatch("gateway drops the pair's template kwargs", "gateway",
                 behind(Change(without("chat_template_kwargs")), rich_voiced)),
        *clients.cases(rich),
    )  # fmt: skip
    return started(name, rich, *cases)


def _rich_flipped() -> Start:
    name = "--default-chat-template-kwargs"
    cases = (
        mismatch("server's default template kwargs flipped", "template", against(rich)),
        *honest("pair that sets what the server's default would change", rich_silent),
    )
    return started(name, rich, *cases, flags=(name, json.dumps({"voice": "casual"})))


def _tokenizers() -> tuple[Start, ...]:
    edited = {
        # Of the demo's test queries 19% and 71% come in other tokens then.
        "tokenizer without its last 40 merges, which 19% of queries need": without_merges(40),
        "tokenizer without its last 160 merges, which 71% of queries need": without_merges(160),
        "tokenizer with two digits exchanged": swapped_tokens("3", "7"),
    }
    return tuple(
        started(name, changed_tokenizer(f"tokenizer-{number}", change), mismatch(name, "tokenizer", against(demo())))
        for number, (name, change) in enumerate(edited.items())
    )


def _parsers() -> tuple[Start, ...]:
    """A checkpoint that thinks, with no parser, the right one and a wrong one; and one that does not think."""
    plain_weights = with_weights(demo(), against(demo()), thinking)
    parsed = honest("thinking, deepseek_r1 parser", thinking_parsed)
    return (
        Start("thinking, no parser", thinking, (
            *honest("thinking, no parser", thinking),
            mismatch("reasoning parser off, recorded with one", "parser", against(thinking_parsed)),
        ), (OWN,), env=IN_PLACE),
        Start("thinking, deepseek_r1 parser", thinking, (
            *parsed,
            mismatch("reasoning parser on, recorded without thoughts", "parser", plain_weights),
        ), (OWN,), lambda shop: ("--reasoning-parser", "deepseek_r1"), IN_PLACE),
        Start("thinking, seed_oss parser", thinking, (
            mismatch("wrong reasoning parser on thoughts, recorded with a parser", "parser", against(thinking_parsed)),
            mismatch("wrong reasoning parser on thoughts, recorded without one", "parser", against(thinking)),
            mismatch("wrong reasoning parser, recorded without thoughts", "parser", plain_weights),
        ), (OWN,), lambda shop: ("--reasoning-parser", "seed_oss"), IN_PLACE),
    )  # fmt: skip


def _configs() -> tuple[Start, ...]:
    """Weights as recorded, computed with otherwise."""

    def overridden(name: str, **config: object) -> Start:
        return started(
            name, demo(), mismatch(name, "config", against(demo())), flags=("--hf-overrides", json.dumps(config))
        )

    shortened = changed_in_folder("without-last-layer", without_last_layer)
    untied = changed_in_folder(
        "untied", lambda folder: edit_json(folder / "config.json", lambda c: c.update(tie_word_embeddings=False))
    )
    return (
        overridden("rope theta of another model", rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
        overridden("RMS norm epsilon of 0.1", rms_norm_eps=0.1),
        overridden("twice as many attention heads of half the size", num_attention_heads=8, num_key_value_heads=4),
        started("last layer missing", shortened, mismatch("last layer missing", "config", against(demo()))),
        started("embeddings untied, no output layer saved", untied,
                mismatch("embeddings untied, no output layer saved", "config", against(demo()),
                         MISMATCH | {NO_START})),
        started("--override-generation-config", demo(),
                mismatch("server's generation config caps replies at 5 tokens", "config", against(demo())),
                flags=("--override-generation-config", json.dumps({"max_new_tokens": 5}))),
        started("--max-model-len 64", demo(), mismatch("context too small for every probe", "config",
                against(demo()), NEVER_VERIFIED), flags=("--max-model-len", "64")),
    )  # fmt: skip


def _of_the_bases() -> Start:
    """Same shape, tokenizer and template, read in place; the last one even has the very same pair id."""
    found = {
        "weights of the base": "seen/base",
        "weights of the other base": "unseen/base",
        "weights of the same arm on the other base": "unseen/arms/random",
    }
    cases = [mismatch(name, "weights", with_weights(trained(folder), against(demo()), demo()))
             for name, folder in found.items()]  # fmt: skip
    return Start("weights of the demo's own run", demo(), tuple(cases), (OWN,), env=IN_PLACE, needs_bases=True)


def _perturbed() -> tuple[Start, ...]:
    def start(scale: float) -> Start:
        return started(f"perturbed by {100 * scale:g}%", lambda shop: power.perturbed_copy(shop, scale, 0),
                       power.started(scale))  # fmt: skip

    return tuple(start(scale) for scale in power.STARTED)


def _notes() -> tuple[Start, ...]:
    """Told, not judged: what the manifest does not own is the server's."""
    penalty = json.dumps({"repetition_penalty": 1.3})
    return (
        honest_start("--override-generation-config: repetition penalty", "--override-generation-config", penalty,
                     kind="note"),
        honest_start("--logprobs-mode raw_logits", "--logprobs-mode", "raw_logits", kind="note"),
    )  # fmt: skip
