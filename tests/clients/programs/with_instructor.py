"""instructor around OpenAI's package: every answer is a model of pydantic's."""

import instructor
from asked import Ask, loop
from openai import OpenAI
from pydantic import BaseModel


class Sum(BaseModel):
    """The sum."""

    answer: int


def create(ask: Ask, mode: instructor.Mode, *, partly: bool = False):
    client = instructor.from_openai(OpenAI(base_url=ask["url"], api_key=ask["key"], max_retries=0), mode=mode)
    ask_for = client.chat.completions.create_partial if partly else client.chat.completions.create
    messages = [{"role": "user", "content": ask["query"]}]
    return ask_for(model=ask["model"], messages=messages, response_model=Sum, max_retries=1)


def tools(ask: Ask) -> dict:
    return {"answer": create(ask, instructor.Mode.TOOLS).answer}


def schema(ask: Ask) -> dict:
    return {"answer": create(ask, instructor.Mode.JSON_SCHEMA).answer}


def stream(ask: Ask) -> dict:
    return {"answer": list(create(ask, instructor.Mode.JSON_SCHEMA, partly=True))[-1].answer}


KINDS = (tools, schema, stream)

if __name__ == "__main__":
    loop({kind.__name__: kind for kind in KINDS})
