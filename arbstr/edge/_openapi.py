"""The OpenAPI 3.1 document of all routes, as data. Public: there is nothing in it that the manual does not say.

Schemas of what clients send hold what is checked here and no more; all else passes to the provider. Schemas of answers
hold what a client may rely on.
"""

from __future__ import annotations

from typing import Any, Final

import arbstr
from arbstr.edge._analytics import GROUPS, SORTS
from arbstr.edge._query import RANGES
from arbstr.edge._routes import ROUTES, Page, Route
from arbstr.wire import MAX_TOKEN_COUNT, dumps

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Json, optional: Json | None = None, **more: Any) -> Json:
    """An object with these members; others may be there as well."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}, **more}


def _array(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


def _or_null(schema: Json) -> Json:
    if "type" in schema and "enum" not in schema and isinstance(schema["type"], str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


_TEXT: Json = {"type": "string"}
_FLAG: Json = {"type": "boolean"}
_INTEGER: Json = {"type": "integer"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_OBJECT: Json = {"type": "object"}
_MSAT: Json = {"type": "integer", "description": "millisatoshi"}
_SATS: Json = {"type": "number", "description": "sats; the exact amount is beside it in msat"}
_EXACT: Json = {"type": "string", "description": "an exact decimal number, or a fraction such as 1/3"}
_TIME: Json = {"type": "string", "format": "date-time"}
_TIER: Json = {"type": "string", "enum": ["local", "standard", "frontier"]}
_TOKENS: Json = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_COUNT}
_CHOICES: Json = {"type": "integer", "minimum": 1, "maximum": 128}
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"}


# What clients send

_MISSPELT: Json = {"not": {}}
"""Refused: some providers' readers take it for the member in small letters."""
_STREAMING: Json = {
    "stream": _or_null(_FLAG),
    "stream_options": _or_null(_object({}, {"include_usage": _or_null(_FLAG)})),
}
_TOKEN_IDS = _array(_TOKENS)
_TEXTS: Json = {
    "anyOf": [
        _TEXT,
        _array(_TEXT, minItems=1),
        {**_TOKEN_IDS, "minItems": 1},
        _array(_TOKEN_IDS, minItems=1),
    ]
}
_HELLO: Json = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}

_REQUEST_SCHEMAS: Json = {
    "ChatRequest": _object(
        {"model": _NAME, "messages": _array(_OBJECT)},
        {
            **_STREAMING,
            "max_tokens": _or_null(_TOKENS),
            "max_completion_tokens": _or_null(_TOKENS),
            "n": _or_null(_CHOICES),
            "N": _MISSPELT,
        },
        examples=[_HELLO],
    ),
    "CompletionRequest": _object(
        {"model": _NAME},
        {
            "prompt": _or_null(_TEXTS),
            "suffix": _or_null(_TEXT),
            "echo": _or_null(_FLAG),
            **_STREAMING,
            "max_tokens": _or_null(_TOKENS),
            "n": _or_null(_CHOICES),
            "N": _MISSPELT,
            "best_of": _or_null(_CHOICES),
        },
        examples=[{"model": "gpt-4o-mini", "prompt": "once upon a time", "max_tokens": 16}],
    ),
    "EmbeddingsRequest": _object(
        {"model": _NAME, "input": _TEXTS}, examples=[{"model": "gpt-4o-mini", "input": ["hello", "there"]}]
    ),
    "CostRequest": {
        "anyOf": [
            _ref("ChatRequest"),
            {"allOf": [_ref("CompletionRequest"), {"required": ["prompt"]}]},
            _ref("EmbeddingsRequest"),
        ],
        "examples": [_HELLO],
    },
}


# What is answered

