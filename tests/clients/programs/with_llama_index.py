"""LlamaIndex's OpenAILike."""

from asked import Ask, add, loop
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Sum(BaseModel):
    """The sum."""

    answer: int


def model(ask: Ask, **options) -> OpenAILike:
    return OpenAILike(
        model=ask["model"], api_base=ask["url"], api_key=ask["key"], is_chat_model=True,
        is_function_calling_model=True, max_retries=0, **options,
    )  # fmt: skip


def text(ask: Ask) -> dict:
    return {"text": model(ask).chat([ChatMessage(ask["query"])]).message.content}


def stream(ask: Ask) -> dict:
    pieces = [chunk.delta or "" for chunk in model(ask).stream_chat([ChatMessage(ask["query"])])]
    return {"text": "".join(pieces), "n_pieces": len(pieces)}


def tools(ask: Ask) -> dict:
    asked = model(ask)
    response = asked.chat_with_tools([FunctionTool.from_defaults(add)], user_msg=ask["query"])
    calls = asked.get_tool_calls_from_response(response)
    return {"calls": [{"name": call.tool_name, "arguments": call.tool_kwargs} for call in calls]}


def schema(ask: Ask) -> dict:
    asked = model(ask, should_use_structured_outputs=True).as_structured_llm(Sum)
    return {"answer": asked.chat([ChatMessage(ask["query"])]).raw.answer}


def completion(ask: Ask) -> dict:
    asked = OpenAILike(model=ask["model"], api_base=ask["url"], api_key=ask["key"], is_chat_model=False, max_retries=0)
    return {"text": asked.complete(ask["query"]).text}


KINDS = (text, stream, tools, schema, completion)

if __name__ == "__main__":
    loop({kind.__name__: kind for kind in KINDS})
