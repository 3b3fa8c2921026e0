"""An environment made of whole pins that nothing is left to resolve for, for a tool that cannot share `.venv`.

The scripts that describe one (eval_environment.py, litellm_environment.py) end with code 0 and its path as the one line
on stdout; or with code 69 and, on stdout, why this machine cannot have one; any other code is a failure.
"""

import os
import platform
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cache import CannotInstall, building, environment_named, install, is_whole, lock_beside, stop

PYTHON = 3, 11


@dataclass(frozen=True)
class Pinned:
    """`NAME-constraints.txt` beside this file holds the pins; `program` is in the environment's bin/, `variable` names
    a ready environment instead. `from_source`: packages that are published without a wheel. `finish` puts into it
    what pip does not; raises CannotInstall."""

    name: str
    program: str
    variable: str
    what: str
    from_source: tuple[str, ...] = ()
    finish: Callable[[Path], None] = lambda environment: None

    def provide(self) -> None:
        """Prints the path, building the environment first where it is not whole."""
        provide(self._provided)

    def _provided(self) -> Path:
        if ready := os.environ.get(self.variable):
            if not Path(ready, "bin", self.program).exists():
                stop(f"{self.variable} names {ready}, which holds no bin/{self.program}")
            return Path(ready)
        if sys.version_info[:2] != PYTHON:
            frozen = ".".join(map(str, PYTHON))
            unavailable(f"the pins are of Python {frozen}, {sys.executable} is {platform.python_version()}")
        pins = Path(__file__).with_name(f"{self.name}-constraints.txt")
        with redirect_stdout(sys.stderr):
            environment = environment_named(self.name, pins.read_text("utf-8"))
            if not is_whole(environment):
                with lock_beside(environment) as lock:
                    if not is_whole(environment):
                        with building(environment, f"the environment with {self.what}, once, about 2 minutes"):
                            # The pins are whole, so nothing is left to resolve.
                            how = ["--no-deps", "--only-binary", ":all:"]
                            how += ["--no-binary", ",".join(self.from_source)] if self.from_source else []
                            install(environment, lock, *how, "--requirement", str(pins))
                            self.finish(environment)
        return environment


def provide(prepared: Callable[[], Path]) -> None:
    """Prints the path that `prepared` returns, or tells why there is none."""
    try:
        environment = prepared()
    except KeyboardInterrupt:
        sys.exit("\nits-proxy: interrupted; the next make begins the environment anew")
    except CannotInstall as error:
        if not error.is_out_of_reach:
            stop(str(error))
        unavailable(str(error))
    except OSError as error:
        stop(f"the environment cannot be prepared: {error}")
    print(environment)


def unavailable(reason: str) -> NoReturn:
    print(reason)
    sys.exit(os.EX_UNAVAILABLE)
