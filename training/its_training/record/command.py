"""`its-train record`: parses and prints; the work is in record.py and derive.py."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import FILE_NAME
from its_training.progress import Stages
from its_training.quiet import quiet_libraries

if TYPE_CHECKING:
    from its_training.record.live import Server
    from its_training.record.probes import Reference
    from its_training.record.record import Recorded

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint", type=_PATH)
@click.option("--base", type=_PATH, help="What it was fine-tuned from: a folder, or a Hub id.")
@click.option("--sibling", "siblings", multiple=True, metavar="NAME=DIR", help="An arm trained beside it; repeatable.")
@click.option("--derive", "origin", type=_PATH, metavar="FROM", help="CHECKPOINT was made from FROM: keep its pair.")
@click.option("--dataset", type=_PATH, help="What its-train prepare wrote, for a checkpoint without its.json.")
@click.option("--arm", help="The arm of --dataset that it was trained on.")
@click.option("--queries", type=_PATH, help="Queries of a validation split.  [default: the arm's, else those recorded]")
@click.option("--probes", "n_probes", type=click.IntRange(1, 16), default=8, help="Probes; 16 where power is short.")
@click.option("--evaluation", "measured", multiple=True, metavar="BENCHMARK:SPLIT=FILE", help="Candidates of it.")
@click.option("--out", type=_PATH, help="Folder for the manifest alone.  [default: CHECKPOINT]")
@click.option("--device", default="cpu", help="Where models are computed: cpu, cuda, or auto for all GPUs.")
@click.option("--upstream", help="With --derive: the server that serves CHECKPOINT, such as http://gpu:8000/v1.")
@click.option("--served-name", help="Its name for CHECKPOINT.  [default: the folder's name]")
@click.option("--upstream-key-env", help="NAME of the variable that holds the server's key.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="CPU threads.")
def command(
    checkpoint: Path,
    base: Path | None,
    siblings: tuple[str, ...],
    origin: Path | None,
    dataset: Path | None,
    arm: str | None,
    queries: Path | None,
    n_probes: int,
    measured: tuple[str, ...],
    out: Path | None,
    device: str,
    upstream: str | None,
    served_name: str | None,
    upstream_key_env: str | None,
    threads: int,
) -> None:
    """Measures the probes of CHECKPOINT against its base and siblings, and seals them into its manifest.

    With --derive FROM, CHECKPOINT is a quantised, merged or converted FROM, and gets its manifest and pair id.
    """
    references = tuple(_sibling(text) for text in siblings)
    if origin is not None:
        _refuse_beside_derive({"--sibling": siblings, "--dataset": dataset, "--queries": queries, "--out": out})
    elif upstream is not None:
        raise ConfigError("--upstream goes with --derive", hint="a checkpoint is recorded from its saved files")
    elif base is None:
        raise ConfigError("--base is missing", hint="the checkpoint that this one was fine-tuned from")
    if (dataset is None) != (arm is None):
        raise ConfigError("--dataset and --arm go together", hint="a prepared folder, and one of its arms")
    if any(not path.is_dir() for path in (base, *(one.folder for one in references)) if path is not None):
        os.environ.setdefault("HF_HUB_OFFLINE", "0")  # a Hub id is meant: the one case in which something is fetched
    server = _server(upstream, served_name or checkpoint.resolve().name, upstream_key_env)
    from its_training.record.measured import read_measurement

    measurements = tuple(read_measurement(text) for text in measured)
    quiet_libraries(threads)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what comes of them is one line of ours
    console = Console(highlight=False, markup=False, soft_wrap=True)
    show = Stages(console).show
    if origin is not None:
        from its_training.record.derive import Derivation, derive

        recorded = derive(Derivation(origin, checkpoint, base, measurements, device, server), show)
    else:
        from its_training.record.opened import Arm
        from its_training.record.record import Request, record

        assert base is not None
        prepared = Arm(dataset, arm) if dataset is not None and arm is not None else None
        request = Request(checkpoint, base, references, prepared, queries, n_probes, measurements, device, out)
        recorded = record(request, show)
    _print(console, recorded, checkpoint if out is None else out)


def _server(url: str | None, served_name: str, key_env: str | None) -> "Server | None":
    from its_training.record.live import Server

    if url is None:
        return None
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--upstream {url}: not a URL", hint="such as http://gpu:8000/v1")
    if key_env is not None and key_env not in os.environ:
        raise ConfigError(f"--upstream-key-env {key_env}: no such variable", hint="it holds the server's key")
    return Server(url, served_name, None if key_env is None else os.environ[key_env])


def _sibling(text: str) -> "Reference":
    from its_training.record.probes import Reference

    name, equals, folder = text.partition("=")
    if not equals or not name or not folder or name in ("this", "base"):
        raise ConfigError(f"--sibling {text}: a name and a folder are needed", hint="--sibling random=runs/random")
    return Reference(name, Path(folder))


def _refuse_beside_derive(given: dict[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise ConfigError(f"{name} does not go with --derive", hint="FROM's manifest says it already")


def _print(console: Console, recorded: "Recorded", folder: Path) -> None:
    from its_training.record.table import power_table

    console.print(power_table(recorded.power))
    console.print(recorded.power.verdict)
    for remark in recorded.remarks:
        console.print(f"note: {remark}")
    n_probes, pair = len(recorded.manifest.probes), recorded.manifest.pair_id[:8]
    console.print(f"wrote {folder / FILE_NAME}: pair {pair}, {n_probes} probes")
