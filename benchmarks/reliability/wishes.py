"""What a query wants the upstream to do, written into the query itself, so that no script has to be agreed on.

    Wish(n_answering=5).written("How many are 3 + 4?")     # the candidates 0 to 4 answer, the others hold

Candidates are numbered by their seeds, counted from the request's own: send `seed: 0`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_MARK = re.compile(r"##(\{.*\})##", re.DOTALL)
EVERY = 2**64
"""More than there are seeds: a request that names none gets one at random."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`n_answering` candidates answer after `delay_s`, the others hold for ever. They say the `texts` in turn; streams
    say each `n_chunks` times, `chunk_delay_s` apart. `faults`: by a candidate's number, or `all`, what it suffers
    (tests/faults has the names)."""

    texts: tuple[str, ...] = ("So it is \\boxed{7}.",)
    n_answering: int = EVERY
    delay_s: float = 0.0
    n_chunks: int = 1
    chunk_delay_s: float = 0.0
    faults: Mapping[str, str] = field(default_factory=dict)

    def written(self, query: str) -> str:
        return f"{query} ##{json.dumps(asdict(self))}##"


def wish_of(body: Mapping[str, Any]) -> Wish:
    """What the last message that holds a wish wants; by default the candidate answers at once."""
    messages = body.get("messages")
    messages = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    for message in reversed(messages):
        if (found := _MARK.search(str(message.get("content")))) is not None:
            fields = json.loads(found[1])
            return Wish(**{**fields, "texts": tuple(fields["texts"])})
    return Wish()
