"""Freezes what a writer wrote into a pool: the personas, the prompts they were written with, and by whom."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from its_proxy.checkpoint import folder_digest
from its_proxy.codesign import taxonomy
from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Prompts as PromptsFolder
from its_proxy.codesign.manifest import WrittenBy
from its_proxy.codesign.personas import Persona, Pool, pool_jsonl
from its_training.files import build, is_built
from its_training.personas.ledger import Ledger
from its_training.personas.prompts import FOLDER, Prompts

POOL_FILE = "its-personas.jsonl"
PROMPTS_FOLDER = "its-persona-prompts"
WRITTEN_BY_FILE = "written_by.json"
_DOMAINS = (*taxonomy.NAMES, taxonomy.GENERAL)


@dataclass(frozen=True, slots=True)
class Frozen:
    """`missing`: domains without a persona; such a pool serves `random`, but not `similar` or `dissimilar`."""

    pool: Pool
    written_by: WrittenBy
    missing: tuple[str, ...]


def keep_prompts(work: Path, prompts: Prompts) -> None:
    """Puts a copy of the prompts into WORK, so that it can be frozen when ours have changed."""
    kept = _prompts_in(work, prompts.sha256)
    if kept.is_dir():
        return
    aside = Path(mkdtemp(prefix=".prompts-", dir=work))
    try:
        _copy(FOLDER, aside / PROMPTS_FOLDER)
        os.rename(aside, kept.parent)
    except OSError as error:
        if not kept.is_dir():  # else another process was faster
            raise ConfigError(f"cannot write {kept}: {error.strerror}", hint="choose a writable --out") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def freeze(ledger: Ledger, work: Path, out: Path, *, model: str | None = None, allow_missing: bool = False) -> Frozen:
    """Writes OUT whole or not at all; equal ledgers give equal bytes. Raises ConfigError."""
    settings = _one_settings(ledger.settings(), model)
    texts = {(accepted.domain, accepted.text) for accepted in ledger.accepted(settings)}
    if not texts:
        raise ConfigError(f"{work} holds no accepted persona", hint="its-train personas write first")
    personas = [Persona(text, domain) for domain, text in sorted(texts, key=lambda pair: (_place(pair[0]), pair[1]))]
    pool = Pool.of(personas)
    missing = tuple(domain for domain in _DOMAINS if domain not in pool.by_domain)
    if missing and not allow_missing:
        raise ConfigError(
            f"no persona of {len(missing)} domains: {', '.join(missing)}",
            hint="its-train personas write --per-domain 4 fills them; --allow-missing makes a pool for random alone",
        )
    prompts = _prompts_in(work, settings["prompts_sha256"])
    written_by = _written_by(settings, prompts, ledger.last_date(settings))
    inputs = {"pool": pool.sha256, "written_by": written_by.model_dump(mode="json")}
    if not is_built(out, inputs):
        try:
            build(out, inputs, lambda folder: _fill(folder, personas, prompts, written_by))
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error.strerror}", hint="is the disk full?") from None
    return Frozen(pool, written_by, missing)


def _one_settings(found: Sequence[dict[str, Any]], model: str | None) -> dict[str, Any]:
    """A pool names one writer: its model, its prompts, its sampling."""
    fitting = [settings for settings in found if model in (None, settings["model"])]
    if len(fitting) == 1:
        return fitting[0]
    written = ", ".join(f"{each['model']} {json.dumps(each['sampling'])}" for each in found) or "nothing"
    if not fitting:
        raise ConfigError(f"no persona was written by {model or 'any model'}", hint=f"written: {written}")
    hint = "--model chooses one; other sampling or prompts need a folder of their own"
    raise ConfigError(f"written in {len(fitting)} ways: {written}", hint=hint)


def _place(domain: str) -> int:
    return _DOMAINS.index(domain)


def _prompts_in(work: Path, sha256: str) -> Path:
    return work / f"prompts-{sha256[:8]}" / PROMPTS_FOLDER


def _written_by(settings: dict[str, Any], prompts: Path, date: str) -> WrittenBy:
    if not prompts.is_dir() or folder_digest(prompts) != settings["prompts_sha256"]:
        raise ConfigError(f"{prompts} does not hold the prompts that were sent", hint="restore it, or write again")
    folder = PromptsFolder(folder=f"{PROMPTS_FOLDER}/", sha256=settings["prompts_sha256"])
    return WrittenBy(model=settings["model"], prompts=folder, sampling=settings["sampling"], date=date)


def _fill(folder: Path, personas: Sequence[Persona], prompts: Path, written_by: WrittenBy) -> None:
    (folder / POOL_FILE).write_bytes(pool_jsonl(personas))
    _copy(prompts, folder / PROMPTS_FOLDER)
    document = json.dumps(written_by.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / WRITTEN_BY_FILE).write_text(document + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        (target / path.name).write_bytes(path.read_bytes())
