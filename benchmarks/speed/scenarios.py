"""What is asked: a body, how many ask at a time, and how the upstream behaves."""

import json
from dataclasses import dataclass, field
from typing import Any

QUESTION = "A baker has 3 loaves and bakes 4 more. How many loaves are there now?"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`fields` go over the common body; `its` counts for its-proxy alone. `upstream`: delay in ms, events, ms between
    two events. `only`: the targets that do it at all."""

    name: str
    says: str
    connections: int
    fields: dict[str, Any] = field(default_factory=dict)
    its: dict[str, Any] | None = None
    model: str = "model"
    prompt: str = QUESTION
    upstream: tuple[float, int, float] = (0, 17, 0)
    only: tuple[str, ...] | None = None

    def request(self, target: str, port: int) -> bytes:
        """The whole HTTP request."""
        is_ours = target == "its-proxy"
        model = self.model if is_ours else "model"
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": self.prompt}], **self.fields}
        if is_ours and self.its is not None:
            body["its"] = self.its
        data = json.dumps(body, separators=(",", ":")).encode()
        lines = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n")  # fmt: skip
        return lines.encode() + data


OFF, VOTE = {"vote": "off"}, {"n": 8, "vote": "always", "stop": "none"}
STREAM = {"stream": True}
LARGE = QUESTION + " It is a long story." * 50_000
SCENARIOS = (
    *(Scenario(f"passed-{c}", "JSON, passed through", c, model="passed") for c in (1, 16, 64, 256)),
    *(Scenario(f"json-{c}", "JSON, rewritten", c, its=OFF) for c in (1, 16, 64, 256, 512)),
    Scenario("slow-64", "JSON, rewritten, the model takes 50 ms", 64, its=OFF, upstream=(50, 17, 0)),
    Scenario("sse-64", "a stream of 17 events, passed through", 64, fields=STREAM, model="passed"),
    Scenario("sse-rewritten-64", "a stream of 17 events, rewritten", 64, fields=STREAM, its=OFF),
    Scenario("paced-2000", "2,000 streams at a time, an event every 20 ms", 2000, fields=STREAM, model="passed",
             upstream=(0, 50, 20)),
    Scenario("vote-16", "a vote of 8, every candidate heard", 16, its=VOTE, only=("its-proxy",)),
    Scenario("vote-1", "a vote of 8, every candidate heard", 1, its=VOTE, only=("its-proxy",)),
    Scenario("vote-stream-16", "the same as a stream", 16, its=VOTE, fields=STREAM, only=("its-proxy",)),
    Scenario("large-4", "a prompt of 1 MB, rewritten", 4, its=OFF, prompt=LARGE),
)  # fmt: skip
