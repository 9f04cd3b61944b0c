"""The vault's routes: who may use which, and what they are sent. Data only; the handlers are in ``_vault``.

Contract: vault, sections 5 and 6; what is ours is marked. Amounts are integers of msat up to 2^53 - 1.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from attrs import field, frozen

from arbstr.edge._vault_schema import Choice, Integer, Maybe, Nullable, Object, Shape, Text, TextList, TextMap

MAX_PARAM: Final = 100
"""Characters of a part of a path; a longer one belongs to no route, as with the predecessor."""
MAX_NAME: Final = 100
MAX_DESTINATION: Final = 2_000
MAX_ID: Final = 200
MAX_MODELS: Final = 100
MAX_REASON: Final = 500
MAX_TOKEN_LIFE_S: Final = 10 * 366 * 86_400

MERGE_PATCH: Final = "application/merge-patch+json"
"""RFC 7396: what is not named stays, null removes."""


class Auth(StrEnum):
    """Whose word a route takes."""

    ADMIN = "admin"
    AGENT = "agent"
    """Of the agent that the path names, and no other; with a token that is not a budget's."""
    INTERNAL = "internal"


@frozen
class VaultRoute:
    method: str
    """GET answers HEAD as well."""
    path: str
    auth: Auth
    page: str
    """The handler's name."""
    params: Object = field(factory=Object)
    body: Object | None = None
    """None: whatever is sent is parsed and ignored."""
    query: Object = field(factory=Object)
    merge: Object | None = None
    """Of a body that is a merge patch."""
    needs_body: bool = True
    """False: no body at all is an empty object."""
    ours: bool = False
    """Not in the contract."""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")[1:])


_AMOUNT = Integer(positive=True)
_LIMIT = Integer(minimum=0)
_COUNT = Integer(minimum=0)
_NAME = Text(1, MAX_NAME)
_MODELS = TextList(Text(1, MAX_ID), MAX_MODELS)
_REASON = Object({"reason": Maybe(Text(0, MAX_REASON), "")})
_DECISION = Object(
    {
        "by": Maybe(Text(1, MAX_NAME), "operator", nullable=True),
        "reason": Maybe(Text(1, MAX_REASON), nullable=True),
    }
)
_AGENT = Object({"id": Text(prefix="ag_")})
_APPROVAL = Object({"id": Text(prefix="apr_")})

_PAGE = {"cursor": Maybe(Text(0, MAX_ID), ""), "limit": Maybe(Integer(1, 100, from_text=True), 50)}
_LONG_PAGE = {"cursor": Maybe(Text(0, MAX_ID)), "limit": Maybe(Integer(1, 1_000, from_text=True))}
_MS = Maybe(Integer(from_text=True), 0)

HISTORY_ACTIONS: Final = (
    "AGENT_REGISTERED",
    "POLICY_UPDATED",
    "PAYMENT_REQUEST",
    "PAYMENT_SETTLED",
    "PAYMENT_FAILED",
    "DEPOSIT",
)

LIMITS: Final[dict[str, Shape]] = {"max_transaction_msat": _LIMIT, "daily_limit_msat": _LIMIT}
OPTIONAL_POLICY: Final[dict[str, Shape]] = {
    "max_fee_msat": _LIMIT,
    "approval_timeout_ms": Integer(30_000, 3_600_000),
    "alert_floor_msat": _LIMIT,
    "alert_cooldown_ms": Integer(60_000),
    "max_holds": _COUNT,
}
_POLICY = Object(
    {**LIMITS, **{name: Maybe(shape) for name, shape in OPTIONAL_POLICY.items()}, "models": Maybe(_MODELS, ())}
)
_POLICY_PATCH = Object(
    {
        **{name: Maybe(shape, nullable=True) for name, shape in {**LIMITS, **OPTIONAL_POLICY}.items()},
        "models": Maybe(_MODELS, (), nullable=True),
    }
)
POLICY_FIELDS: Final = tuple(_POLICY.fields)

