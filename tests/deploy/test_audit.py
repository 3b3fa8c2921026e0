"""`make audit`: what it says of every kind of row, by a real pip-audit before an advisory service of the test's own."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
UNAVAILABLE = 69
Answer = Callable[[str, str], tuple[int, bytes]]
"""(package, version) -> status and body."""


@pytest.fixture(scope="session")
def pip_audit() -> str:
    """The program, in the environment that `make audit` keeps."""
    done = subprocess.run([sys.executable, ROOT / "deploy/audit_environment.py"], capture_output=True, text=True)
    if done.returncode == UNAVAILABLE:
        pytest.skip(f"no pip-audit here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    return f"{done.stdout.strip()}/bin/pip-audit"


@contextmanager
def advisories(answer: Answer) -> Iterator[str]:
    """A service that speaks as OSV does, and its address."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answer(asked["package"]["name"], asked["version"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()


def advisory(name: str, **fields: Any) -> bytes:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}]
    affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
    return json.dumps({"vulns": [{"id": "PYSEC-1", "summary": "bad", "affected": affected, **fields}]}).encode()


def audit(pip_audit: str, folder: Path, rows: str, answer: Answer) -> subprocess.CompletedProcess[str]:
    (folder / "pins.txt").write_text(rows)
    with advisories(answer) as url:
        return run(pip_audit, url, folder / "pins.txt")


def run(pip_audit: str, url: str, *pins: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "deploy/audit.py", pip_audit, *pins, "--services", "osv", "--osv-url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def clean(name: str, version: str) -> tuple[int, bytes]:
    return 200, b"{}"


@pytest.mark.timeout(400)
def test_clean_rows_pass_and_are_counted(pip_audit, tmp_path):
    done = audit(pip_audit, tmp_path, "# two of them\nFirst_One==1.0\nsecond==2.0\n", clean)
    assert done.returncode == 0, done.stdout
    assert "pins.txt, osv: 2 looked up, 0 advisories\n" in done.stdout


def test_a_vulnerable_row_is_named_with_its_advisory_and_its_fix(pip_audit, tmp_path):
    def answer(name: str, version: str) -> tuple[int, bytes]:
        return 200, advisory(name) if (name, version) == ("second", "2.0") else b"{}"

    done = audit(pip_audit, tmp_path, "first==1.0\nsecond==2.0\n", answer)
    assert done.returncode == 1
    assert "VULNERABLE second 2.0: PYSEC-1, fixed in 9.9" in done.stdout
    assert "NOT AUDITED" not in done.stdout


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("second @ https://example.org/second-2.0-py3-none-any.whl", "no exact pin"),
        ("second>=2", "no exact pin"),
        ("second==2.0; python_version < '3'", "second: pip-audit passed it over"),
    ],
)
def test_a_row_that_cannot_be_looked_up_fails_and_is_named(pip_audit, tmp_path, row, reason):
    done = audit(pip_audit, tmp_path, f"first==1.0\n{row}\n", clean)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if "NOT AUDITED second" in line and reason in line], done.stdout


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda name, version: (404, b"{}"), id="unknown"),
        pytest.param(lambda name, version: (503, b""), id="busy"),
        pytest.param(lambda name, version: (200, b"<html>"), id="no JSON"),
        pytest.param(lambda name, version: (200, b'{"v": 1}'), id="another JSON"),
        pytest.param(lambda name, version: (200, advisory(name, schema_version="2.0.0")), id="a later schema"),
    ],
)
def test_a_service_that_does_not_answer_properly_is_no_clean_bill(pip_audit, tmp_path, answer):
    def of_the_second(name: str, version: str) -> tuple[int, bytes]:
        return answer(name, version) if name == "second" else (200, b"{}")

    done = audit(pip_audit, tmp_path, "first==1.0\nsecond==2.0\n", of_the_second)
    assert done.returncode == 1
    assert "NOT AUDITED" in done.stdout


def test_a_service_that_is_down_is_no_clean_bill(pip_audit, tmp_path):
    (tmp_path / "pins.txt").write_text("first==1.0\n")
    done = run(pip_audit, "http://127.0.0.1:1/v1/query", tmp_path / "pins.txt")
    assert done.returncode == 1
    assert "NOT AUDITED none of its 1 packages" in done.stdout


@pytest.mark.timeout(400)
def test_every_list_of_the_project_can_be_looked_up(pip_audit):
    """Against a service that knows of nothing: no row is passed over for how it is written."""
    with advisories(clean) as url:
        done = run(pip_audit, url)
    assert done.returncode == 0, done.stdout
    counted = {line.split(",")[0] for line in done.stdout.splitlines() if "looked up" in line}
    pins = {path.name for path in (ROOT / "deploy").glob("*-constraints.txt")}
    assert counted == {"constraints.txt", "vllm-wheel.txt", *pins}
