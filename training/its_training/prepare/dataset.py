"""`dataset.json`, the sidecar of a prepared data set: where it came from, what every step did, and its arms."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from its_training.prepare.arms import Arm
from its_training.prepare.pipeline import Prepared, Request
from its_training.prepare.write import Written
from its_training.versions import versions

SIDECAR_FILE, DROPPED_FILE = "dataset.json", "dropped.jsonl"


def write_sidecar(
    request: Request, prepared: Prepared, folder: Path, name: str, evaluation_sha256: Mapping[str, str], command: str
) -> None:
    """Writes the sidecar and `dropped.jsonl`, one line a dropped row that says at which step and why."""
    dropped = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in prepared.ledger.dropped)
    (folder / DROPPED_FILE).write_text(dropped, encoding="utf-8")
    document = {
        "schema_version": 1,
        "name": name,
        "source": _source(request),
        "steps": prepared.ledger.steps,
        "seed": request.seed,
        "rows": next(iter(prepared.files.values())).n_rows,
        "ids_sha256": prepared.ids_sha256,
        "think": request.choices.think,
        **_marks(request),
        "system_prompt": request.arms[0].side.system_prompt,
        "decontamination": {
            "n": 8,
            "questions": request.evaluation.benchmarks,
            "sha256": dict(evaluation_sha256),
        },
        "tokens": _tokens(request, prepared.files),
        "arms": {arm.name: _arm(arm, prepared, prepared.files[arm.name]) for arm in request.arms},
        "command": command,
        "versions": versions(),
    }  # fmt: skip
    (folder / SIDECAR_FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _marks(request: Request) -> dict[str, str]:
    if request.layout.name != "gsm8k":
        return {}
    return {"calculator_marks": "kept" if request.choices.marks else "removed, and `#### N` written as \\boxed{N}"}


def _source(request: Request) -> dict[str, Any]:
    source, path = request.source, request.source.path
    return {
        "dataset": request.layout.dataset or source.name,
        "revision": source.revision,
        "layout": request.layout.name,
        "license": request.layout.license,
        "file": path.name if path is not None else None,
        "sha256": source.sha256(),
        **({} if path is not None else {"config": source.config, "split": source.split}),
    }


def _tokens(request: Request, files: Mapping[str, Written]) -> dict[str, Any] | None:
    if request.counter is None:
        return None
    counts = {
        name: {"prompt": one.prompt_tokens, "completion": one.completion_tokens, "longest": one.longest}
        for name, one in files.items()
    }
    return {"tokenizer": request.counter.name, "max_length": request.counter.max_length, "arms": counts}


def _arm(arm: Arm, prepared: Prepared, written: Written) -> dict[str, Any]:
    return {
        "file": f"arms/{written.path.name}",
        "sha256": written.sha256,
        "rows": written.n_rows,
        "ids_sha256": prepared.ids_sha256,
        "side": arm.side.model_dump(mode="json", exclude_unset=True),
    }
