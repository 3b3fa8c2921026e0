"""Fuzzes one target by its coverage, with atheris: run by the environment that `make fuzz` keeps, not by `.venv`.

    python -m tests.fuzz.guided sse FOLDER 600

For 600 seconds; new inputs go into FOLDER, and so does one that fails, which ends it with another code than 0. Else it
ends with a line of JSON: how many inputs there were, and the longest that one took. libFuzzer's own flags may follow.
"""

import json
import os
import sys
from pathlib import Path
from time import monotonic

import atheris

with atheris.instrument_imports(include=["its_proxy"]):
    from tests.fuzz.seeds import SEEDS
    from tests.fuzz.targets import TARGETS, in_time

atheris.enabled_hooks.add("RegEx")
atheris.enabled_hooks.add("str")


def main(name: str, folder: Path, seconds: float, flags: list[str]) -> None:
    target = TARGETS[name]
    for number, seed in enumerate(SEEDS[name]):
        (folder / f"seed-{number}").write_bytes(seed)
        target(seed)  # what is compiled or opened once is not held against an input
    n_inputs, slowest_s, ends_at = 0, 0.0, monotonic() + seconds

    def run(data: bytes) -> None:
        nonlocal n_inputs, slowest_s
        n_inputs += 1
        slowest_s = max(slowest_s, in_time(target, data))
        if monotonic() >= ends_at:
            print(json.dumps({"inputs": n_inputs, "slowest_ms": round(1000 * slowest_s, 1)}), flush=True)
            os._exit(0)  # libFuzzer would call an ordinary end of the process a crash

    atheris.Setup([sys.argv[0], str(folder), f"-artifact_prefix={folder}/", *flags], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
