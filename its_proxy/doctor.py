"""`its-proxy doctor`: examines every model at every target once, and shows what each check saw; serves nothing.

diagnoses = await diagnose(catalog.targets(), timeout_s=60)
for table in tables(diagnoses): console.print(table)
raise SystemExit(exit_code(diagnoses))
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from its_proxy.codesign.errors import BadPayload, UpstreamError, UpstreamRejected
from its_proxy.console import coloured
from its_proxy.handshake import NO_MANIFEST, Check, Report, State, Verdict, check_listed, examine
from its_proxy.targets import FIRST_RETRY_S, LAST_RETRY_S, Target

MISMATCH, NOT_VERIFIED = 1, 3
_ADVICE = "its-proxy manifest init --upstream URL --model NAME declares one"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One model at one target. `pair_id` and `strategy` are None where no manifest was opened."""

    model: str
    target: str
    served_name: str
    pair_id: str | None
    strategy: str | None
    report: Report

    @property
    def state(self) -> State:
        return self.report.verdict.state


async def diagnose(
    targets: Iterable[Target],
    *,
    timeout_s: float = 0.0,
    skip_weights: bool = False,
    on_done: Callable[[Diagnosis], None] = lambda diagnosis: None,
) -> list[Diagnosis]:
    """Examines all targets side by side; what is pending again and again, for `timeout_s` seconds. Keeps the order."""
    listed = list(targets)
    deadline = asyncio.get_running_loop().time() + timeout_s

    async def one(target: Target) -> Diagnosis:
        retry_s = FIRST_RETRY_S
        while True:
            report = await _examined(target, skip_weights=skip_weights)
            left_s = deadline - asyncio.get_running_loop().time()
            if report.verdict.state != "pending" or left_s <= 0:
                break
            await asyncio.sleep(min(retry_s, left_s))
            retry_s = min(2 * retry_s, LAST_RETRY_S)
        diagnosis = _diagnosis(target, report)
        on_done(diagnosis)
        return diagnosis

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(target)) for target in listed]
    return [task.result() for task in tasks]


async def _examined(target: Target, *, skip_weights: bool) -> Report:
    checkpoint = target.checkpoint
    if checkpoint is None and target.verdict == NO_MANIFEST:
        return await _without_manifest(target)
    if checkpoint is None:
        return Report(target.verdict, (Check("manifest", "failed", target.verdict.reason),))
    manifest = checkpoint.manifest
    one_sided = ", one-sided and forced" if checkpoint.is_one_sided else ""
    opened = f"pair {checkpoint.pair_id[:8]}, {manifest.origin}, strategy {checkpoint.serve.strategy.name}{one_sided}"
    report = await examine(
        checkpoint,
        target.upstream,
        target.served_name,
        is_local=target.is_local,
        weights="skip" if skip_weights else target.policy.weights,
    )
    return replace(report, checks=(Check("manifest", "ok", opened), *report.checks))


async def _without_manifest(target: Target) -> Report:
    """Nothing to compare; but a model that is not there yet is worth a word."""
    none = Check("manifest", "skipped", NO_MANIFEST.reason, _ADVICE)
    try:
        listed, _ = await check_listed(target.upstream, target.served_name, is_local=target.is_local)
    except (UpstreamRejected, BadPayload) as error:
        # Some servers offer no list; they are passed through all the same.
        return Report(NO_MANIFEST, (none, Check("listed", "unknown", error.message)))
    except UpstreamError as error:
        upstream = Check("upstream", "unknown", error.message, error.hint)
        return Report(Verdict("pending", error.message), (none, upstream))
    verdict = NO_MANIFEST if listed.state == "ok" else Verdict("pending", listed.evidence)
    return Report(verdict, (none, listed))


def _diagnosis(target: Target, report: Report) -> Diagnosis:
    checkpoint = target.checkpoint
    return Diagnosis(
        model=target.model,
        target=target.upstream.name,
        served_name=target.served_name,
        pair_id=checkpoint.pair_id if checkpoint is not None else None,
        strategy=checkpoint.serve.strategy.name if checkpoint is not None else None,
        report=report,
    )


def exit_code(diagnoses: Iterable[Diagnosis]) -> int:
    """0: every model is verified, or has no manifest. 1: some mismatch. 3: some unverified or pending."""
    states = {diagnosis.state for diagnosis in diagnoses}
    if "mismatch" in states:
        return MISMATCH
    return NOT_VERIFIED if states & {"unverified", "pending"} else 0


def document_of(diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """The JSON document of `--json`.

    {"version": 1, "exit_code": 0 | 1 | 3,
     "models": [{"model", "pair_id": str | null, "strategy": str | null,
                 "targets": [{"target", "served_name", "state": "verified" | "unverified" | "mismatch" | "pending"
                              | "none", "reason",
                              "checks": [{"name": "manifest" | "files" | "listed" | "tokens" | "weights" | "reply"
                                          | "upstream", "state": "ok" | "failed" | "unknown" | "skipped",
                                          "evidence", "hint"}]}]}]}
    """
    models: dict[str, dict[str, Any]] = {}
    for diagnosis in diagnoses:
        model = {"model": diagnosis.model, "pair_id": diagnosis.pair_id, "strategy": diagnosis.strategy}
        models.setdefault(diagnosis.model, {**model, "targets": []})["targets"].append(_target_document(diagnosis))
    return {"version": 1, "exit_code": exit_code(diagnoses), "models": list(models.values())}


def _target_document(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "target": diagnosis.target,
        "served_name": diagnosis.served_name,
        "state": diagnosis.state,
        "reason": diagnosis.report.verdict.reason,
        "checks": [
            {"name": check.name, "state": check.state, "evidence": check.evidence, "hint": check.hint}
            for check in diagnosis.report.checks
        ],
    }


def tables(diagnoses: Iterable[Diagnosis]) -> Iterator[Table]:
    """A table for each model at each target: what was asked, what came of it, and what to do."""
    for diagnosis in diagnoses:
        title = coloured(f"{diagnosis.model} at {diagnosis.target}: ", "bold").append(coloured(diagnosis.state))
        table = Table("check", "state", "evidence", "hint", title=title, title_justify="left", box=None, title_style="")
        for check in diagnosis.report.checks:
            table.add_row(check.name, coloured(check.state), coloured(check.evidence), coloured(check.hint))
        yield table
