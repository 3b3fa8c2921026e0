"""LiteLLM's SDK, without its proxy."""

import litellm
from asked import Ask, loop
from pydantic import BaseModel
from with_openai import TOOL


class Sum(BaseModel):
    answer: int


def complete(ask: Ask, **fields):
    return litellm.completion(
        model=f"hosted_vllm/{ask['model']}", api_base=ask["url"], api_key=ask["key"], num_retries=0, max_retries=0,
        messages=[{"role": "user", "content": ask["query"]}], **fields,
    )  # fmt: skip


def text(ask: Ask) -> dict:
    completion = complete(ask)
    return {"text": completion.choices[0].message.content, "total_tokens": completion.usage.total_tokens}


def stream(ask: Ask) -> dict:
    pieces = [chunk.choices[0].delta.content or "" for chunk in complete(ask, stream=True)]
    return {"text": "".join(pieces), "n_pieces": len(pieces)}


def tools(ask: Ask) -> dict:
    message = complete(ask, tools=[TOOL]).choices[0].message
    calls = [{"name": call.function.name, "arguments": call.function.arguments} for call in message.tool_calls]
    return {"calls": calls}


def schema(ask: Ask) -> dict:
    return {"text": complete(ask, response_format=Sum).choices[0].message.content}


KINDS = (text, stream, tools, schema)

if __name__ == "__main__":
    loop({kind.__name__: kind for kind in KINDS})
