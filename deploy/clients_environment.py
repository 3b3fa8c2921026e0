"""Prepares the environments that `make test-clients` runs real clients from; tells where they are, as one JSON object.

    python deploy/clients_environment.py             # {"sdks": {"folder": "..."}, "aider": {"because": "..."}, ...}
    python deploy/clients_environment.py --newest    # what the registries hold today, in place of the pinned
    python deploy/clients_environment.py sdks        # one of the pinned alone: its path

Clients share an environment where their dependencies agree. A group that this machine cannot have tells why; a failure
ends this with another code than 0. To refresh the pins: `--newest`, then `pip freeze --all --exclude pip` in each.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

from cache import CHECKOUT, building, cache_folder, environment_named, install, is_whole, lock_beside, stop
from pinned import Pinned, provide, unavailable

DAY_S = 24 * 3600
DEPLOY = Path(__file__).parent
NPM_FOLDER = CHECKOUT / "tests/real_litellm"  # its lock file names that package alone
NPM_INSTALL = ("npm", "install", "openai", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix")
# Client -> what is asked for: those that agree on older releases of what they share, and would hold each other back.
SDKS = {
    "openai": ("openai",),
    "langchain": ("langchain-openai",),
    "llama-index": ("llama-index-llms-openai-like",),
    "instructor": ("instructor",),
    "pydantic-ai": ("pydantic-ai-slim[openai]",),
    "llm": ("llm",),
}
# Group -> what is asked for, the program that proves it, and what has no wheels. Their pins are here.
OWN: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "sdks": (tuple(name for names in SDKS.values() for name in names), "llm", ()),
    "lm-eval": (("lm-eval[api]",), "lm_eval", ("rouge-score", "sqlitedict", "word2number")),
    "aider": (("aider-chat",), "aider", ()),
}
# Those that other tests run from, too.
SHARED = {"inspect": "eval_environment.py", "litellm": "litellm_environment.py", "vllm": "vllm_environment.py"}
NEWEST = {
    **SDKS,
    "lm-eval": OWN["lm-eval"][0],
    "aider": OWN["aider"][0],
    "inspect": ("inspect-ai", "openai"),
    # The range of the `litellm` extra: releases beyond it have been malicious before. It needs mcp, unsaid, for tools.
    "litellm": ("litellm>=1.106.2,<1.107", "mcp", "openai"),
}


def pinned(name: str) -> None:
    """Prints the path of one of our own groups; code 69 and why where there can be none."""
    asked_for, program, from_source = OWN[name]
    variable = f"ITS_CLIENTS_{name.upper().replace('-', '_')}"
    what = ", ".join(asked_for)
    Pinned(f"clients-{name}", program=program, variable=variable, what=what, from_source=from_source).provide()


def newest(name: str) -> Path:
    """Where the same group is as the registries hold it today: built once a day, in place of those of days before."""
    environment = environment_named(f"newest-{name}", *NEWEST[name], datetime.now(UTC).date().isoformat())
    with redirect_stdout(sys.stderr), lock_beside(environment) as lock:
        if not is_whole(environment):
            remove_earlier(f"newest-{name}")
            with building(environment, f"the environment with the newest {', '.join(NEWEST[name])}"):
                install(environment, lock, "--prefer-binary", *NEWEST[name])
    return environment


def remove_earlier(name: str) -> None:
    """Those of this name that nothing asks for any more; else each day that is tested would leave gigabytes."""
    for complete in cache_folder().glob(f"{name}-{'?' * 12}/complete"):
        if time.time() - complete.stat().st_mtime > DAY_S:
            shutil.rmtree(complete.parent, ignore_errors=True)


def newest_npm() -> None:
    """OpenAI's package for JavaScript, likewise."""
    folder = environment_named("newest-npm", "openai", datetime.now(UTC).date().isoformat())
    with lock_beside(folder):
        if not (folder / "complete").exists():
            remove_earlier("newest-npm")
            folder.mkdir(exist_ok=True)
            command = [
                "npm",
                "install",
                "--prefix",
                str(folder),
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "openai",
            ]
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            except FileNotFoundError:
                unavailable("npm is not installed")
            if done.returncode != 0:
                stop(f"npm install fails: {done.stderr.strip()[-300:]}")
            (folder / "complete").touch()
    print(folder)


def whole(*, is_newest: bool) -> dict[str, dict[str, str]]:
    """Every group: its folder, or because of what there is none."""
    this = str(Path(__file__))
    commands = {name: [str(DEPLOY / script)] for name, script in SHARED.items()}
    if is_newest:
        # vLLM's wheels for CPUs are built by others, release by release: none is newer than that which is pinned.
        commands |= {name: [this, "--newest", name] for name in (*NEWEST, "npm")}
    else:
        commands |= {name: [this, name] for name in OWN} | {name: [this, "sdks"] for name in SDKS}
        commands["npm"] = [str(DEPLOY / "npm_packages.py"), str(NPM_FOLDER)]
    return {name: told(command) for name, command in commands.items()}


def told(command: list[str]) -> dict[str, str]:
    done = subprocess.run([sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode == os.EX_UNAVAILABLE:
        return {"because": done.stdout.strip()}
    if done.returncode != 0:
        sys.exit(done.returncode)
    return {"folder": done.stdout.strip()}


if __name__ == "__main__":
    is_newest, names = "--newest" in sys.argv[1:], [name for name in sys.argv[1:] if name != "--newest"]
    if not names:
        print(json.dumps(whole(is_newest=is_newest)))
    elif names == ["npm"]:
        newest_npm()
    elif is_newest:
        provide(lambda: newest(names[0]))
    else:
        pinned(names[0])
