"""What a plug-in cannot say itself, because it is never reached."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from its_proxy.preflight import vllm_problems

ROOT = Path(__file__).parent.parent
SERVE = ["vllm", "serve", "folder", "--middleware", "its_vllm.Middleware"]


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (SERVE, {}, None),
        (SERVE, {"VLLM_USE_RUST_FRONTEND": "0"}, None),
        (SERVE, {"VLLM_USE_RUST_FRONTEND": "1"}, "runs no middleware"),
        (SERVE[:3], {"VLLM_USE_RUST_FRONTEND": "1"}, None),
        ([*SERVE[:3], "--middleware=its_vllm.Middleware"], {"VLLM_USE_RUST_FRONTEND": "1"}, "runs no middleware"),
    ],
)
def test_a_front_end_that_runs_no_middleware_is_told(arguments, environ, said):
    problems = list(vllm_problems(arguments, environ))
    assert (said in problems[0]) if said else problems == []


@pytest.mark.parametrize("middleware", ["its_vllm.Middleware", "other.Middleware"])
def test_a_configuration_file_is_looked_into(tmp_path, middleware):
    (tmp_path / "serve.yaml").write_text(f"middleware:\n  - {middleware}\n")
    problems = vllm_problems(["serve", "--config", str(tmp_path / "serve.yaml")], {"VLLM_USE_RUST_FRONTEND": "1"})
    assert len(list(problems)) == (middleware == "its_vllm.Middleware")


@pytest.mark.parametrize("is_package", [True, False], ids=["package", "module"])
def test_a_folder_that_shadows_the_installed_package_is_named(tmp_path, is_package):
    site, here = tmp_path / "site", tmp_path / "here"
    (site / "its_proxy-1.dist-info").mkdir(parents=True)
    (site / "its_proxy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: its-proxy\nVersion: 1\n")
    (site / "its_vllm").mkdir()
    (site / "its_vllm" / "__init__.py").touch()
    here.mkdir()
    shadow = here / "its_vllm" / "__init__.py" if is_package else here / "its_vllm.py"
    assert told(site, here) == ""
    shadow.parent.mkdir(exist_ok=True)
    shadow.touch()
    assert told(site, here) == f"its_vllm would be imported from {shadow}, which is not the installed its-proxy"


def told(site, here):
    """By a process whose folder comes first, as with `python -m`; the problems, without their advice."""
    code = (
        f"import sys; sys.path[1:1] = [{str(site)!r}, {str(ROOT)!r}]\n"
        f"from its_proxy.preflight import vllm_problems\nprint(*vllm_problems({SERVE!r}, {{}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, env={}, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().partition(" (")[0]


def test_vllm_finds_the_check_by_its_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["its_vllm"].partition(":")
    assert callable(getattr(import_module(module), name))
