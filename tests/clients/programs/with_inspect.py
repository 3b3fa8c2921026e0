"""inspect-ai, by its `eval`: what the one sample of a task came to."""

import os
import sys
from pathlib import Path

from asked import Ask, loop
from inspect_ai import eval as evaluate

sys.path.insert(0, str(Path(__file__).parent.parent / "tasks"))
from inspect_sums import sums


def of_kind(kind: str):
    def ask_it(ask: Ask) -> dict:
        os.environ |= {"ITS_BASE_URL": ask["url"], "ITS_API_KEY": ask["key"]}
        [log] = evaluate(
            sums(ask["query"], kind), model=f"openai-api/its/{ask['model']}",
            model_args={"stream": True} if ask["kind"] == "stream" else {}, display="none", log_dir=ask["folder"],
        )  # fmt: skip
        assert log.status == "success", log.error
        [sample] = log.samples
        return {"text": sample.output.completion, "is_right": sample.scores["includes"].value == "C"}

    return ask_it


if __name__ == "__main__":
    loop({"text": of_kind("text"), "stream": of_kind("text"), "tools": of_kind("tools"), "schema": of_kind("schema")})
