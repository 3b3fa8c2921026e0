"""The pictures of docs/reliability.md: memory over the soak, and how long candidates outlive their clients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.plot import draw

WARM_S = 300.0


def draw_all(results: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """Their file names, of those that there are results for."""
    pictures = {}
    if "soak" in results:
        line = [(at / 60, mib) for at, mib in results["soak"]["rss_mib"]]
        title = "Memory of its-proxy under mixed load (shaded: warm-up)"
        pictures["soak.svg"] = draw(title, "minutes", "RSS, MiB", {"RSS": line}, WARM_S / 60)
    if "disconnects" in results:
        times = results["disconnects"]["abort_ms_by_permille"]
        line = [(ms, 100 * number / len(times)) for number, ms in enumerate(times, start=1)]
        title = "Candidates that have ended, so many ms after their client left"
        pictures["disconnects.svg"] = draw(title, "ms", "% ended", {"ended": line}, 0, 100)
    for name, picture in pictures.items():
        (folder / name).write_text(picture)
    return list(pictures)
