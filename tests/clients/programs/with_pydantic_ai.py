"""pydantic-ai's Agent over its OpenAI model: a tool is called, and its result goes back."""

import asyncio

from asked import Ask, add, loop
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Sum(BaseModel):
    """The sum."""

    answer: int


def agent(ask: Ask, **options) -> Agent:
    provider = OpenAIProvider(base_url=ask["url"], api_key=ask["key"])
    return Agent(OpenAIChatModel(ask["model"], provider=provider), retries=0, **options)


def text(ask: Ask) -> dict:
    return {"text": asyncio.run(agent(ask).run(ask["query"])).output}


def stream(ask: Ask) -> dict:
    async def streamed() -> list[str]:
        async with agent(ask).run_stream(ask["query"]) as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(streamed())
    return {"text": "".join(pieces), "n_pieces": len(pieces)}


def tools(ask: Ask) -> dict:
    called = []

    def adding(a: int, b: int) -> int:
        """Adds two numbers."""
        called.append({"name": "adding", "arguments": {"a": a, "b": b}})
        return add(a, b)

    output = asyncio.run(agent(ask, tools=[adding]).run(ask["query"])).output
    return {"text": output, "calls": called}


def schema(ask: Ask) -> dict:
    return {"answer": asyncio.run(agent(ask, output_type=NativeOutput(Sum)).run(ask["query"])).output.answer}


KINDS = (text, stream, tools, schema)

if __name__ == "__main__":
    loop({kind.__name__: kind for kind in KINDS})