_RATES: Json = {
    "input_rate_sats_per_1m": _or_null(_NUMBER),
    "output_rate_sats_per_1m": _or_null(_NUMBER),
    "base_fee_sats": _or_null(_NUMBER),
}
_TOTALS: Json = {
    "counts": _object({"total": _COUNT, "success": _COUNT, "error": _COUNT, "streaming": _COUNT}),
    "costs": _object(
        {
            "total_cost_sats": _SATS,
            "total_cost_msat": _MSAT,
            "total_input_tokens": _COUNT,
            "total_output_tokens": _COUNT,
            "total_cached_tokens": _COUNT,
            "saved_msat": _MSAT,
            "saved_dearest_msat": _MSAT,
        }
    ),
    "performance": _object({"avg_latency_ms": _NUMBER}),
}
_ENTRY: Json = {
    "id": _INTEGER,
    "request_id": _TEXT,
    "correlation_id": _or_null(_TEXT),
    "timestamp": _TIME,
    "agent": _or_null(_TEXT),
    "endpoint": _TEXT,
    "model": _TEXT,
    "policy": _or_null(_TEXT),
    "policy_header": _or_null(_TEXT),
    "tier": _or_null(_TIER),
    "complexity_score": _or_null(_NUMBER),
    "streaming": _FLAG,
    "success": _FLAG,
    "outcome": _TEXT,
    "http_status": _INTEGER,
    "tokens": _object(
        {"input": _or_null(_COUNT), "output": _or_null(_COUNT), "cached": _or_null(_COUNT), "estimated": _FLAG}
    ),
    "cost": _object(
        {
            "sats": _or_null(_SATS),
            "msat": _MSAT,
            "expected_msat": _or_null(_MSAT),
            "provider_cost_msat": _or_null(_MSAT),
        }
    ),
    "saved": _object({"msat": _or_null(_MSAT), "dearest_msat": _or_null(_MSAT)}),
    "timing": _object({"latency_ms": _COUNT}, {"stream_duration_ms": _COUNT}),
}
_ENTRY_OPTIONAL: Json = {
    "provider": _TEXT,
    "upstream_model": _or_null(_TEXT),
    "error": _object({"status": _or_null(_INTEGER), "message": _or_null(_TEXT)}),
}
_CANDIDATE: Json = {"provider": _TEXT, "expected_cost_msat": _MSAT}

