"""LangChain's ChatOpenAI, with an address of its own."""

from asked import Ask, add, loop
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Sum(BaseModel):
    """The sum."""

    answer: int


def model(ask: Ask, **options) -> ChatOpenAI:
    return ChatOpenAI(base_url=ask["url"], api_key=ask["key"], model=ask["model"], max_retries=0, **options)


def text(ask: Ask) -> dict:
    message = model(ask, include_response_headers=True).invoke(ask["query"])
    return {"text": message.content, "headers": dict(message.response_metadata["headers"])}


def stream(ask: Ask) -> dict:
    pieces = [chunk.content for chunk in model(ask).stream(ask["query"])]
    return {"text": "".join(pieces), "n_pieces": len(pieces)}


def tools(ask: Ask) -> dict:
    message = model(ask).bind_tools([add]).invoke(ask["query"])
    return {"calls": [{"name": call["name"], "arguments": call["args"]} for call in message.tool_calls]}


def schema(ask: Ask) -> dict:
    return {"answer": model(ask).with_structured_output(Sum, method="json_schema").invoke(ask["query"]).answer}


def several(ask: Ask) -> dict:
    generations = model(ask, n=3).generate([[HumanMessage(ask["query"])]]).generations[0]
    return {"texts": [generation.text for generation in generations]}


def overridden(ask: Ask) -> dict:
    message = model(ask, extra_body={"its": {"n": 2}}, include_response_headers=True).invoke(ask["query"])
    return {"headers": dict(message.response_metadata["headers"])}


def embeddings(ask: Ask) -> dict:
    told = OpenAIEmbeddings(
        base_url=ask["url"], api_key=ask["key"], model=ask["model"], check_embedding_ctx_length=False, max_retries=0
    )
    return {"embedding": told.embed_query(ask["query"])}


KINDS = (text, stream, tools, schema, several, overridden, embeddings)

if __name__ == "__main__":
    loop({kind.__name__: kind for kind in KINDS})
