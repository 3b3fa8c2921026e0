"""`its-proxy evaluate | replay | gate`, run as a person or a CI job would."""

import json
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from its_proxy.candidates import Row, read_candidates
from its_proxy.cli import main
from tests.command import command, ended, start
from tests.rows import random_rows, row
from tests.scripted import Say
from tests.serving import manifest, serving_script, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint", manifest("random"))


def items_file(path: Path, n: int = 4) -> Path:
    rows = [{"id": str(k), "query": f"What is {k} + 5?", "answer": str(k + 5)} for k in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def candidates_file(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


class TestEvaluate:
    async def test_it_asks_every_item_reports_and_keeps_the_conditions(self, checkpoint, tmp_path):
        items, out, run_file = items_file(tmp_path / "items.jsonl"), tmp_path / "out.jsonl", tmp_path / "run.json"
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, upstream):
            arguments = ("--model", "model", "--n", 3, "--limit", 3, "--url", server.url, "--seed", 4)
            done = await command("evaluate", items, "--out", out, *arguments, "--json", run_file)
            n_asked = len(upstream.bodies)
            again = await command("evaluate", items, "--out", out, *arguments, "--metrics", "maj@3")
            assert len(upstream.bodies) == n_asked == 3 * (3 + 1)
            pair_id = server.context.catalog.served["model"].checkpoint.pair_id
        assert done.code == 0, done.err
        assert "| maj@3 | 33.3 [6.1, 79.2] | 3 items |" in done.out
        assert "note: only the first 3 of 4 items" in done.err
        assert "maj@3" in again.out
        assert "greedy" not in again.out
        document = json.loads(run_file.read_text())
        assert document["measurement"]["pair_ids"] == [pair_id]
        assert document["measurement"]["seed"] == document["asked"]["seed"] == 4
        assert document["items"]["layout"] == "items"
        assert document["versions"].keys() == {"its-proxy", "python"}
        assert all(candidate.finished_s > 0 for row in read_candidates(out) for candidate in row.candidates)

    async def test_unlabelled_items_are_measured_for_agreement(self, checkpoint, tmp_path):
        items = tmp_path / "items.jsonl"
        items.write_text('{"query": "What is 2 + 5?"}\n')
        async with serving_script(Say("\\boxed{7}"), checkpoint) as (server, _):
            arguments = ("--model", "model", "--n", 3, "--url", server.url)
            done = await command("evaluate", items, "--out", tmp_path / "out.jsonl", *arguments)
        assert done.code == 0, done.err
        assert "| agreement | 100.0 [100.0, 100.0] | 1 items |" in done.out
        assert "maj@" not in done.out.partition("\n\n")[0]

    async def test_choices_are_asked_for_as_letters(self, checkpoint, tmp_path):
        choices = {
            "Correct Answer": "7",
            "Incorrect Answer 1": "6",
            "Incorrect Answer 2": "5",
            "Incorrect Answer 3": "4",
        }
        items = tmp_path / "gpqa.jsonl"
        items.write_text(json.dumps({"Record ID": "r", "Question": "2 + 5?", **choices}) + "\n")
        async with serving_script(lambda body, number: Say(f"The answer is ({letter_of(body)})."), checkpoint) as (
            server,
            _,
        ):
            arguments = ("--model", "model", "--n", 3, "--url", server.url, "--out", tmp_path / "out.jsonl")
            done = await command("evaluate", items, *arguments)
        assert done.code == 0, done.err
        assert "GPQA diamond: 1 items" in done.err
        assert "| maj@3 | 100.0 " in done.out

    async def test_interrupted_it_says_so_and_the_next_run_goes_on(self, checkpoint, tmp_path):
        items, out = items_file(tmp_path / "items.jsonl"), tmp_path / "out.jsonl"

        def script(body, number):
            return Say("\\boxed{7}", delay_s=30 if "What is 2 " in body["messages"][-1]["content"] and stuck else 0)

        stuck = True
        async with serving_script(script, checkpoint) as (server, upstream):
            arguments = ("evaluate", items, "--out", out, "--model", "model", "--n", 2, "--url", server.url)
            process = await start(*arguments, "--concurrency", 1)
            await upstream.until(lambda: len(upstream.bodies) > 2 * 3, timeout_s=30)
            process.send_signal(signal.SIGINT)
            interrupted = await ended(process)
            stuck = False
            assert (interrupted.code, interrupted.err.splitlines()[-1][:11]) == (130, "interrupted")
            assert len(read_candidates(out)) == 2
            assert (await command(*arguments)).code == 0
        assert len(read_candidates(out)) == 4

    @pytest.mark.parametrize(
        ("options", "content", "words"),
        [
            ((), None, "items.jsonl: No such file"),
            ((), "", "items.jsonl holds no items"),
            (("--layout", "gsm8k"), '{"query": "?"}\n', "not in the layout gsm8k: its fields are query"),
            ((), '{"query": "?", "gold": NaN}\n', "items.jsonl:1: NaN is not JSON"),
            (("--metrics", "best@3"), '{"query": "?"}\n', "no metric 'best@3'"),
            ((), '{"query": "?"}\n', "127.0.0.1:9"),
        ],
    )
    def test_what_cannot_be_asked_is_one_line(self, tmp_path, options, content, words):
        items = tmp_path / "items.jsonl"
        if content is not None:
            items.write_text(content)
        arguments = ("--model", "m", "--url", "http://127.0.0.1:9/v1", "--out", tmp_path / "out.jsonl")
        done = run("evaluate", items, *arguments, *options)
        assert (done.exit_code, done.stdout) == (1, "")
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def letter_of(body) -> str:
    query = body["messages"][-1]["content"]
    return query[query.index(") 7") - 1]


class TestReplay:
    def test_the_table_and_its_mark(self, tmp_path):
        done = run("replay", candidates_file(tmp_path / "a.jsonl", random_rows(60, 8)), "--n", "1,4,8", "--order", 3)
        assert done.exit_code == 0
        lines = done.stdout.splitlines()
        assert lines[0].startswith("| n | stop | accuracy | same answer as all | tokens an item |")
        assert len([line for line in lines if line.startswith(("| 1 ", "| 4 ", "| 8 "))]) == 9
        assert done.stdout.count("smallest n that is good enough") == 1
        assert "60 items of tiny, 8 candidates each, arriving seed 3" in lines[-1]

    def test_by_default_powers_of_two_and_all(self, tmp_path):
        done = run("replay", candidates_file(tmp_path / "a.jsonl", random_rows(5, 6)), "--stop", "none")
        assert [line[:4] for line in done.stdout.splitlines()[2:6]] == ["| 1 ", "| 2 ", "| 4 ", "| 6 "]
        assert "shortest first" in done.stdout

    def test_a_picture(self, tmp_path):
        pytest.importorskip("matplotlib")
        picture = tmp_path / "a.svg"
        done = run("replay", candidates_file(tmp_path / "a.jsonl", random_rows(9, 2)), "--picture", picture)
        assert done.exit_code == 0
        assert "generated tokens an item" in picture.read_text()

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (("--n", "16"), 1, "--n 16: the items hold 2 candidates"),
            (("--n", "two"), 2, "numbers with commas"),
            (("--stop", "soon"), 1, "unknown stop rule 'soon'"),
            (("--order", "arrival"), 1, "it is not known when it finished"),
            (("--order", "best"), 1, "--order best"),
        ],
    )
    def test_what_cannot_be_replayed_is_one_line(self, tmp_path, options, code, words):
        done = run("replay", candidates_file(tmp_path / "a.jsonl", random_rows(3, 2)), *options)
        assert done.exit_code == code
        assert words in done.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        ("content", "words"), [(None, "No such file"), ("", "holds no rows"), ("{}\n", "a.jsonl:1: ")]
    )
    def test_a_file_that_holds_no_candidates_is_one_line(self, tmp_path, content, words):
        if content is not None:
            (tmp_path / "a.jsonl").write_text(content)
        done = run("replay", tmp_path / "a.jsonl")
        assert done.exit_code == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