_PAY = Object(
    {
        "amount_msat": _AMOUNT,
        "asset": Choice(("BTC_simulated", "BTC_lightning", "BTC_cashu")),
        "purpose": Text(1, 200),
        "destination_type": Choice(("lightning_invoice", "cashu_token", "internal")),
        "destination": Text(1, MAX_DESTINATION),
        "preferred_rail": Maybe(Choice(("lightning", "cashu"))),
    }
)
_RESERVE = Object(
    {
        "agent_token": Text(0, MAX_ID),
        "amount_msats": _AMOUNT,
        "correlation_id": Text(0, MAX_ID),
        "model": Text(0, MAX_ID),
    }
)
USAGE_FIELDS: Final = ("tokens_in", "tokens_out", "latency_ms", "provider")
_SETTLE = Object(
    {
        "reservation_id": Text(0, MAX_ID),
        "actual_msats": Integer(minimum=0),
        "tokens_in": Nullable(_COUNT),
        "tokens_out": Nullable(_COUNT),
        "latency_ms": _COUNT,
        "provider": Text(0, MAX_ID),
    }
)
_BUDGET = Object(
    {
        "amount_msat": _AMOUNT,
        "name": Maybe(_NAME, "budget"),
        "models": Maybe(_MODELS, ()),
        "expires_in_s": Maybe(Integer(1, MAX_TOKEN_LIFE_S)),
        "max_holds": Maybe(Integer(minimum=1)),
    }
)
_TOKEN = Object(
    {
        "name": Maybe(Text(0, MAX_NAME), ""),
        "expires_in_s": Maybe(Integer(1, MAX_TOKEN_LIFE_S)),
        "replaces": Maybe(Text(prefix="tk_")),
        "grace_s": Maybe(Integer(0, 86_400), 0),
    }
)

ADMIN, AGENT, INTERNAL = Auth.ADMIN, Auth.AGENT, Auth.INTERNAL

