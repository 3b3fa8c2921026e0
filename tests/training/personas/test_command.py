"""`its-train personas` as a person runs it: what it prints, how it goes on, and how it refuses."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from click.testing import CliRunner, Result

from its_training.cli import main
from its_training.personas.ledger import open_ledger
from tests.training.personas.crooked_writer import crooked_writer
from tests.training.personas.small_work import answers, queries, write_file

CHECKOUT = Path(__file__).resolve().parents[3]


def its_train(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


async def start(*arguments: object, first: str = "") -> asyncio.subprocess.Process:
    """The command as a process of its own, so that it can be killed; `first` is Python that it runs before."""
    code = f"{first}; from its_training.cli import main; main()".removeprefix("; ")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "personas", *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def run(*arguments: object, first: str = "") -> tuple[int | None, str]:
    process = await start(*arguments, first=first)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return process.returncode, out.decode()


def n_rows(work: Path) -> int:
    if not (work / "calls.sqlite").exists():
        return 0
    with open_ledger(work) as ledger:
        return ledger.totals().n_calls


async def test_killed_at_any_moment_it_loses_at_most_the_calls_in_flight(tmp_path: Path) -> None:
    some, work, random = queries(50), tmp_path / "work", Random(1)
    file = write_file(tmp_path / "queries.jsonl", some)
    async with crooked_writer(1, answers(some), delay_s=0.01) as server:
        arguments = ("write", "--queries", file, "--strategy", "similar", "--strategy", "random", "--endpoint",
                     server.url, "--model", "writer", "--concurrency", 4, "--asks", 8, "--out", work)  # fmt: skip
        for _ in range(3):
            finished_before, rows_before = server.n_finished, n_rows(work)
            process = await start(*arguments)
            goal = server.n_requests + random.randrange(10, 60)
            async with asyncio.timeout(60):
                while server.n_requests < goal and process.returncode is None:
                    await asyncio.sleep(0.001)
            process.kill()
            await process.communicate()
            n_lost = server.n_finished - finished_before - (n_rows(work) - rows_before)
            assert process.returncode == -signal.SIGKILL
            assert 0 <= n_lost <= 4
            assert n_rows(work) > rows_before
        code, out = await run(*arguments)
        assert code == 0, out
        n_requests = server.n_requests
        code, out = await run(*arguments)
        assert (code, server.n_requests) == (0, n_requests)
        assert "100 tasks, 0 calls now" in out
    with open_ledger(work) as ledger:
        assert len(list(ledger.accepted())) + len(list(ledger.unwritten())) == 100


async def test_an_interrupted_run_says_one_line_and_goes_on(tmp_path: Path) -> None:
    some, work = queries(60), tmp_path / "work"
    file = write_file(tmp_path / "queries.jsonl", some)
    async with crooked_writer(1, answers(some), delay_s=0.05) as server:
        arguments = ("write", "--queries", file, "--endpoint", server.url, "--model", "writer", "--out", work)
        process = await start(*arguments, "--concurrency", 2)
        async with asyncio.timeout(60):
            while server.n_finished < 10:
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        assert process.returncode == 130
        assert "stopped; what is finished is kept" in out.decode()
        assert "Traceback" not in out.decode()
        code, said = await run(*arguments)
        assert code == 0, said
        assert "60 tasks" in said


async def test_written_frozen_and_reported_in_three_commands(tmp_path: Path) -> None:
    work, pool = tmp_path / "work", tmp_path / "pool"
    async with crooked_writer(1, honest_share=0.8) as server:
        code, out = await run("write", "--per-domain", 2, "--endpoint", server.url, "--model", "writer", "--out", work,
                              "--asks", 10, "--price-in", 0.5, "--price-out", 2)  # fmt: skip
    assert code == 0, out
    match = re.search(r"(\d+) prompt tokens, (\d+) completion tokens\n  cost: ([\d.]+)", out)
    assert match is not None
    assert float(match[3]) == round((int(match[1]) * 0.5 + int(match[2]) * 2) / 1e6, 4)
    assert "model as reported: writer-0501" in out
    assert "system_fingerprint: fp_crooked" in out
    frozen = await asyncio.to_thread(its_train, "personas", "freeze", work, "--out", pool)
    assert frozen.exit_code == 0, frozen.output
    assert "personas, sha256" in frozen.output
    file = write_file(tmp_path / "queries.jsonl", queries(30))
    report = await asyncio.to_thread(its_train, "personas", "report", pool, "--dataset", file)
    assert report.exit_code == 0, report.output
    assert "similar > random: holds" in report.output
    assert "# Quality of personas" in (pool / "persona-quality.md").read_text()
    assert (pool / "persona-quality.png").stat().st_size > 10_000


async def test_queries_without_a_persona_are_listed(tmp_path: Path) -> None:
    file = write_file(tmp_path / "queries.jsonl", queries(5))
    async with crooked_writer(1, honest_share=0.0) as server:
        code, out = await run("write", "--queries", file, "--endpoint", server.url, "--model", "writer",
                              "--asks", 2, "--out", tmp_path / "work")  # fmt: skip
    assert code == 0, out
    rows = [json.loads(line) for line in (tmp_path / "work/unwritten.jsonl").read_text().splitlines()]
    assert f"{len(rows)} without a persona, listed in" in out
    assert len(rows) >= 4
    assert {"id", "strategy", "domain", "reason"} == set(rows[0])


async def test_a_query_that_always_breaks_is_told_and_ends_no_run(tmp_path: Path) -> None:
    some = queries(6)
    async with crooked_writer(1, honest_share=1.0, breaks_on=some[2].text) as server:
        arguments = ("write", "--queries", write_file(tmp_path / "queries.jsonl", some), "--endpoint", server.url,
                     "--model", "writer", "--out", tmp_path / "work")  # fmt: skip
        code, out = await run(*arguments)
    assert code == 1
    assert "5 personas accepted" in out
    assert "Error: 1 tasks got no reply at all (the same command tries them again)" in out


async def test_a_full_disk_is_one_line_and_the_run_goes_on_when_it_is_not(tmp_path: Path) -> None:
    file, full = write_file(tmp_path / "queries.jsonl", queries(60)), "(60_000, 60_000)"
    async with crooked_writer(1, honest_share=1.0) as server:
        arguments = ("write", "--queries", file, "--endpoint", server.url, "--model", "writer", "--out",
                     tmp_path / "work")  # fmt: skip
        # No file may grow beyond that, which SQLite sees as it sees a full disk.
        code, out = await run(*arguments, first=f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, {full})")
        assert code == 1
        assert "is the disk full" in out
        assert "Traceback" not in out
        code, out = await run(*arguments)
    assert code == 0
    assert "60 personas accepted" in out


def refused(*arguments: object) -> str:
    result = its_train("personas", *arguments)
    assert result.exit_code == 1, result.output
    assert result.output.count("\n") == 1, result.output
    return result.output


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "work"
    end = ("--endpoint", "http://127.0.0.1:1/v1", "--model", "writer", "--out", out)
    bad = tmp_path / "bad.jsonl"
    assert "one of --dataset, --queries and --per-domain" in refused("write", *end)
    assert "one of --dataset" in refused("write", "--queries", bad, "--per-domain", 1, *end)
    assert "No such file" in refused("write", "--queries", bad, *end)
    bad.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    assert "line 1 has no query; its fields: question, answer" in refused("write", "--queries", bad, *end)
    bad.write_text('{"query": "2 + 2?"}\n{"query"')
    assert "line 2: not JSON" in refused("write", "--queries", bad, *end)
    bad.write_text('{"query": "2 + \\ud83d?"}\n')
    assert "lone surrogate" in refused("write", "--queries", bad, *end)
    bad.write_text("\n")
    assert "holds no queries" in refused("write", "--queries", bad, *end)
    assert "dataset.json: No such file" in refused("write", "--dataset", tmp_path, *end)
    assert "does not go with --per-domain" in refused("write", "--per-domain", 1, "--strategy", "random", *end)
    assert "NO_SUCH_KEY is not set" in refused("write", "--per-domain", 1, "--key-env", "NO_SUCH_KEY", *end)
    assert not out.exists()


def test_folders_that_hold_nothing_of_ours_are_one_line(tmp_path: Path) -> None:
    assert "holds no calls.sqlite" in refused("freeze", tmp_path, "--out", tmp_path / "pool")
    assert "holds none of dataset.json" in refused("report", tmp_path)
    (tmp_path / "calls.sqlite").write_text("not a data base at all, but long enough to be read as one" * 20)
    assert "file is not a database" in refused("freeze", tmp_path, "--out", tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_help_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys\nfrom its_training.cli import main\ntry: main(['personas', 'write', '--help'])\n"
    code += "except SystemExit: assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
