"""All the long measurements, one after the other, and the page about them.

python -m benchmarks.reliability               # all of them: see --help for how long each takes
python -m benchmarks.reliability soak faults   # some
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec

import click

from benchmarks.reliability import page

# In this order, with the minutes that each takes on two quiet cores.
MINUTES = {
    "faults": 7,
    "disconnects": 1,
    "endless": 1,
    "slow_headers": 8,
    "slow_readers": 2,
    "descriptors": 1,
    "large_bodies": 1,
    "key_timing": 1,
    "retry_budget": 4,
    "flapping": 7,
    "overload": 9,
    "outage": 9,
    "straggler": 2,
    "bombs": 1,
    "workers": 2,
    "rolling_restarts": 10,
    "reloads": 2,
    "telemetry": 3,
    "secrets": 1,
    "fuzz": 105,
    "soak": 60,
}


def command_of(name: str) -> list[str] | None:
    """None where this version does not have it."""
    if name == "faults":
        return [sys.executable, "-m", "pytest", "-q", "tests/faults/test_matrix.py"]
    module = f"benchmarks.reliability.{name}"
    long_form = ["--long"] if name == "fuzz" else []
    return [sys.executable, "-m", module, *long_form] if find_spec(module) is not None else None


@click.command(help=__doc__, epilog="Minutes: " + ", ".join(f"{name} {n}" for name, n in MINUTES.items()))
@click.argument("names", nargs=-1, type=click.Choice(list(MINUTES)))
def main(names: tuple[str, ...]) -> None:
    failed = []
    for name in names or MINUTES:
        if (command := command_of(name)) is None:
            continue
        began = time.monotonic()
        print(f"{name}, some {MINUTES[name]} minutes", flush=True)
        ended = subprocess.run(command, env={"ITS_TORTURE": "20", **os.environ}, check=False)
        failed += [name] if ended.returncode else []
        print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes, exit {ended.returncode}", flush=True)
    page.main(standalone_mode=False, args=[])
    if failed:
        sys.exit(f"did not end well: {', '.join(failed)}")


if __name__ == "__main__":
    main()