_ANSWER_SCHEMAS: Json = {
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _or_null(_TEXT),
                    "code": {"type": ["integer", "string"]},
                    "reason": _TEXT,
                    "request_id": {"type": "string", "format": "uuid"},
                }
            )
        }
    ),
    "ErrorOfProvider": _object(
        {"error": _OBJECT},
        description="ours, or the provider's own error where the request is at fault, which passes through",
    ),
    "ChatCompletion": _object({}, {"arbstr_provider": _TEXT}, description="the provider's answer, as it came"),
    "Completion": _object({}, {"arbstr_provider": _TEXT}, description="the provider's answer, as it came"),
    "Embeddings": _object({}, {"arbstr_provider": _TEXT}, description="the provider's answer, as it came"),
    "Pricing": _object(
        {
            "input_msat_per_1m_tokens": _EXACT,
            "cached_input_msat_per_1m_tokens": _EXACT,
            "output_msat_per_1m_tokens": _EXACT,
            "base_fee_msat": _EXACT,
        }
    ),
    "Model": _object(
        {
            "id": _TEXT,
            "object": {"const": "model"},
            "created": _INTEGER,
            "owned_by": _TEXT,
            "context_tokens": _or_null(_COUNT),
            "max_output_tokens": _or_null(_COUNT),
            "pricing": _or_null(_ref("Pricing")),
            "providers": _array(_TEXT),
            "offers": _array(
                _object(
                    {
                        "provider": _TEXT,
                        "tier": _TIER,
                        "pricing": _or_null(_ref("Pricing")),
                        "context_tokens": _or_null(_COUNT),
                        "max_output_tokens": _or_null(_COUNT),
                        "excluded": _or_null(_TEXT),
                    }
                )
            ),
        }
    ),
    "ModelList": _object({"object": {"const": "list"}, "data": _array(_ref("Model"))}),
    "Quote": _object(
        {
            "model": _TEXT,
            "provider": _TEXT,
            "estimated_input_tokens": _COUNT,
            "estimated_output_tokens": _COUNT,
            "estimated_cost_sats": _SATS,
            "estimated_cost_msat": _MSAT,
            "rates": _object(_RATES),
            "rate_unit": {"const": "sats_per_1m_tokens"},
            "pricing": _ref("Pricing"),
            "expected_input_tokens": _COUNT,
            "expected_output_tokens": _COUNT,
            "expected_cost_msat": _MSAT,
            "bound_msat": _MSAT,
            "policy": _or_null(_TEXT),
            "strategy": _TEXT,
            "candidates": _array(_object({**_CANDIDATE, "tier": _TIER, "bound_msat": _MSAT})),
            "left_out": _array(_object({"provider": _TEXT, "reason": _TEXT, "detail": _TEXT})),
        }
    ),
    "Totals": _object(_TOTALS),
    "Stats": _object(
        {"since": _TIME, "until": _TIME, **_TOTALS},
        {
            "empty": {"const": True},
            "message": _TEXT,
            **{name: _map(_ref("Totals")) for name in GROUPS.values()},
            "groups_left_out": _FLAG,
        },
    ),
    "RequestEntry": _object(_ENTRY, _ENTRY_OPTIONAL),
    "RequestList": _object(
        {
            "data": _array(_ref("RequestEntry")),
            "page": _INTEGER,
            "per_page": {"type": "integer", "minimum": 1, "maximum": 100},
            "total": _COUNT,
            "total_pages": _COUNT,
            "since": _TIME,
            "until": _TIME,
        }
    ),
    "Receipt": _object(
        {
            **_ENTRY,
            "object": {"const": "arbstr.receipt"},
            "strategy": _or_null(_TEXT),
            "candidates": _array(_object(_CANDIDATE)),
            "left_out": _array(_object({"provider": _TEXT, "reason": _TEXT})),
            "attempts": _array(
                _object(
                    {
                        "provider": _TEXT,
                        "started": _TIME,
                        "duration_ms": _NUMBER,
                        "ttfb_ms": _or_null(_NUMBER),
                        "http_status": _or_null(_INTEGER),
                        "outcome": _TEXT,
                        "error": _or_null(_TEXT),
                    }
                )
            ),
        },
        _ENTRY_OPTIONAL,
    ),
    "Approval": _object(
        {
            "id": _TEXT,
            "object": {"const": "approval"},
            "status": {
                "type": "string",
                "enum": ["pending_approval", "approved", "denied", "timed_out", "used"],
            },
            "approval_id": _TEXT,
            "model": _TEXT,
            "amount_msat": _MSAT,
            "expires_at": _TIME,
            "poll_url": _TEXT,
        },
        {"request_id": _TEXT, "created_at": _TIME, "resolved_at": _or_null(_TIME), "reason": _or_null(_TEXT)},
    ),
    "Provider": _object(
        {
            "name": _TEXT,
            "url": _or_null(_TEXT),
            "models": _array(_TEXT),
            "any_model": _FLAG,
            **_RATES,
            "pricing": _or_null(_ref("Pricing")),
            "model_rate_count": _COUNT,
            "tier": _TIER,
            "source": _or_null(_TEXT),
            "provider_id": _or_null(_TEXT),
            "routable": _FLAG,
            "has_api_key": _FLAG,
            "api_key": _or_null({**_TEXT, "description": "masked"}),
            "weight": _COUNT,
            "breaker": _object(
                {
                    "state": {"type": "string", "enum": ["closed", "open", "half_open"]},
                    "failure_count": _COUNT,
                    "probing": _FLAG,
                    "open_for_s": {"type": "number", "minimum": 0},
                }
            ),
            "in_flight": _COUNT,
            "max_concurrent": _COUNT,
            "latency": _object(
                {name: _or_null(_NUMBER) for name in ("ttfb_ms", "ttfb_ms_p50", "ttfb_ms_p99")},
                description="until the first byte; null before the first answer",
            ),
            "excluded_models": _array(_object({"model": _TEXT, "reason": _TEXT})),
        }
    ),
    "ProviderList": _object(
        {
            "providers": _array(_ref("Provider")),
            "market": _object({"enabled": _FLAG}),
            "rate_unit": {"const": "sats_per_1m_tokens"},
        }
    ),
    "Health": _object(
        {
            "status": {"type": "string", "enum": ["ok", "degraded", "unhealthy"]},
            "providers": _map(
                _object(
                    {
                        "state": {"type": "string", "enum": ["closed", "open", "half_open"]},
                        "failure_count": _COUNT,
                        "tier": _TIER,
                    }
                )
            ),
        }
    ),
    "Ready": _object({"status": {"type": "string", "enum": ["ready", "draining"]}}),
}


