"""lm-evaluation-harness, by `simple_evaluate`: a task of one item, its answer read from the last box."""

import json
import os
from pathlib import Path

import lm_eval
from asked import Ask, loop
from lm_eval.tasks import TaskManager

TASKS = Path(__file__).parent.parent / "tasks"


def evaluate(ask: Ask, kind: str, path: str) -> dict:
    os.environ["OPENAI_API_KEY"] = ask["key"]
    os.chdir(ask["folder"])  # where the task looks for its items
    Path("items.jsonl").write_text(json.dumps({"query": ask["query"], "answer": "7"}) + "\n")
    arguments = {
        "model": ask["model"], "base_url": f"{ask['url']}/{path}", "num_concurrent": 1, "max_retries": 1,
        "tokenized_requests": False, "tokenizer_backend": None,
    }  # fmt: skip
    found = lm_eval.simple_evaluate(
        kind, arguments, tasks=["its_sums"], task_manager=TaskManager(include_path=str(TASKS)),
        apply_chat_template=kind == "local-chat-completions",
    )  # fmt: skip
    [sample] = found["samples"]["its_sums"]
    return {"text": sample["resps"][0][0], "score": found["results"]["its_sums"]["exact_match,boxed"]}


def text(ask: Ask) -> dict:
    return evaluate(ask, "local-chat-completions", "chat/completions")


def completion(ask: Ask) -> dict:
    return evaluate(ask, "local-completions", "completions")


if __name__ == "__main__":
    loop({"text": text, "completion": completion})
