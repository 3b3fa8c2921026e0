"""docs/training.md: what its first run leaves is served, shown and measured by the commands on the page.

The run itself takes minutes; the packaged checkpoints stand in for those that it trains.
"""

import os
import subprocess

from tests.command import ROOT
from tests.docs.blocks import Reader, blocks, commands

PORT = ["--port", "8080"]
SCRIPT = ROOT / "training/from_nothing.sh"
DEMO = ROOT / "its_proxy/demo"


async def test_what_the_first_run_leaves_is_served_shown_and_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from-nothing").mkdir()
    arms = ("similar", "dissimilar", "random")
    models = "".join(f"  {arm}: {{checkpoint: {DEMO}/demo-{arm}}}\n" for arm in arms)
    (tmp_path / "from-nothing/its.yaml").write_text(f"models:\n{models}")
    serve, models, evaluate = commands("training.md")
    assert serve[-2:] == PORT
    evaluate = [
        {"its_proxy/demo/problems.jsonl": f"{DEMO}/problems.jsonl", "100": "2"}.get(word, word) for word in evaluate
    ]
    reader = Reader()
    try:
        await reader.run(serve[:-2])
        shown = await reader.run(models)
        measured = await reader.run(evaluate)
    finally:
        await reader.leave()
    assert shown.out.count("verified") == len(arms)
    assert "maj@8" in measured.out
    assert len((tmp_path / "from-nothing/random.jsonl").read_text().splitlines()) == 2


def test_the_script_of_the_first_run_is_the_one_named_and_bash_reads_it():
    assert f"bash {SCRIPT.relative_to(ROOT)}" in blocks("training.md", "sh")[0]
    done = subprocess.run(["bash", "-n", os.fspath(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for made in ("from-nothing", "its.yaml", "set", *("similar", "dissimilar", "random")):
        assert made in SCRIPT.read_text("utf-8")
