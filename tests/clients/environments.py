"""Where the clients are installed: what deploy/clients_environment.py printed, which ITS_CLIENTS holds."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

_VERSION = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"


@dataclass(frozen=True)
class Environment:
    """A folder with bin/python, or with node_modules."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    async def version(self, distribution: str) -> str:
        """Of an installed package."""
        package = self.folder / "node_modules" / distribution / "package.json"
        if package.exists():
            return str(json.loads(package.read_text("utf-8"))["version"])
        process = await asyncio.create_subprocess_exec(
            str(self.python), "-I", "-c", _VERSION, distribution, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, f"{self.folder} holds no {distribution}"
        return out.decode().strip()


def environment(name: str) -> Environment:
    """Skips where this machine cannot have it, unless ITS_REQUIRE_CLIENTS=1 says that nothing may be skipped."""
    if "ITS_CLIENTS" not in os.environ:
        pytest.skip("ITS_CLIENTS is not set: make test-clients sets it")
    told = json.loads(os.environ["ITS_CLIENTS"])[name]
    if "because" in told:
        if os.environ.get("ITS_REQUIRE_CLIENTS") == "1":
            pytest.fail(told["because"])
        pytest.skip(told["because"])
    return Environment(Path(told["folder"]))
