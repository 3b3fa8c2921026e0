"""Reads what vLLM writes: how far its start has come, and in the end why it ended.

(Worker pid=7) ERROR 11-21 09:44:01 [multiproc_executor.py:1063] ValueError: Available memory on node 0 ...
Loading safetensors checkpoint shards:  45% Completed | 5/11 [00:21<00:25,  4.2s/it]
"""

import re
from collections.abc import Iterable, Sequence

MAX_CAUSE, N_LAST_LINES = 400, 15

_WHO = re.compile(r"^\((?:[A-Z]\w*)[^()]* pid=\d+\) ")
_WHEN = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")
# A progress bar of tqdm, whatever it counts; no paths, as clients are told the stage.
_BAR = re.compile(r"^(?P<what>[^|%/]{1,80}?):? +\d+%(?: Completed)? ?\|.*? (?P<count>\d+/\d+) \[")
_STAGES = (
    (re.compile(r"Available routes are|Started server process|Starting vLLM (API )?server"), "opening its port"),
    (re.compile(r"Capturing CUDA graphs|Graph capturing"), "capturing graphs"),
    (re.compile(r"init engine|KV cache size|Memory profiling"), "preparing the KV cache"),
    (re.compile(r"Dynamo bytecode transform|Compiling a graph|torch\.compile takes"), "compiling"),
    (re.compile(r"Loading weights took|Model loading took"), "preparing the model"),
    (re.compile(r"Starting to load model|Loading weights"), "loading weights"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine core"),
    (re.compile(r"Resolved architecture"), "reading the configuration"),
)
_USAGE = re.compile(r"^[\w./-]+(?: \w+)?: error: (?P<words>.+)")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<words>[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b(?::.*)?)$")
_DIED = re.compile(r"^(?P<words>.*\bdied unexpectedly\b.*)$")
_COUNTED = re.compile(r"^\w+: \d+ validation errors? for \w+$")  # pydantic says what is wrong on the next line
_NOISE = re.compile(r"^\s*$|^Traceback \(most recent|^\s+File \"|^\s+[\^~]+\s*$|resource_tracker|^\s*warnings\.warn")
_CALM = re.compile(r"^(\([^()]* pid=\d+\) )?(DEBUG|INFO|WARNING)\b")


def stage_of(line: str) -> str | None:
    """What vLLM is doing by this line of its log, in few words; None where the line does not tell."""
    line = plain(line)
    if (bar := _BAR.match(line)) is not None:
        return f"{bar['what'][:1].lower()}{bar['what'][1:].strip()} {bar['count']}"
    return next((stage for pattern, stage in _STAGES if pattern.search(line)), None)


def plain(line: str) -> str:
    """The line's own words, without process, level, date and place."""
    return _WHEN.sub("", _WHO.sub("", line))


def cause_of(lines: Sequence[str]) -> str:
    """Why it ended, in one line: the first error of the last burst, as all that follow come of it."""
    words = [plain(line).rstrip() for line in lines]
    for place, line in enumerate(words):
        found = _USAGE.match(line) or _EXCEPTION.match(line) or _DIED.match(line)
        if found is None:
            continue
        cause = found["words"]
        if _COUNTED.match(cause) and place + 1 < len(words):
            cause = f"{cause}: {words[place + 1].strip()}"
        cause = cause.partition(" [type=")[0]
        return cause if len(cause) <= MAX_CAUSE else cause[: MAX_CAUSE - 1] + "…"
    return next((plain(line).strip()[:MAX_CAUSE] for line in reversed(last_lines(lines))), "")


def last_lines(lines: Iterable[str]) -> list[str]:
    """The last few that tell something of an end: no progress, no frames of tracebacks, nothing twice."""
    told: dict[str, str] = {}
    is_frame = False
    for line in lines:
        words = plain(line)
        was_frame, is_frame = is_frame, words.lstrip().startswith('File "')
        is_code = was_frame and words.startswith("    ")
        if not (is_code or _NOISE.search(words) or _CALM.match(line) or _BAR.match(words)):
            told.setdefault(words, line)
    return list(told.values())[-N_LAST_LINES:]
