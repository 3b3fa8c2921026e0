"""The loop of every program here: an ask a line on stdin, what came of it a line on stdout, both as JSON objects.

An ask is {"kind", "url", "key", "model", "query"}; a program is a function for each kind that it knows.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

Ask = dict[str, Any]
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def loop(kinds: dict[str, Callable[[Ask], dict[str, Any]]]) -> None:
    told, sys.stdout = sys.stdout, sys.stderr  # libraries that print do not get between the lines
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer = kinds[ask["kind"]](ask)
        except Exception as error:
            answer = {"raised": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=told, flush=True)