VAULT_ROUTES: Final = (
    VaultRoute(
        "POST",
        "/agents",
        ADMIN,
        "register",
        body=Object({"name": _NAME, "metadata": Maybe(TextMap(Text(0, MAX_NAME), Text(0, 1_000), 50))}),
    ),
    VaultRoute("GET", "/agents", ADMIN, "agents", query=Object(_PAGE)),
    VaultRoute("GET", "/agents/{id}", ADMIN, "agent", _AGENT),
    VaultRoute("PATCH", "/operator/agents/{id}/policy", ADMIN, "set_policy", _AGENT, body=_POLICY, merge=_POLICY_PATCH),
    VaultRoute("PUT", "/agents/{id}/policy", ADMIN, "set_limits", _AGENT, body=Object(LIMITS)),
    VaultRoute("POST", "/agents/{id}/deposit", ADMIN, "deposit", _AGENT, body=Object({"amount_msat": _AMOUNT})),
    VaultRoute(
        "GET",
        "/operator/approvals",
        ADMIN,
        "approvals",
        query=Object({"status": Maybe(Choice(("pending", "all")), "pending"), **_LONG_PAGE}),
    ),
    VaultRoute(
        "POST", "/operator/approvals/{id}/approve", ADMIN, "approve", _APPROVAL, body=_DECISION, needs_body=False
    ),
    VaultRoute("POST", "/operator/approvals/{id}/deny", ADMIN, "deny", _APPROVAL, body=_DECISION, needs_body=False),
    VaultRoute(
        "GET",
        "/operator/dashboard",
        ADMIN,
        "dashboard",
        query=Object(
            {
                "status": Maybe(Choice(("active", "all")), "active"),
                "sort_by": Maybe(Choice(("balance", "daily_spend", "name")), "name"),
                "sort_order": Maybe(Choice(("asc", "desc")), "asc"),
            }
        ),
    ),
    VaultRoute("GET", "/agents/{id}/balance", AGENT, "balance", _AGENT),
    VaultRoute(
        "GET",
        "/agents/{id}/history",
        AGENT,
        "history",
        _AGENT,
        query=Object({**_PAGE, "action_type": Maybe(Choice(HISTORY_ACTIONS)), "start_date": _MS, "end_date": _MS}),
    ),
    VaultRoute("POST", "/agents/{id}/pay", AGENT, "pay", _AGENT, body=_PAY),
    VaultRoute(
        "GET",
        "/agents/{id}/payments/{tx_id}",
        AGENT,
        "payment",
        Object({"id": Text(prefix="ag_"), "tx_id": Text(prefix="tx_")}),
    ),
    VaultRoute(
        "POST",
        "/agents/{id}/withdrawals",
        AGENT,
        "withdraw",
        _AGENT,
        body=Object({"destination": Text(1, MAX_DESTINATION), "amount_msat": _AMOUNT}),
    ),
    VaultRoute("POST", "/internal/reserve", INTERNAL, "reserve", body=_RESERVE),
    VaultRoute("POST", "/internal/settle", INTERNAL, "settle", body=_SETTLE),
    VaultRoute(
        "POST",
        "/internal/release",
        INTERNAL,
        "release",
        body=Object({"reservation_id": Text(0, MAX_ID), "reason": Maybe(Text(0, MAX_REASON), "", nullable=True)}),
    ),
    # Ours
    VaultRoute(
        "POST",
        "/internal/extend",
        INTERNAL,
        "extend",
        body=Object({"reservation_id": Text(0, MAX_ID), "amount_msats": _AMOUNT}),
        ours=True,
    ),
    VaultRoute("GET", "/agents/{id}/tokens", ADMIN, "tokens", _AGENT, ours=True),
    VaultRoute("POST", "/agents/{id}/tokens", ADMIN, "issue_token", _AGENT, body=_TOKEN, needs_body=False, ours=True),
    VaultRoute(
        "DELETE",
        "/agents/{id}/tokens/{token_id}",
        ADMIN,
        "revoke_token",
        Object({"id": Text(prefix="ag_"), "token_id": Text(prefix="tk_")}),
        ours=True,
    ),
    VaultRoute(
        "POST",
        "/operator/agents/{id}/freeze",
        ADMIN,
        "freeze",
        _AGENT,
        body=_REASON,
        needs_body=False,
        ours=True,
    ),
    VaultRoute("POST", "/operator/agents/{id}/unfreeze", ADMIN, "unfreeze", _AGENT, ours=True),
    VaultRoute("POST", "/agents/{id}/budgets", AGENT, "mint_budget", _AGENT, body=_BUDGET, ours=True),
    VaultRoute(
        "GET",
        "/agents/{id}/budgets",
        AGENT,
        "budgets",
        _AGENT,
        query=Object({"status": Maybe(Choice(("active", "all")), "active"), **_PAGE}),
        ours=True,
    ),
    VaultRoute(
        "DELETE",
        "/agents/{id}/budgets/{budget_id}",
        AGENT,
        "revoke_budget",
        Object({"id": Text(prefix="ag_"), "budget_id": Text(prefix="bu_")}),
        ours=True,
    ),
    VaultRoute(
        "GET",
        "/operator/events",
        ADMIN,
        "events",
        query=Object({"state": Maybe(Choice(("dead", "pending", "delivered", "all")), "dead"), **_PAGE}),
        ours=True,
    ),
    VaultRoute("POST", "/operator/events/{id}/replay", ADMIN, "replay", Object({"id": Text(prefix="evt_")}), ours=True),
    VaultRoute(
        "GET",
        "/operator/audit",
        ADMIN,
        "audit",
        query=Object(
            {
                **_PAGE,
                "agent_id": Maybe(Text(prefix="ag_")),
                "action": Maybe(Text(1, MAX_NAME)),
                "start_date": _MS,
                "end_date": _MS,
            }
        ),
        ours=True,
    ),
)

_BY_METHOD: dict[tuple[str, int], list[VaultRoute]] = {}
for _route in VAULT_ROUTES:
    _BY_METHOD.setdefault((_route.method, len(_route.parts)), []).append(_route)

ROOTS: Final = frozenset(route.parts[0] for route in VAULT_ROUTES)
"""The first parts of all paths: what is below them is the vault's, whether or not there is a route."""


def is_vaults(path: str) -> bool:
    return path.split("/", 2)[1] in ROOTS if path.startswith("/") else False


def find_vault_route(method: str, path: str) -> tuple[VaultRoute, dict[str, str]] | None:
    """The route, and what stands in the places of its parameters."""
    parts = path.split("/")[1:]
    method = "GET" if method == "HEAD" else method
    for route in _BY_METHOD.get((method, len(parts)), ()):
        params = _match(route.parts, parts)
        if params is not None:
            return route, params
    return None


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    params = {}
    for expected, part in zip(pattern, parts, strict=True):
        if expected.startswith("{"):
            if len(part) > MAX_PARAM:
                return None
            params[expected[1:-1]] = part
        elif expected != part:
            return None
    return params
