"""What its-proxy would never do by itself: run what it reads, or fetch anything when it is imported."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SERVING = CHECKOUT / "its_proxy"
RUNS_TEXT = ("eval", "exec", "compile", "execfile")
RUNS_DATA = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "numpy.load", "torch.load", "os.system")
LOADERS = ("load", "load_all", "full_load", "unsafe_load", "FullLoader", "UnsafeLoader", "Loader")

# Runs in a process of its own: every module of its_proxy but those of the extras, under an audit hook that ends it
# where anything would look up a host, open a connection, or start a program.
IMPORTS_EVERYTHING = """
import importlib, pkgutil, sys

def refuse(event, arguments):
    reaches_out = event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
                            "urllib.Request", "http.client.connect", "subprocess.Popen", "os.exec", "os.posix_spawn")
    if reaches_out:
        raise SystemExit(f"{event}{arguments}")

sys.addaudithook(refuse)
import its_proxy

names = [found.name for found in pkgutil.walk_packages(its_proxy.__path__, "its_proxy.")]
for name in names:
    if name not in ("its_proxy.__main__", *sys.argv[1:]):
        importlib.import_module(name)
print(len(names), *sorted({"torch", "transformers", "litellm", "vllm", "pickle5", "dill"} & set(sys.modules)))
"""
OF_EXTRAS = ("its_proxy.inspect_task",)


def broken_promises(code: str) -> list[str]:
    """What a module does that could run data, by line."""
    return [f"{node.lineno}: {ast.unparse(node)[:60]}" for node in ast.walk(ast.parse(code)) if _runs_data(node)]


def _runs_data(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in RUNS_TEXT:
            return True
        case ast.Import(names=names) if any(_is_within(alias.name) for alias in names):
            return True
        case ast.ImportFrom(module=str(module)) if _is_within(module):
            return True
        case ast.Attribute() if ast.unparse(node) in RUNS_DATA:
            return True
        case ast.Attribute(value=ast.Name(id="yaml"), attr=attribute) if attribute in LOADERS:
            return True
        case ast.keyword(arg="shell" | "trust_remote_code" | "allow_pickle", value=value):
            return not (isinstance(value, ast.Constant) and value.value is False)
    return False


def _is_within(module: str) -> bool:
    return module.split(".")[0] in RUNS_DATA


def modules() -> Iterator[Path]:
    yield from sorted(path for package in (SERVING, *CHECKOUT.glob("plugins/*")) for path in package.rglob("*.py"))


def test_nothing_that_serves_can_run_what_it_reads():
    """No eval, no pickle, no YAML tags, no shell, no code that comes with a checkpoint."""
    broken = {str(path.relative_to(CHECKOUT)): broken_promises(path.read_text("utf-8")) for path in modules()}
    assert len(broken) > 80
    assert {path: lines for path, lines in broken.items() if lines} == {}


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "def f(text):\n    exec(text)",
        "import pickle",
        "def f():\n    from pickle import loads",
        "yaml.load(file)",
        "yaml.load(file, Loader=yaml.UnsafeLoader)",
        "torch.load(file)",
        "subprocess.run(command, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=asked)",
        "os.system(command)",
    ],
)
def test_the_walk_finds_what_could(code):
    assert broken_promises(code)


@pytest.mark.parametrize("code", ["re.compile(x)", "model.eval()", "yaml.safe_load(file)", "run(x, shell=False)"])
def test_the_walk_lets_the_harmless_pass(code):
    assert broken_promises(code) == []


def test_importing_everything_reaches_nothing():
    """No host is looked up, no connection opened, no program started, and no framework loaded."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_EVERYTHING, *OF_EXTRAS],
        capture_output=True, text=True, env=environment, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    n_modules, *loaded = done.stdout.split()
    assert int(n_modules) > 60
    assert loaded == []


def test_the_hook_would_have_noticed():
    reaching = IMPORTS_EVERYTHING.replace("import its_proxy\n", "import socket; socket.getaddrinfo('localhost', 1)\n")
    done = subprocess.run([sys.executable, "-c", reaching], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.startswith("socket.getaddrinfo")
