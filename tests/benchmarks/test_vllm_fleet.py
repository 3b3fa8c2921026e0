"""The fleet benchmark's own judgement: it would notice a foreign prompt, a lost query, a leak and growth."""

import asyncio
import os
import socket

import pytest

from benchmarks.plot import draw
from benchmarks.process import held_by
from benchmarks.vllm_fleet.clients import Load, Reply
from benchmarks.vllm_fleet.fleet import BOTH, NEW, OLD, Loss, judge
from benchmarks.vllm_fleet.many import MIB, slope
from benchmarks.vllm_fleet.part import Part, read_part
from benchmarks.vllm_fleet.prompts import read_prompts, rewritten, telling
from benchmarks.vllm_fleet.servers import Place, Start, pair_id

QUERIES = [f"A cook has {number} onions and buys 3 more. How many onions are there now?" for number in range(2, 12)]


def logged(number, text, candidate=0):
    """What vLLM writes of one candidate."""
    prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    request = f"chatcmpl-fleet-{number}-{candidate}"
    return f"2026 DEBUG Request {request} details: prompt: {prompt!r}, prompt_token_ids: [1, 2], x: None.\n"


def place(folder, name, checkpoint, *lines):
    log = folder / f"{name}.log"
    log.write_text("".join(lines))
    made = Place(name, 1, folder, print)
    made.starts.append(Start(name, checkpoint, log))
    return made


def answered(number, target, checkpoint=OLD, began_s=0.0, ended_s=1.0):
    return Reply(number, began_s, ended_s, 200, pair_id=pair_id(checkpoint), target=target, n=8)


def failed(number, began_s, ended_s, status=502, message="upstream s2 broke the connection"):
    return Reply(number, began_s, ended_s, status, message)


def judged(folder, replies, places, losses=()):
    part = Part("roll-over", folder)
    judge(part, Load("", "demo", QUERIES, 0.0, replies=replies), {place.name: place for place in places}, losses)
    return [held for held, *_ in part.checks], part


def test_prompts_are_told_apart_by_the_checkpoint_that_they_were_rewritten_for(tmp_path):
    own, other = rewritten(OLD, QUERIES[0]), rewritten(NEW, QUERIES[0])
    made = place(tmp_path, "s1", OLD, logged(0, own), logged(0, other, 1), logged(0, QUERIES[0], 2), "noise\n")
    prompts = read_prompts(made.starts, QUERIES, BOTH)
    assert prompts.by_kind == {"own": 1, "other": 1, "unknown": 1}
    assert prompts.at("s1", OLD) == {0}


def test_only_queries_that_tell_checkpoints_apart_are_asked():
    assert telling(QUERIES, (OLD, NEW)) == QUERIES
    assert telling(QUERIES, (OLD, OLD)) == []


def test_a_whole_roll_over_holds(tmp_path):
    one = place(tmp_path, "s1", OLD, *(logged(k, rewritten(OLD, QUERIES[k])) for k in range(3)))
    held, _ = judged(tmp_path, [answered(k, "s1") for k in range(3)], [one])
    assert held == [True, True, True]


@pytest.mark.parametrize(
    ("line", "reply", "expected"),
    [
        (logged(1, rewritten(NEW, QUERIES[1])), answered(1, "s1"), [False, True, True]),
        (logged(2, rewritten(OLD, QUERIES[2])), answered(1, "s1"), [True, False, True]),
        (logged(1, rewritten(OLD, QUERIES[1])), answered(1, "s1", NEW), [True, False, True]),
        (logged(1, rewritten(OLD, QUERIES[1])), failed(1, 0.0, 1.0), [True, True, False]),
    ],
    ids=["foreign prompt", "another query's prompt", "another pair", "lost"],
)
def test_what_must_not_happen_is_noticed(tmp_path, line, reply, expected):
    one = place(tmp_path, "s1", OLD, logged(0, rewritten(OLD, QUERIES[0])), line)
    held, _ = judged(tmp_path, [answered(0, "s1"), reply], [one])
    assert held == expected


@pytest.mark.parametrize(
    ("reply", "is_excused"),
    [
        (failed(1, 4.0, 5.5), True),
        (failed(1, 4.0, 5.5, status=503), False),
        (failed(1, 1.0, 4.0), False),
        (failed(1, 5.2, 6.0), False),
        (failed(1, 4.0, 5.5, message="upstream s1 broke the connection"), False),
    ],
    ids=["in flight", "wrong status", "before", "after", "elsewhere"],
)
def test_only_what_was_in_flight_on_a_lost_server_may_fail(tmp_path, reply, is_excused):
    one = place(tmp_path, "s1", OLD, logged(0, rewritten(OLD, QUERIES[0])))
    two = place(tmp_path, "s2", OLD)
    held, part = judged(tmp_path, [answered(0, "s1"), reply], [one, two], [Loss("s2", "killed", 5.0, 5.1)])
    assert held == [True, True, is_excused]
    if is_excused:
        assert part.rows[0]["failed"] == "1 with 502"


def test_growth_is_found_with_its_interval():
    flat = [(float(second), 80 * MIB) for second in range(30, 120)]
    growing = [(at, int(80 * MIB + at / 60 * 2 * MIB)) for at, _ in flat]
    assert slope(flat) == (0.0, 0.0, 0.0)
    assert slope(growing).value == pytest.approx(2.0, abs=0.01)
    assert slope(growing).low > 1.9


async def test_an_open_connection_is_seen():
    before = held_by(os.getpid())
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()):
            during = held_by(os.getpid())
    assert during.connections > before.connections
    assert during.descriptors > before.descriptors
    assert during.rss_bytes > 0


def test_a_part_is_kept_and_read_again(tmp_path):
    part = Part("lose", tmp_path, "conditions")
    part.event("something")
    part.check(False, "asked", "found")
    assert read_part(tmp_path) is None
    part.keep()
    kept = read_part(tmp_path)
    assert (kept.name, kept.holds, [list(check) for check in kept.checks]) == (
        "lose",
        False,
        [[False, "asked", "found"]],
    )


def test_the_picture_begins_at_zero_and_names_its_lines():
    picture = draw("t", "x", "y", {"a < b": [(0.0, 60.0), (120.0, 80.0)]}, 30.0)
    assert "a &lt; b" in picture
    assert ">0<" in picture
    assert ">100<" in picture
