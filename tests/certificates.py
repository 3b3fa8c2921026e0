"""Certificates that are nobody's but their own, made by openssl."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    @property
    def trust(self) -> ssl.SSLContext:
        """For a client that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=self.cert)


def make_certificate(folder: Path, name: str = "server", subject: str = "its-proxy") -> Certificate:
    """For 127.0.0.1, valid from now on."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificate(folder / f"{name}.pem", folder / f"{name}-key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    extension = ["-subj", f"/CN={subject}", "-addext", "subjectAltName=IP:127.0.0.1"]
    outputs = ["-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run([*command.split(), *extension, *outputs], check=True, capture_output=True)
    return made
