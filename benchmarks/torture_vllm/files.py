"""Cases that no server is needed for: manifests, pools and pointers that do not hold together are never served."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from benchmarks.torture_vllm.case import REFUSED, Ask, Case, Found, World
from benchmarks.torture_vllm.workshop import DEMO, edit_json, edit_pair, edit_template, edit_text
from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ManifestError
from its_proxy.codesign.personas import pool_jsonl, taxonomy_pool

POOL = "its-personas.jsonl"


def with_pool(folder: Path) -> None:
    """The pair's template personas as a file of its own: the same texts, so the probes stay."""
    data = pool_jsonl(taxonomy_pool().personas)
    (folder / POOL).write_bytes(data)
    named = {"source": "pool", "file": POOL, "sha256": sha256(data).hexdigest(), "domains": "taxonomy/1"}
    edit_pair(folder, lambda side: side.update(personas=named))


def edited_pool(folder: Path) -> None:
    with_pool(folder)
    edit_text(folder / POOL, lambda text: text.replace("You are", "You were", 1))


def swapped_pool(folder: Path) -> None:
    """Another pool, and the pair names its digest: only the probes' rewrites tell."""
    with_pool(folder)
    edit_text(folder / POOL, lambda text: text.replace("You are", "You were"))
    changed = sha256((folder / POOL).read_bytes()).hexdigest()
    edit_pair(folder, lambda side: side["personas"].update(sha256=changed))


def missing_pool(folder: Path) -> None:
    with_pool(folder)
    (folder / POOL).unlink()


def one_sided(folder: Path) -> None:
    def serve_plain(document: dict[str, dict[str, dict[str, object]]]) -> None:
        document["pair"]["serve_with"].update(strategy="none", personas=None)

    edit_json(folder / "its.json", serve_plain)
    edit_pair(folder, lambda side: None)


def stale_pointer(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["its"].update(pair_id="0" * 64))


def foreign_manifest(folder: Path) -> None:
    (folder / "its.json").write_bytes((DEMO / "demo-similar" / "its.json").read_bytes())


def cut_manifest(folder: Path) -> None:
    edit_text(folder / "its.json", lambda text: text[: len(text) // 2])


CHANGES: dict[str, Callable[[Path], None]] = {
    "one word of the pool edited": edited_pool,
    "pool swapped, and the pair names the new one": swapped_pool,
    "pool not copied along": missing_pool,
    "one-sided pair: trained with personas, served without": one_sided,
    "stale pointer in config.json": stale_pointer,
    "pointer without a manifest": lambda folder: (folder / "its.json").unlink(),
    "a sibling's manifest copied over this one": foreign_manifest,
    "manifest cut in half": cut_manifest,
    "chat_template.jinja edited in the checkpoint": lambda folder: edit_template(
        folder, lambda text: text.replace("'\\n'", "' \\n'", 1)
    ),
    "another seed in the pair": lambda folder: edit_pair(folder, lambda side: side.update(seed=8)),
    "another template in the pair": lambda folder: edit_pair(
        folder, lambda side: side.update(template="{query}\n\n{persona}")
    ),
    "another strategy in the pair": lambda folder: edit_pair(folder, lambda side: side.update(strategy="similar")),
    "a strategy that does not exist": lambda folder: edit_pair(folder, lambda side: side.update(strategy="friendly")),
    "a schema from the future": lambda folder: edit_json(
        folder / "its.json", lambda document: document.update(schema_version=2)
    ),
}


def cases() -> tuple[Case, ...]:
    return tuple(
        Case(f"files: {name}", "mismatch", "files", REFUSED, _opened(f"files-{number}", change))
        for number, (name, change) in enumerate(CHANGES.items())
    )


def _opened(folder: str, change: Callable[[Path], None]) -> Ask:
    async def ask(world: World) -> Found:
        checkpoint = await asyncio.to_thread(world.shop.variant, folder, change)
        try:
            open_checkpoint(checkpoint)
        except ManifestError as error:
            return Found(
                "refused", error.message.replace(f"{checkpoint}/", "").replace(str(checkpoint), "the checkpoint")
            )
        return Found("opened", "nothing was noticed")

    return ask