# Headers and parameters


def _header(description: str, *, required: bool = False, schema: Json = _TEXT) -> Json:
    return {"description": description, "required": required, "schema": schema}


_ALWAYS: Json = {
    "x-arbstr-request-id": _header(
        "this request, by our name", required=True, schema={"type": "string", "format": "uuid"}
    ),
}
_OFTEN: Json = {
    "x-arbstr-correlation-id": _header("this request, by the client's name"),
    **{
        f"x-ratelimit-{what}-{of}": _header(f"of the {of} that are allowed, where there is a limit")
        for of in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    },
}
_OF_MODEL_ANSWERS: Json = {
    "x-arbstr-provider": _header("who answered, or was tried last"),
    "x-arbstr-retries": _header("failed attempts, <count>/<provider>"),
    "x-arbstr-tier": _header("the ceiling that was chosen under", schema=_TIER),
    "x-arbstr-complexity-score": _header("0 to 1, where the caller did not say how complex the request is"),
    "x-arbstr-streaming": _header("true for a stream"),
    "x-arbstr-latency-ms": _header("time inside, the provider's included; not for streams"),
    "x-arbstr-cost-msat": _header("what was charged; not for streams"),
    "x-arbstr-cost-sats": _header("the same in sats, with two digits"),
    "x-arbstr-saved-msat": _header("how much more it would have cost at the median candidate"),
    "x-arbstr-saved-dearest-msat": _header("how much more it would have cost at the dearest candidate"),
    "x-arbstr-settlement": _header("pending: the charge could not be confirmed on disk yet"),
}


def _parameter(place: str, name: str, description: str, schema: Json = _TEXT) -> Json:
    return {"name": name, "in": place, "description": description, "schema": schema}


