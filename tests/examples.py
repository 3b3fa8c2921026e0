"""How many examples hypothesis tries: few in `make test`, so many times more where ITS_EXAMPLES says so."""

import os

TIMES = int(os.environ.get("ITS_EXAMPLES", "1"))


def examples(n: int) -> int:
    return n * TIMES
