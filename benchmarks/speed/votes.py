"""Looks at every target's answers before any is timed: a vote that asks once, or picks the first reply, would be cheap.

The upstream answers 3 7 3 7 7 3 7 7: the majority is 7, the first reply is not. Streams must be whole, and a rewritten
query must reach the upstream with its persona.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.speed.bench import Bench, Running, ask
from benchmarks.speed.scenarios import QUESTION
from benchmarks.speed.upstream import RIGHT_ANSWER, SEQUENCE, Behaviour, Upstream

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FIELDS = {"messages": [{"role": "user", "content": QUESTION}]}


@dataclass(frozen=True, slots=True)
class Looked:
    """What one request of a kind led to; `wrong`: why it may not be timed, empty where all is well."""

    calls: int
    answer: str
    wrong: str


async def look(bench: Bench) -> dict[str, dict[str, Looked]]:
    """target -> kind -> what was seen."""
    return {running.target.name: await _look_at(bench.upstream, running) for running in bench.running}


async def _look_at(upstream: Upstream, running: Running) -> dict[str, Looked]:
    looked = {}
    for kind in running.target.asks:
        await upstream.behave(Behaviour(mode=SEQUENCE))
        status, body = await ask(running.process.port, running.request(kind, _FIELDS))
        calls, sent = (await upstream.counters()).requests, await upstream.last()
        answer = _answer_of(body) if status == 200 else f"status {status}"
        is_vote = kind == "vote"
        wanted, n_calls = (RIGHT_ANSWER, running.target.vote_calls) if is_vote else ("3", 1)
        wrong = "" if answer == wanted else f"answers {answer}, not {wanted}"
        wrong = wrong or ("" if calls == n_calls else f"makes {calls} upstream calls, not {n_calls}")
        if running.target.name == "its-proxy" and not wrong:
            wrong = _wrong_rewrite(sent, is_expected=kind != "passed")
        looked[kind] = Looked(calls, answer, wrong)
    await upstream.behave(Behaviour())
    status, body = await ask(running.process.port, running.request("passed", {**_FIELDS, "stream": True}))
    is_whole = status == 200 and body.rstrip().endswith(b"[DONE]")
    looked["stream"] = Looked(1, f"{body.count(b'data: ')} events", "" if is_whole else f"no whole stream, {status}")
    return looked


def _answer_of(body: bytes) -> str:
    content = json.loads(body)["choices"][0]["message"]["content"] or ""
    return (_BOXED.findall(content) or ["nothing"])[-1]


def _wrong_rewrite(sent: Mapping[str, object], is_expected: bool) -> str:
    prompt = json.dumps(sent["messages"])
    if QUESTION not in prompt:
        return "the question's own words have not arrived"
    is_rewritten = len(prompt) > len(json.dumps(_FIELDS["messages"])) + 10
    return "" if is_rewritten == is_expected else f"rewritten: {is_rewritten}, expected: {is_expected}"
