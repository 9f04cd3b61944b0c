"""The OpenAPI document: whole, consistent, and about the routes that there are."""

import json

import pytest

from arbstr.edge import ROUTES
from arbstr.edge._analytics import REQUESTS_PARAMETERS, STATS_PARAMETERS
from arbstr.edge._openapi import document

DOCUMENT = document()


def references(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from references(one)


def test_every_route_is_in_the_document_with_its_method_and_no_other():
    documented = {(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert documented == {(route.path, route.methods[0].lower()) for route in ROUTES}


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to():
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) == schemas


@pytest.mark.parametrize(("path", "names"), [("/v1/stats", STATS_PARAMETERS), ("/v1/requests", REQUESTS_PARAMETERS)])
def test_every_parameter_that_is_read_is_in_the_document_and_no_other(path, names):
    assert {one["name"] for one in DOCUMENT["paths"][path]["get"]["parameters"]} == set(names)


def test_a_route_needs_a_bearer_in_the_document_when_it_does():
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.methods[0].lower()]
        assert bool(operation["security"]) is (route.roles is not None)
        assert ("401" in operation["responses"]) is (route.roles is not None)


async def test_the_document_is_served_to_everybody(start):
    rig = await start()
    answer = await rig.request("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == DOCUMENT
