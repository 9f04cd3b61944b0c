"""Which paths there are, which methods they take, and who may use them. Data only; the handlers are elsewhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from attrs import frozen

from arbstr.errors import MethodNotAllowed, NotFound, PermissionRefused
from arbstr.requests import Caller

Role = Literal["anonymous", "client", "agent", "admin"]

READ = ("GET", "HEAD")
WRITE = ("POST",)

EVERYBODY: frozenset[Role] = frozenset(("anonymous", "client", "agent", "admin"))
"""All who have been let in. ``anonymous`` is let in only where neither a token nor accounts are configured."""
OPERATORS: frozenset[Role] = EVERYBODY - {"agent"}
"""An agent is one customer among others; what concerns all of them together is not its business."""


class Page(StrEnum):
    """What a route answers with; each has one handler."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    COST = "cost"
    MODELS = "models"
    MODEL = "model"
    STATS = "stats"
    REQUESTS = "requests"
    REQUEST = "request"
    APPROVAL = "approval"
    PROVIDERS = "providers"
    METRICS = "metrics"
    HEALTH = "health"
    READY = "ready"
    OPENAPI = "openapi"


@frozen
class Route:
    """``path`` may end in ``{name}``, which stands for all that follows, slashes included."""

    page: Page
    methods: tuple[str, ...]
    path: str
    roles: frozenset[Role] | None
    """None: needs no bearer, and counts against no bound."""

    @property
    def stem(self) -> str:
        """The path up to its parameter."""
        return self.path.partition("{")[0]


ROUTES = (
    Route(Page.CHAT, WRITE, "/v1/chat/completions", EVERYBODY),
    Route(Page.COMPLETIONS, WRITE, "/v1/completions", EVERYBODY),
    Route(Page.EMBEDDINGS, WRITE, "/v1/embeddings", EVERYBODY),
    Route(Page.COST, WRITE, "/v1/cost", EVERYBODY),
    Route(Page.MODELS, READ, "/v1/models", EVERYBODY),
    Route(Page.MODEL, READ, "/v1/models/{model}", EVERYBODY),
    Route(Page.STATS, READ, "/v1/stats", EVERYBODY),
    Route(Page.REQUESTS, READ, "/v1/requests", EVERYBODY),
    Route(Page.REQUEST, READ, "/v1/requests/{request_id}", EVERYBODY),
    Route(Page.APPROVAL, READ, "/v1/approvals/{approval_id}", EVERYBODY),
    Route(Page.PROVIDERS, READ, "/providers", EVERYBODY),
    Route(Page.METRICS, READ, "/metrics", OPERATORS),
    Route(Page.HEALTH, READ, "/health", None),
    Route(Page.READY, READ, "/ready", None),
    Route(Page.OPENAPI, READ, "/openapi.json", None),
)

_WHOLE = {route.path: route for route in ROUTES if route.stem == route.path}
_STEMS = {route.stem: route for route in ROUTES if route.stem != route.path}


def find_route(path: str) -> tuple[Route, str] | None:
    """The route of a path, and what stands in the place of its parameter; None when there is none."""
    route = _WHOLE.get(path)
    if route is not None:
        return route, ""
    for stem, with_parameter in _STEMS.items():
        if path.startswith(stem) and len(path) > len(stem):
            return with_parameter, path[len(stem) :]
    return None


def not_found(path: str) -> NotFound:
    return NotFound(f"there is no {path[:100]!r} here; /openapi.json lists what there is")


def check_method(method: str, route: Route) -> None:
    """Raises MethodNotAllowed."""
    if method not in route.methods:
        allowed = " or ".join(route.methods)
        raise MethodNotAllowed(f"{method[:20]} is not possible here; use {allowed}", allow=route.methods)


def check_role(caller: Caller, route: Route) -> None:
    """Raises PermissionRefused."""
    if route.roles is not None and caller.role not in route.roles:
        raise PermissionRefused(f"{route.path} is not for an agent; use the admin token")