class TestGate:
    def gate(self, folder: Path, n_new: int, n_old: int, *options: object, n: int = 400) -> Result:
        files = [
            candidates_file(
                folder / name, [row(f"{k}", "1" if k < right else "2", asked={"seed": seed}) for k in range(n)]
            )
            for name, right, seed in (("new.jsonl", n_new, 1), ("old.jsonl", n_old, 2))
        ]
        return run("gate", files[0], "--against", files[1], "--metric", "maj@1", "--margin", 2, *options)

    @pytest.mark.parametrize(
        ("n_new", "code", "word"), [(300, 1, "FAIL"), (360, 0, "PASS"), (340, 3, "UNDECIDED"), (350, 0, "PASS")]
    )
    def test_the_exit_code_is_the_verdict(self, tmp_path, n_new, code, word):
        done = self.gate(tmp_path, n_new, 345)
        assert done.exit_code == code
        assert done.stdout.startswith(word)
        assert ("needed for a decision" in done.stdout) == (code == 3)

    def test_it_writes_what_ci_systems_read(self, tmp_path):
        junit, markdown = tmp_path / "gate.xml", tmp_path / "gate.md"
        assert self.gate(tmp_path, 300, 345, "--junit", junit, "--markdown", markdown).exit_code == 1
        assert ElementTree.parse(junit).getroot().get("failures") == "1"
        assert markdown.read_text().startswith("## Gate: fail")

    def test_what_cannot_be_compared_is_neither_pass_nor_fail(self, tmp_path):
        new, old = (candidates_file(tmp_path / name, [row(item, "1")]) for name, item in (("new", "a"), ("old", "b")))
        done = run("gate", new, "--against", old, "--metric", "maj@1", "--margin", 2)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "the same items are needed: NEW holds 1, --against 1, 0 in both" in done.stderr

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--metric", "maj@8", "--margin", 2), "has 1 candidates"),
            (("--metric", "best", "--margin", 2), "no metric 'best'"),
            (("--metric", "maj@1", "--margin", 0), "--margin"),
            (("--metric", "maj@1", "--margin", "nan"), "--margin"),
            (("--metric", "maj@1"), "--margin"),
        ],
    )
    def test_options_that_cannot_be_used_exit_2(self, tmp_path, options, words):
        new, old = (
            candidates_file(tmp_path / name, [row("a", answer)]) for name, answer in (("new", "1"), ("old", "2"))
        )
        done = run("gate", new, "--against", old, *options)
        assert done.exit_code == 2
        assert words in done.stderr

    def test_a_run_is_not_compared_with_itself(self, tmp_path):
        file = candidates_file(tmp_path / "a.jsonl", [row("a", "1")])
        done = run("gate", file, "--against", file, "--metric", "maj@1", "--margin", 2)
        assert done.exit_code == 2
        assert "are the same run" in done.stderr

    def test_a_missing_and_a_cut_file(self, tmp_path):
        whole = candidates_file(tmp_path / "old.jsonl", random_rows(3, 2))
        cut = tmp_path / "new.jsonl"
        cut.write_bytes(whole.read_bytes()[:-40])
        for new, words in ((tmp_path / "absent", "No such file"), (cut, "NEW holds 2, --against 3, 2 in both")):
            done = run("gate", new, "--against", whole, "--metric", "maj@2", "--margin", 2)
            assert done.exit_code == 2
            assert words in done.stderr

    def test_a_report_that_cannot_be_written_is_no_verdict(self, tmp_path):
        done = self.gate(tmp_path, 360, 345, "--junit", tmp_path / "absent" / "gate.xml")
        assert done.exit_code == 2
        assert "No such file" in done.stderr


def test_every_command_explains_itself():
    for name in ("evaluate", "replay", "gate"):
        done = run(name, "--help")
        assert done.exit_code == 0
        assert "Usage: " in done.stdout
