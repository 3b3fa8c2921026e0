"""Who may import whom: the arrows between the folders, held over every import in the tree, lazy ones included.

codesign, voting        stdlib and pydantic, no HTTP, no asyncio; voting reads codesign's errors and nothing else
its_proxy.server        imported by its_proxy.cli only
its_proxy               never its_training, the plug-ins, litellm or vllm; openai in client.py only;
                        torch and transformers in the two modules of the embedded engine, never at import time
its_training, plug-ins  everything in its_proxy but server, cli and settings
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = (".", "training", "plugins")  # folders that hold import packages
PACKAGES = ("its_proxy", "its_training", "its_litellm", "its_vllm")
NETWORK = ("asyncio", "ftplib", "http", "selectors", "socket", "socketserver", "ssl", "urllib.request", "xmlrpc")
PURE = (*sorted(sys.stdlib_module_names), "pydantic")
ENGINE = ("its_proxy.upstreams.embedded", "its_proxy.upstreams.engine")
SHADOWS = ("vllm", "litellm", "openai")


@dataclass(frozen=True, slots=True)
class Import:
    """One name that a module imports; lazy when it is not imported together with the module."""

    path: Path
    line: int
    importer: str
    imported: str
    is_lazy: bool

    def comes_from(self, *modules: str) -> bool:
        return is_within(self.importer, modules)

    def reaches(self, *modules: str) -> bool:
        return is_within(self.imported, modules)


def is_within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def broken_arrow(found: Import) -> str | None:
    """The rule that an import breaks, or None."""
    if found.comes_from("its_proxy.codesign") and not is_pure(found, "its_proxy.codesign"):
        return "codesign imports the standard library without network and asyncio, pydantic, and itself"
    shared = ("its_proxy.codesign.errors", "its_proxy.codesign.light")
    if found.comes_from("its_proxy.voting") and not is_pure(found, "its_proxy.voting", *shared):
        return "voting imports the standard library without network and asyncio, pydantic, itself and codesign.errors"
    if found.comes_from("its_proxy"):
        return broken_arrow_of_the_proxy(found)
    if found.reaches("its_proxy.server", "its_proxy.cli", "its_proxy.settings"):
        return "training and plug-ins use everything in its_proxy but server, cli and settings"
    return None


def is_pure(found: Import, *own: str) -> bool:
    return found.reaches(*own) or (found.reaches(*PURE) and not found.reaches(*NETWORK))


def broken_arrow_of_the_proxy(found: Import) -> str | None:
    if found.reaches("its_proxy.server") and not found.comes_from("its_proxy.server", "its_proxy.cli"):
        return "only cli imports server"
    if found.reaches("its_training", "its_litellm", "its_vllm", "litellm", "vllm"):
        return "its_proxy never imports training, the plug-ins or what they plug into"
    if found.reaches("openai") and not found.comes_from("its_proxy.client"):
        return "only client.py imports openai"
    if found.reaches("torch", "transformers") and not (found.is_lazy and found.comes_from(*ENGINE)):
        return "torch and transformers are imported lazily, and by the embedded engine only"
    return None


def broken_arrows(checkout: Path) -> list[str]:
    return [
        f"{found.path.relative_to(checkout)}:{found.line} {found.importer} imports {found.imported}: {rule}"
        for found in walk_imports(checkout)
        if (rule := broken_arrow(found))
    ]


def walk_imports(checkout: Path) -> Iterator[Import]:
    for source in (checkout / name for name in SOURCES):
        for path in sorted(path for package in PACKAGES for path in (source / package).rglob("*.py")):
            yield from imports_of(path, source)


def imports_of(path: Path, source: Path) -> Iterator[Import]:
    """Every import statement of a module, and `import_module("name")` where the name stands in the code."""
    parts = path.relative_to(source).with_suffix("").parts
    package = ".".join(parts[:-1])
    importer = package if parts[-1] == "__init__" else ".".join(parts)
    for node, is_lazy in walk_nodes(ast.parse(path.read_text("utf-8")), is_lazy=False):
        for imported in names_imported(node, package):
            yield Import(path, node.lineno, importer, imported, is_lazy)


def walk_nodes(node: ast.AST, is_lazy: bool) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr | ast.stmt):
            yield child, is_lazy
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in child.body:
                yield statement, True
                yield from walk_nodes(statement, is_lazy=True)
            for statement in child.orelse:
                yield statement, is_lazy
                yield from walk_nodes(statement, is_lazy)
        else:
            yield from walk_nodes(child, is_lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def names_imported(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            return [".".join([*above, *([module] if module else []), alias.name]) for alias in names]
        case ast.Call(func=ast.Name(id="__import__" | "import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
    return []


def shadowing_folders(checkout: Path) -> list[Path]:
    """Folders that would hide the package of that name from anything run beside them."""
    found = []
    for folder, names, _ in os.walk(checkout):  # does not follow links, so .venv stays out
        names[:] = [name for name in names if not name.startswith(".") and name != "node_modules"]
        found += [Path(folder, name) for name in names if name in SHADOWS]
    return found


def test_every_import_in_the_tree_follows_the_arrows() -> None:
    assert broken_arrows(CHECKOUT) == []


def test_the_walk_reaches_both_packages_and_lazy_imports() -> None:
    found = list(walk_imports(CHECKOUT))
    assert {each.importer.split(".")[0] for each in found} >= {"its_proxy", "its_training"}
    assert any(each.is_lazy for each in found)


def test_no_folder_shadows_a_package_we_work_with() -> None:
    assert shadowing_folders(CHECKOUT) == []


def test_the_command_line_starts_without_torch_transformers_or_openai() -> None:
    code = "import sys, its_proxy.cli; print(*sorted({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "training")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def tree_with(checkout: Path, module: str, code: str) -> Path:
    path = checkout / module
    path.parent.mkdir(parents=True)
    path.write_text(code, "utf-8")
    return checkout


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("its_proxy/codesign/query.py", "import asyncio"),
        ("its_proxy/codesign/query.py", "from urllib import request"),
        ("its_proxy/codesign/query.py", "import http.client as client"),
        ("its_proxy/codesign/query.py", "import orjson"),
        ("its_proxy/codesign/query.py", "from its_proxy import checkpoint"),
        ("its_proxy/codesign/query.py", "from ..voting import tally"),
        ("its_proxy/codesign/__init__.py", "from .. import sampling"),
        ("its_proxy/voting/tally.py", "from its_proxy.codesign import query"),
        ("its_proxy/voting/tally.py", "def tally():\n    import aiohttp"),
        ("its_proxy/voting/tally.py", "async def tally():\n    from asyncio import sleep"),
        ("its_proxy/sampling.py", "from its_proxy.server.app import build_app"),
        ("its_proxy/sampling.py", "from its_proxy import server"),
        ("its_proxy/cli.py", "def main():\n    import its_training.demo"),
        ("its_proxy/cli.py", "if TYPE_CHECKING:\n    import its_litellm"),
        ("its_proxy/cli.py", "def main():\n    __import__('vllm')"),
        ("its_proxy/cli.py", "def main():\n    importlib.import_module('litellm')"),
        ("its_proxy/sampling.py", "def sample():\n    import openai"),
        ("its_proxy/sampling.py", "def sample():\n    import torch"),
        ("its_proxy/upstreams/embedded.py", "import torch"),
        ("its_proxy/upstreams/embedded.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        ("its_proxy/upstreams/engine.py", "class Engine:\n    from transformers import AutoModelForCausalLM"),
        ("training/its_training/record.py", "from its_proxy import settings"),
        ("training/its_training/record.py", "def record():\n    from its_proxy.cli import main"),
        ("plugins/its_vllm/middleware.py", "import its_proxy.server.app"),
    ],
)
def test_the_walk_finds_a_broken_arrow(tmp_path: Path, module: str, code: str) -> None:
    [broken] = broken_arrows(tree_with(tmp_path, module, code))
    assert broken.startswith(f"{module}:")


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("its_proxy/codesign/query.py", "import hashlib, pydantic\nfrom .errors import ItsError"),
        (
            "its_proxy/voting/tally.py",
            "from its_proxy.codesign.errors import VoteError\nimport re",
        ),
        ("its_proxy/cli.py", "from its_proxy.server.app import build_app"),
        ("its_proxy/server/app.py", "from .limits import Limits\nimport aiohttp"),
        ("its_proxy/client.py", "import openai"),
        ("its_proxy/upstreams/engine.py", "if TYPE_CHECKING:\n    import torch\ndef load():\n    import transformers"),
        ("training/its_training/record.py", "import torch\nfrom its_proxy.codesign import manifest"),
    ],
)
def test_the_walk_lets_the_arrows_themselves_pass(tmp_path: Path, module: str, code: str) -> None:
    assert broken_arrows(tree_with(tmp_path, module, code)) == []


def test_a_shadowing_folder_is_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "tests" / "vllm").mkdir(parents=True)
    assert shadowing_folders(tmp_path) == [tmp_path / "tests" / "vllm"]
