"""The description of the routes: as published, as served, and true of real replies."""

import json
from pathlib import Path

import jsonschema_rs
import pytest

from its_proxy.server.openapi import description
from tests.scripted import Say
from tests.serving import Reply, manifest, serving_script, write_checkpoint

PUBLISHED = Path(__file__).parents[2] / "docs" / "openapi.json"


def schema(name: str) -> dict:
    document = description()
    return {"$ref": f"#/components/schemas/{name}", "components": document["components"]}


def is_valid(name: str, value: object) -> bool:
    return jsonschema_rs.is_valid(schema(name), value)


def test_the_published_description_is_that_of_the_code():
    assert json.loads(PUBLISHED.read_text()) == description(), "write it anew with: make schema"


async def test_every_route_is_described_and_no_other():
    async with serving_script(Say(), None) as (server, _):
        served = {(method.lower(), path) for method, path in server.site.app.router.routes()}
    served = {(method, path) for method, path in served if method != "head"}
    described = {(method, path) for path, item in description()["paths"].items() for method in item}
    assert served == described


def test_every_reply_names_its_request_and_every_refusal_is_an_error():
    for item in description()["paths"].values():
        for operation in item.values():
            for status, reply in operation["responses"].items():
                assert "x-request-id" in reply["headers"]
                is_error = status != "200" and operation["operationId"] != "readyz"
                assert not is_error or reply["content"]["application/json"]["schema"]["$ref"].endswith("/Error")


@pytest.mark.parametrize("name", sorted(description()["components"]["schemas"]))
def test_every_schema_can_be_used_to_validate(name):
    assert not is_valid(name, 3.5)


@pytest.mark.parametrize(
    ("body", "is_good"),
    [
        ({}, True),
        ({"x": "y", "its": {"n": 2}, "stream": None}, True),
        ({"its": {"N": 2}}, False),
        ({"messages": []}, False),
        ({"messages": [{"content": "x"}]}, False),
        ({"n": 0}, False),
        ({"kv_cache": 1}, False),
        ({"priority": 1}, False),
        ({"prioritys": 1}, True),
    ],
)
async def test_a_body_is_good_for_the_server_where_it_is_by_the_description(body, is_good, tmp_path):
    request = {"model": "model", "messages": [{"role": "user", "content": "What is 2 + 5?"}], **body}
    assert is_valid("ChatRequest", request) == is_good
    async with serving_script(Say(), write_checkpoint(tmp_path, manifest())) as (server, _):
        reply = await server.send("POST", "/v1/chat/completions", request)
    assert (reply.status == 200) == is_good, reply.raw
    assert is_valid("ChatReply" if is_good else "Error", reply.json)


async def test_what_is_told_is_as_described(tmp_path):
    """The vote, its plan, the models, and the open routes."""
    async with serving_script(Say(), write_checkpoint(tmp_path, manifest())) as (server, _):
        told: dict[str, list[Reply]] = {
            "ChatReply": [await server.ask(), await server.ask(its={"explain": True})],
            "ModelList": [await server.get("/v1/models")],
            "Model": [await server.get("/v1/models/model")],
            "Status": [await server.get(path) for path in ("/livez", "/health", "/readyz")],
            "Error": [await server.get("/v1/models/other"), await server.ask(model="other")],
        }
    for name, replies in told.items():
        for reply in replies:
            assert is_valid(name, reply.json), (name, reply.raw)
