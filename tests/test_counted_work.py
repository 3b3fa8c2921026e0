"""No change makes a request much dearer unnoticed: what it takes is counted, and held to limits with a tenth of room.

Steps are counted, not time, so a busy machine says the same as a quiet one. Whoever makes a request cheaper writes the
limits anew, with `make guard-update`, so that nobody uses up what was won; whoever makes it dearer on purpose, too.
"""

import asyncio
from collections import Counter

from its_proxy.codesign.query import user_turns
from tests.counted import counting
from tests.guard import REQUESTS, ROOM, Limit, measured, read_limits


async def test_requests_take_no_more_steps_than_their_limits_allow_and_as_many_each_time():
    limits = read_limits()
    assert limits.keys() == REQUESTS.keys()
    once, again = await asyncio.gather(measured(), measured())
    for name, steps in once.items():
        assert abs(steps.total() - again[name].total()) <= 0.01 * steps.total(), name
        grown = "\n  ".join(limits[name].grown(steps))
        assert steps.total() <= limits[name].steps, (
            f"{name} takes {steps.total()} steps, the limit is {limits[name].steps}. Most grown:\n  {grown}\n"
            "If that is right, `make guard-update` writes the limits anew."
        )


def test_one_more_function_called_for_each_candidate_would_be_found_and_named():
    limit = Limit(round(ROOM * 1000), {"reply.py: report": 900, "route.py: Route.stream": 100})
    steps = Counter({"reply.py: report": 902, "route.py: Route.stream": 100, "plan.py: make_plan": 300, "a.py: b": 9})
    assert steps.total() > limit.steps
    assert limit.grown(steps) == ["plan.py: make_plan: 300, was at most 100", "reply.py: report: 902, was 900"]


def test_lines_of_ours_and_the_calls_they_make_are_steps_and_a_callers_are_none():
    asked = [{"role": "user", "content": [{"type": "text", "text": text}]} for text in ("How many?", "And now?")]
    user_turns(asked)  # the first time it is also found out, and remembered, that a dict is a Mapping
    with counting() as steps:
        sorted([3, 1, 2], key=lambda number: -number)
        turns = user_turns(asked[:1])
    with counting() as more:
        user_turns(asked)
    assert len(turns) == 1
    assert {name.partition(": ")[0] for name in steps} == {"codesign/query.py"}
    assert steps["codesign/query.py: _is_text"] >= 3  # it is called, runs a line, and asks what the part is
    assert more["codesign/query.py: _is_text"] == 2 * steps["codesign/query.py: _is_text"]
