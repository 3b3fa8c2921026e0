"""What keeps a plug-in from being reached at all, so that it cannot say so itself: told by those who start it.

vLLM runs `check_vllm` in each of its processes (entry point group `vllm.general_plugins`).
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path

# Below vLLM's own logger, so that its handlers show it.
log = logging.getLogger("vllm.its_vllm")
_OFF = ("", "0", "false", "False")


def shadow_of(package: str) -> Path | None:
    """Where Python would import a package of that name from, if not from where its-proxy is installed.

    An installation that only points at a checkout says nothing of where it lies, and then nothing is said.
    """
    try:
        installed = Path(str(distribution("its-proxy").locate_file(f"{package}/__init__.py")))
    except PackageNotFoundError:
        return None
    spec = importlib.util.find_spec(package)
    if not installed.is_file() or spec is None:
        return None
    found = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))
    return None if found.resolve() == installed.resolve() else found


def check_vllm() -> None:
    """Logs one line for each thing that would leave queries plain, if this process was asked for the middleware."""
    for reason in vllm_problems(sys.argv, os.environ):
        log.error("%s", reason)


def vllm_problems(arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    if not _is_asked_for("its_vllm", arguments):
        return
    if environ.get("VLLM_USE_RUST_FRONTEND", "") not in _OFF:
        yield (
            "VLLM_USE_RUST_FRONTEND is set, and that front end runs no middleware: every query would go past its_vllm "
            "(unset it, or put its-proxy serve in front)"
        )
    if (shadow := shadow_of("its_vllm")) is not None:
        yield f"its_vllm would be imported from {shadow}, which is not the installed its-proxy (rename that folder)"


def _is_asked_for(package: str, arguments: Sequence[str]) -> bool:
    """On the command line, or in the file that its --config names."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    said = list(words)
    for path in (path for option, path in pairwise(words) if option == "--config"):
        with suppress(OSError, ValueError):  # vLLM says itself what is wrong with it
            said.append(Path(path).read_text("utf-8"))
    return any(package in text for text in said)
