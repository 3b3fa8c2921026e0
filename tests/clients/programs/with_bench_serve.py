"""vLLM's load generator, by the function behind `vllm bench serve`: one query, sent as a stream."""

import argparse
import json
import os
from pathlib import Path

from asked import Ask, loop
from vllm.benchmarks.serve import add_cli_args, main


def measure(ask: Ask, backend: str, endpoint: str) -> dict:
    os.environ["OPENAI_API_KEY"] = ask["key"]
    queries = Path(ask["folder"], "sharegpt.json")
    queries.write_text(json.dumps([{"conversations": [{"value": ask["query"]}, {"value": "It is seven."}]}]))
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    found = main(parser.parse_args([
        "--backend", backend, "--base-url", ask["url"].removesuffix("/v1"), "--endpoint", endpoint,
        "--model", ask["model"], "--tokenizer", os.environ["TOKENIZER"], "--disable-tqdm", "--save-detailed",
        "--dataset-name", "sharegpt", "--dataset-path", str(queries), "--num-prompts", "1",
        "--sharegpt-output-len", "64",  # room for an answer: at most 16 tokens are no vote
    ]))  # fmt: skip
    counts = {name: found[name] for name in ("completed", "failed", "total_output_tokens")}
    return {"text": found["generated_texts"][0], **counts}


def stream(ask: Ask) -> dict:
    return measure(ask, "openai-chat", "/v1/chat/completions")


def completion(ask: Ask) -> dict:
    return measure(ask, "openai", "/v1/completions")


if __name__ == "__main__":
    loop({"stream": stream, "completion": completion})
