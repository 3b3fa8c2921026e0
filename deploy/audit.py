"""Looks up every package that this project pins for known vulnerabilities; a row that cannot be looked up is a failure.

    python deploy/audit.py PIP_AUDIT [FILE ...] [--services pypi,osv] [--osv-url URL]

PyPI knows which names and versions it has, OSV knows of more advisories and of malicious releases, so both are asked.
Ends with 0 when every row was looked up and none is vulnerable, else with 1 and a line for each row that is not so.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).resolve().parent
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;#]+)")
# What pip-audit says of every list without hashes; any other warning is about a row that it passed over.
_EXPECTED = ("--no-deps is supported", "Consider using a tool like")


@dataclass
class Findings:
    """Of one list: one line each. `n_audited` rows were looked up."""

    n_audited: int = 0
    vulnerable: list[str] = field(default_factory=list)
    unaudited: list[str] = field(default_factory=list)


def lists() -> list[Path]:
    """Every list of pins that an environment of this project is built from."""
    return [DEPLOY.parent / "constraints.txt", *sorted(DEPLOY.glob("*-constraints.txt")), DEPLOY / "vllm-wheel.txt"]


def audit(pip_audit: str, pins: Path, service: str, osv_url: str | None) -> Findings:
    findings = Findings()
    names = _pinned(pins, findings)
    url = ["--osv-url", osv_url] if osv_url and service == "osv" else []
    done = subprocess.run(
        [pip_audit, "--requirement", str(pins), "--no-deps", "--disable-pip", "--format", "json",
         "--progress-spinner", "off", "--vulnerability-service", service, *url],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        audited: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        findings.unaudited.append(f"none of its {len(names)} packages: {reason[:300]}")
        return findings
    for row in audited:
        _judge(row, findings)
        names.discard(_canonical(row["name"]))
    findings.unaudited += [f"{name}: pip-audit passed it over" for name in sorted(names)]
    findings.unaudited += [line for line in done.stderr.splitlines() if _is_warning(line)]
    return findings


def _pinned(pins: Path, findings: Findings) -> set[str]:
    """Names of the rows; what is no exact pin cannot be looked up."""
    names = set()
    for line in pins.read_text("utf-8").splitlines():
        row = line.strip()
        if not row or row.startswith("#"):
            continue
        if (pin := _PIN.match(row)) is not None:
            names.add(_canonical(pin["name"]))
        else:
            findings.unaudited.append(f"{row[:100]}: no exact pin")
    return names


def _judge(row: dict[str, Any], findings: Findings) -> None:
    if "skip_reason" in row:
        findings.unaudited.append(f"{row['name'][:100]}: {row['skip_reason']}")
        return
    findings.n_audited += 1
    for found in row["vulns"]:
        fixed = ", ".join(found["fix_versions"]) or "no release"
        findings.vulnerable.append(f"{row['name']} {row['version']}: {found['id']}, fixed in {fixed}")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_warning(line: str) -> bool:
    return line.startswith(("WARNING", "ERROR")) and not any(expected in line for expected in _EXPECTED)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pip_audit")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--services", default="pypi,osv")
    parser.add_argument("--osv-url")
    asked = parser.parse_args(arguments)
    n_vulnerable = n_unaudited = 0
    for pins in asked.files or lists():
        for service in asked.services.split(","):
            found = audit(asked.pip_audit, pins, service, asked.osv_url)
            n_vulnerable += len(found.vulnerable)
            n_unaudited += len(found.unaudited)
            print(f"{pins.name}, {service}: {found.n_audited} looked up, {len(found.vulnerable)} advisories")
            for line in found.vulnerable:
                print(f"  VULNERABLE {line}")
            for line in found.unaudited:
                print(f"  NOT AUDITED {line}")
    print(f"its-proxy: {n_vulnerable} advisories, {n_unaudited} rows or lists that could not be audited")
    return 1 if n_vulnerable or n_unaudited else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
