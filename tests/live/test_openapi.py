"""The started program against its own OpenAPI document: whatever is sent, the answer is one that the document names.

Requests are made by schemathesis from the document, those that keep to it and those that do not.
"""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from arbstr.edge import ROUTES
from tests.live.program import Program

EXAMPLES = 30
OPERATIONS = [(route.path, route.methods[0]) for route in ROUTES]
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def schema(market: Program) -> Any:
    with market.client() as http:
        return schemathesis.openapi.from_dict(http.get("/openapi.json").json())


def whole(value: Any) -> Any:
    """JSON Schema takes 1.0 for an integer; the predecessor did not (contract section 4.1), and neither do we."""
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def known_model(body: Any) -> Any:
    """Half of the names become one that is on offer: of random ones nobody has heard.

    These are answered, at the pace of a model: the answer has to be a short one.
    """
    if isinstance(body, dict) and len(body.get("model", "")) % 2:
        return {**body, "model": "gpt-4o-mini", "max_tokens": 4, "max_completion_tokens": 4, "n": 1, "best_of": 1}
    return body


def ask(market: Program, operation: Any, mode: GenerationMode, checks: list[Any]) -> set[int]:
    """Send ``EXAMPLES`` requests; gives the statuses that came back."""
    seen: set[int] = set()
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {market.token}"

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def run(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:
                case.body = known_model(whole(case.body))
            answer = case.call_and_validate(base_url=market.address, session=session, checks=checks)
            seen.add(answer.status_code)

        run()
    return seen


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_answers_are_as_documented_when_requests_keep_to_the_document(
    market: Program, schema: Any, path: str, method: str
) -> None:
    seen = ask(market, schema[path][method], GenerationMode.POSITIVE, CHECKS)
    assert not seen & {422, 500}


READ = {"/v1/stats", "/v1/requests"}
"""Routes without a body that read what they are sent."""


@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if one[1] == "POST" or one[0] in READ])
def test_answers_are_as_documented_when_requests_do_not_keep_to_it(
    market: Program, schema: Any, path: str, method: str
) -> None:
    seen = ask(market, schema[path][method], GenerationMode.NEGATIVE, [*CHECKS, negative_data_rejection])
    assert 500 not in seen