_POLICY = _parameter("header", "x-arbstr-policy", "name of a policy rule; without it rules are chosen by keyword")
_OF_MODEL_REQUESTS = [
    _POLICY,
    _parameter("header", "x-arbstr-complexity", "low, medium or high: in place of our own judgement"),
    _parameter("header", "x-arbstr-stream-cost", "1: end a stream with an event that tells its cost"),
    _parameter("header", "x-arbstr-request-id", "your own name for the request; x-request-id does as well"),
    _parameter("header", "x-arbstr-approval", "what a human has granted, after a 202"),
    _parameter("header", "prefer", "wait=N: seconds to wait for a human, where one has to decide"),
    _parameter("header", "traceparent", "W3C trace context, passed on"),
]
_OF_THE_LOG = [
    _parameter("query", "range", f"how far back: {', '.join(RANGES)}; last_7d. Not looked at beside since"),
    _parameter("query", "since", "in place of range", _TIME),
    _parameter("query", "until", "now", _TIME),
    _parameter("query", "model", "in any case of letters"),
    _parameter("query", "provider", "in any case of letters"),
    _parameter("query", "agent", "id or name; agents see their own requests only"),
]
_U32: Json = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_PARAMETERS: dict[Page, list[Json]] = {
    Page.CHAT: _OF_MODEL_REQUESTS,
    Page.COMPLETIONS: _OF_MODEL_REQUESTS,
    Page.EMBEDDINGS: _OF_MODEL_REQUESTS,
    Page.COST: [_POLICY],
    Page.MODEL: [
        {**_parameter("path", "model", "may hold slashes"), "required": True, "example": "gpt-4o-mini"},
    ],
    Page.REQUEST: [{**_parameter("path", "request_id", "as in x-arbstr-request-id"), "required": True}],
    Page.APPROVAL: [{**_parameter("path", "approval_id", "as in the 202"), "required": True}],
    Page.STATS: [
        *_OF_THE_LOG,
        _parameter("query", "group_by", "a map beside the totals", {"type": "string", "enum": list(GROUPS)}),
    ],
    Page.REQUESTS: [
        *_OF_THE_LOG,
        _parameter("query", "success", "only those that succeeded, or did not", _FLAG),
        _parameter("query", "streaming", "only streams, or only others", _FLAG),
        _parameter("query", "page", "from 1", _U32),
        _parameter("query", "per_page", "20; at most 100", _U32),
        _parameter("query", "sort", "timestamp", {"type": "string", "enum": list(SORTS)}),
        _parameter("query", "order", "desc", {"type": "string", "enum": ["asc", "desc"]}),
    ],
}


# Operations

_SUMMARIES: dict[Page, tuple[str, str]] = {
    Page.CHAT: ("A chat completion, plain or streamed", "ChatCompletion"),
    Page.COMPLETIONS: ("A legacy completion, plain or streamed", "Completion"),
    Page.EMBEDDINGS: ("Embeddings", "Embeddings"),
    Page.COST: ("What a request would cost, and at whom; buys nothing", "Quote"),
    Page.MODELS: ("The models on offer", "ModelList"),
    Page.MODEL: ("One model", "Model"),
    Page.STATS: ("Counts, costs and latency of past requests", "Stats"),
    Page.REQUESTS: ("Past requests, page by page", "RequestList"),
    Page.REQUEST: ("The receipt of one request: attempts, candidates, reasons", "Receipt"),
    Page.APPROVAL: ("What has become of a request that a human has to allow", "Approval"),
    Page.PROVIDERS: ("The providers: prices, circuits, latency", "ProviderList"),
    Page.METRICS: ("Metrics for Prometheus; not for agents", ""),
    Page.HEALTH: ("The circuits of the providers", "Health"),
    Page.READY: ("Whether requests are accepted", "Ready"),
    Page.OPENAPI: ("This document", ""),
}
_REQUEST_OF = {
    Page.CHAT: "ChatRequest",
    Page.COMPLETIONS: "CompletionRequest",
    Page.EMBEDDINGS: "EmbeddingsRequest",
    Page.COST: "CostRequest",
}
_MODEL_CALLS = (Page.CHAT, Page.COMPLETIONS, Page.EMBEDDINGS)
_STREAMS = (Page.CHAT, Page.COMPLETIONS)

_MEANINGS: dict[str, str] = {
    "400": "not understood, or asks for what is not there",
    "401": "no bearer, or one that nobody holds",
    "402": "the account does not cover it",
    "403": "known, but not allowed",
    "404": "there is no such thing",
    "405": "another method; see the allow header",
    "408": "the body did not arrive in time",
    "409": "an operation that has ended already",
    "413": "the body is too large",
    "414": "the path is too long",
    "415": "the body must be JSON",
    "422": "a member is missing or of the wrong type; param names it",
    "429": "too many requests; see retry-after",
    "4XX": "the provider says that the request is at fault; its answer passes through",
    "500": "a defect; the request id finds it in the log",
    "502": "all candidates failed",
    "503": "nobody can answer now; see retry-after",
    "504": "it took too long",
}
_ALWAYS_POSSIBLE = ("400", "401", "403", "404", "405", "414", "429", "500", "503", "504")
_WITH_A_BODY = ("408", "413", "415", "422")


