"""A query for inspect-ai, asked plainly, with a tool, or for JSON: `inspect eval inspect_sums.py -T kind=tools`."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ResponseSchema
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool
from inspect_ai.util import json_schema
from pydantic import BaseModel


class Sum(BaseModel):
    answer: int


@tool
def add():
    async def execute(a: int, b: int) -> str:
        """Adds two numbers.

        Args:
            a: One number.
            b: The other.
        """
        return str(a + b)

    return execute


@task
def sums(query: str = "What is 2 + 5?", kind: str = "text") -> Task:
    config = GenerateConfig()
    if kind == "schema":
        config = GenerateConfig(response_schema=ResponseSchema(name="sum", json_schema=json_schema(Sum)))
    solver = [use_tools(add()), generate()] if kind == "tools" else [generate()]
    return Task(dataset=[Sample(input=query, target="7")], solver=solver, scorer=includes(), config=config)
