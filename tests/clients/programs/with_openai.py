"""OpenAI's own package for Python."""

from asked import SCHEMA, Ask, loop
from openai import OpenAI
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": SCHEMA}}


class Sum(BaseModel):
    answer: int


def client(ask: Ask) -> OpenAI:
    return OpenAI(base_url=ask["url"], api_key=ask["key"], max_retries=0)


def chat(ask: Ask) -> dict:
    return {"model": ask["model"], "messages": [{"role": "user", "content": ask["query"]}]}


def text(ask: Ask) -> dict:
    completion = client(ask).chat.completions.create(**chat(ask), extra_body=ask.get("extra_body"))
    choice = completion.choices[0]
    return {
        "text": choice.message.content,
        "finish_reason": choice.finish_reason,
        "n_choices": len(completion.choices),
        "total_tokens": completion.usage.total_tokens,
        "request_id": completion._request_id,
        "its": (completion.model_extra or {}).get("its"),
    }


def stream(ask: Ask) -> dict:
    pieces, its, usage = [], None, None
    for chunk in client(ask).chat.completions.create(**chat(ask), stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
        its = (chunk.model_extra or {}).get("its") or its
        usage = chunk.usage or usage
    return {"text": "".join(pieces), "n_pieces": len(pieces), "its": its, "total_tokens": usage.total_tokens}


def stream_helper(ask: Ask) -> dict:
    with client(ask).chat.completions.stream(**chat(ask)) as events:
        kinds = sorted({event.type for event in events})
        message = events.get_final_completion().choices[0].message
    return {"text": message.content, "events": kinds}


def tools(ask: Ask) -> dict:
    completion = client(ask).chat.completions.create(**chat(ask), tools=[TOOL], parallel_tool_calls=True)
    message = completion.choices[0].message
    return {"text": message.content, "calls": [_call(call) for call in message.tool_calls or []]}


def tools_stream(ask: Ask) -> dict:
    with client(ask).chat.completions.stream(**chat(ask), tools=[TOOL]) as events:
        for _ in events:
            pass
        message = events.get_final_completion().choices[0].message
    return {"text": message.content, "calls": [_call(call) for call in message.tool_calls or []]}


def _call(call) -> dict:
    return {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}


def schema(ask: Ask) -> dict:
    completion = client(ask).chat.completions.create(**chat(ask), response_format=FORMAT)
    return {"text": completion.choices[0].message.content}


def parse(ask: Ask) -> dict:
    completion = client(ask).chat.completions.parse(**chat(ask), response_format=Sum)
    return {"answer": completion.choices[0].message.parsed.answer}


def raw(ask: Ask) -> dict:
    response = client(ask).chat.completions.with_raw_response.create(**chat(ask))
    return {"text": response.parse().choices[0].message.content, "headers": dict(response.headers)}


def responses(ask: Ask) -> dict:
    response = client(ask).responses.create(model=ask["model"], input=ask["query"])
    return {"text": response.output_text, "status": response.status, "total_tokens": response.usage.total_tokens}


def responses_stream(ask: Ask) -> dict:
    with client(ask).responses.stream(model=ask["model"], input=ask["query"]) as events:
        kinds = [event.type for event in events]
        return {"text": events.get_final_response().output_text, "events": kinds}


def responses_parse(ask: Ask) -> dict:
    response = client(ask).responses.parse(model=ask["model"], input=ask["query"], text_format=Sum)
    return {"answer": response.output_parsed.answer}


def embeddings(ask: Ask) -> dict:
    return {"embedding": client(ask).embeddings.create(model=ask["model"], input=ask["query"]).data[0].embedding}


def models(ask: Ask) -> dict:
    one = client(ask).models.retrieve(ask["model"])
    return {"names": [card.id for card in client(ask).models.list()], "its": (one.model_extra or {}).get("its")}


def completion(ask: Ask) -> dict:
    told = client(ask).completions.create(model=ask["model"], prompt=ask["query"])
    return {"text": told.choices[0].text, "finish_reason": told.choices[0].finish_reason}


def completion_stream(ask: Ask) -> dict:
    chunks = client(ask).completions.create(model=ask["model"], prompt=ask["query"], stream=True)
    pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    return {"text": "".join(pieces), "n_pieces": len(pieces)}


KINDS = (
    text, stream, stream_helper, tools, tools_stream, schema, parse, raw, responses, responses_stream, responses_parse,
    embeddings, models, completion, completion_stream,
)  # fmt: skip

if __name__ == "__main__":
    loop({kind.__name__: kind for kind in KINDS})