def _response(description: str, content: Json, headers: Json) -> Json:
    return {"description": description, "headers": {**_ALWAYS, **headers}, "content": content}


def _as_json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _failures(route: Route) -> Json:
    statuses: tuple[str, ...] = ("405",)
    if route.roles is not None:
        statuses = _ALWAYS_POSSIBLE + (_WITH_A_BODY if route.page in _REQUEST_OF else ())
    if route.page in _MODEL_CALLS:
        statuses += ("402", "409", "4XX", "502")
    schema = _ref("ErrorOfProvider" if route.page in _MODEL_CALLS else "Error")
    headers: Json = {**_OFTEN, **(_OF_MODEL_ANSWERS if route.page in _MODEL_CALLS else {})}
    failures: Json = {}
    for status in sorted(statuses):
        more: Json = {}
        if status in ("429", "503"):
            more = {"retry-after": _header("seconds", schema=_COUNT)}
        elif status == "405":
            more = {"allow": _header("the methods that are possible", required=True)}
        failures[status] = _response(_MEANINGS[status], _as_json(schema), {**headers, **more})
    return failures


def _success(route: Route) -> Json:
    summary, schema = _SUMMARIES[route.page]
    headers: Json = {} if route.roles is None else _OFTEN
    content = _as_json(_ref(schema) if schema else _OBJECT)
    if route.page is Page.METRICS:
        content = {"text/plain": {"schema": _TEXT}}
    if route.page in _STREAMS:
        content["text/event-stream"] = {}
    if route.page in _MODEL_CALLS:
        headers = {**headers, **_OF_MODEL_ANSWERS}
    responses: Json = {"200": _response(summary, content, headers)}
    if route.page in _MODEL_CALLS:
        responses["202"] = _put_off(headers)
    if route.page in (Page.HEALTH, Page.READY):
        responses["503"] = _response("not at present", content, headers)
    return responses


def _put_off(headers: Json) -> Json:
    more = {
        "location": _header("where to look", required=True),
        "retry-after": _header("seconds until then", required=True, schema=_COUNT),
        "x-should-retry": _header("false: nothing comes of sending it again at once"),
        "x-arbstr-approval": _header("what to come back with", required=True),
    }
    content = _as_json(_ref("Approval"))
    return _response("a human has to allow it first; its money is set aside", content, {**headers, **more})


def _operation(route: Route) -> Json:
    operation: Json = {
        "operationId": route.page.value,
        "summary": _SUMMARIES[route.page][0],
        "parameters": _PARAMETERS.get(route.page, []),
        "responses": {**_failures(route), **_success(route)},
        "security": [] if route.roles is None else [{"bearer": []}, {}],
    }
    if route.page in _REQUEST_OF:
        operation["requestBody"] = {"required": True, "content": _as_json(_ref(_REQUEST_OF[route.page]))}
    return operation


def document() -> Json:
    """The whole document."""
    paths: Json = {}
    for route in ROUTES:
        # HEAD is GET without a body, and so goes without saying.
        method = "get" if "GET" in route.methods else "post"
        paths[route.path] = {method: _operation(route)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "arbstr",
            "version": arbstr.__version__,
            "description": "OpenAI's API, answered by the provider that will do it for the fewest sats.",
        },
        "paths": paths,
        "components": {
            "schemas": {**_REQUEST_SCHEMAS, **_ANSWER_SCHEMAS},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "an agent's token, auth_token or admin_token; none where none is configured",
                }
            },
        },
    }


OPENAPI_BODY: Final = dumps(document())
