"""Creates the environment with inspect-ai that `make test-eval` runs it from; `.venv` stays untouched.

It lies where cache.py says, as `eval-<digest>`; the digest covers the pins and the Python that runs this. Ends with
code 0 and its path as the one line on stdout; or with code 69 and, on stdout, why this machine cannot have one; any
other code is a failure. ITS_EVAL names a ready one instead.
"""

import os
import platform
import sys
from contextlib import redirect_stdout
from pathlib import Path

from cache import CannotInstall, building, environment_named, install, is_whole, lock_beside, stop

PINS = Path(__file__).with_name("eval-constraints.txt")
PYTHON = 3, 11


def main() -> None:
    if ready := os.environ.get("ITS_EVAL"):
        if not Path(ready, "bin/inspect").exists():
            stop(f"ITS_EVAL names {ready}, which holds no bin/inspect")
        print(ready)
        return
    if sys.version_info[:2] != PYTHON:
        frozen = ".".join(map(str, PYTHON))
        unavailable(f"the pins are of Python {frozen}, {sys.executable} is {platform.python_version()}")
    with redirect_stdout(sys.stderr):
        environment = environment_named("eval", PINS.read_text("utf-8"))
        if not is_whole(environment):
            with lock_beside(environment) as lock:
                if not is_whole(environment):
                    create(environment, lock)
    print(environment)


def create(environment: Path, lock: int) -> None:
    with building(environment, "the environment with inspect-ai, once, about 2 minutes"):
        # The pins are whole, so nothing is left to resolve.
        install(environment, lock, "--no-deps", "--only-binary", ":all:", "--requirement", str(PINS))


def unavailable(reason: str) -> None:
    print(reason)
    sys.exit(os.EX_UNAVAILABLE)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nits-proxy: interrupted; the next make begins the environment anew")
    except CannotInstall as error:
        if not error.is_out_of_reach:
            stop(str(error))
        unavailable(str(error))
    except OSError as error:
        stop(f"the environment cannot be prepared: {error}")
