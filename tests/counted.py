"""Counts what our own code does: a measure that is the same on a busy machine and on a quiet one.

A step is one line that our code runs, or one call that is made from there on, ours or a library's. Whoever calls from
outside, such as a test's client or its upstream, costs nothing here.
"""

import gc
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

OURS = str(Path(__file__).parent.parent / "its_proxy")
# From Python 3.12 on these are no functions any more, but part of those that they stand in.
_INLINED = ("<listcomp>", "<dictcomp>", "<setcomp>")
_OF_INLINED = re.compile(r"\.<locals>\.<(list|dict|set)comp>")


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Steps while the block runs, in this thread, by the function of ours that took them or called for them."""
    steps: Counter[str] = Counter()
    names: dict[CodeType, str] = {}

    def name_of(code: CodeType) -> str:
        """Empty for what is not ours."""
        if code not in names:
            is_ours = code.co_filename.startswith(OURS)
            function = _OF_INLINED.sub("", code.co_qualname)
            names[code] = f"{Path(code.co_filename).relative_to(OURS)}: {function}" if is_ours else ""
        return names[code]

    def on_call(frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "c_call") or frame.f_code.co_name in _INLINED:
            return
        caller: FrameType | None = frame
        while caller is not None and not (name := name_of(caller.f_code)):
            caller = caller.f_back
        if caller is not None:
            steps[name] += 1

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        if not (name := name_of(frame.f_code)):
            return None
        steps[name] += event == "line"
        return on_line

    before = sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()  # what it finalises would be counted
    sys.settrace(on_line)
    sys.setprofile(on_call)
    try:
        yield steps
    finally:
        sys.setprofile(before[1])
        sys.settrace(before[0])
        gc.enable()
