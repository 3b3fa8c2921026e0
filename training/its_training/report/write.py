"""Writes the report: pictures first, the page that names them last."""

from collections.abc import Sequence
from pathlib import Path

from its_proxy.codesign.errors import ConfigError
from its_proxy.seal import replace_file
from its_training.report.found import gather
from its_training.report.loss import draw_losses, losses
from its_training.report.page import page


def write_report(runs: Sequence[Path], out: Path) -> list[Path]:
    """The files written. Raises ConfigError before anything is written where something cannot be reported."""
    found = gather(runs)
    curves = {log.file.label: points for log in found.logs if (points := losses(log))}
    files = {**(draw_losses(curves) if curves else {}), "report.md": page(found).encode()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            replace_file(out / name, data)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}", hint="choose a writable --out") from None
    return [out / name for name in files]
