"""The vault over HTTP: agents, deposits, policies, approvals, payments, internal billing (contract: vault, 3 to 6).

Each request: route, who it is, body, shapes, one call, one rendering. Its errors come in the contract's two families:
``{"error": {code, message}}`` from us, ``{statusCode, code, error, message}`` from parsing and validation.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from attrs import frozen

from arbstr import wire
from arbstr.accounts import Holder
from arbstr.edge import _vault_bodies as bodies
from arbstr.edge._exchange import Exchange, Message, error_headers
from arbstr.edge._gate import Gate, Visit
from arbstr.edge._services import Limits, Services
from arbstr.edge._vault_interface import BudgetWish, PayWish, PolicyWish, Resolved, Usage, VaultServices
from arbstr.edge._vault_routes import (
    MERGE_PATCH,
    POLICY_FIELDS,
    USAGE_FIELDS,
    Auth,
    VaultRoute,
    find_vault_route,
    is_vaults,
)
from arbstr.edge._vault_schema import Invalid, read_part
from arbstr.errors import (
    ArbstrError,
    BillingRefused,
    BodyTooLarge,
    DeadlineExceeded,
    LedgerUnavailable,
    NotFound,
    RequestTimeout,
    ShuttingDown,
)
from arbstr.requests import Caller, PlainAnswer
from arbstr.store import (
    Connection,
    HistoryFilter,
    ReadTimedOut,
    StoreError,
    find_agent,
    find_payment,
    find_reservation,
    latest_policy,
    list_agents,
    list_approvals,
    list_audit,
    list_budgets,
    list_events,
    list_tokens,
    read_balance,
    read_dashboard,
    read_history,
)

logger = logging.getLogger("arbstr.edge")

T = TypeVar("T")

MAX_BODY_BYTES: Final = 1_048_576
MIN_ADMIN_TOKEN: Final = 32
MAX_LIST: Final = 1_000
MAX_URL_TOLD: Final = 2_000
MAX_PARAMETERS: Final = 100
MAX_WAIT_S: Final = 300
KEYED: Final = frozenset(("deposit", "pay", "withdraw"))
"""Pages that know an ``Idempotency-Key``; the others do not look at it."""
DECISIONS: Final = frozenset(("approve", "deny"))
"""Pages that ignored whatever they were sent, with the predecessor: what is no object is still ignored."""
SHARED: Final = frozenset(("/ready", "/openapi.json", "/metrics"))
"""What a server that is nothing but a vault has of the rest."""

JSON_TYPE: Final = (b"content-type", b"application/json; charset=utf-8")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_ADMIN = Caller(None, "admin", "admin")


@frozen
class _Refused(Exception):
    status: int
    body: Mapping[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()


@frozen
class Asked:
    """One request that has been let in, with its parts read by the route's shapes."""

    params: Mapping[str, Any]
    body: Mapping[str, Any]
    query: Mapping[str, Any]
    key: str | None
    """The caller's ``Idempotency-Key``."""
    wait_s: float | None
    """``Prefer: wait=N`` (RFC 7240)."""
    named: frozenset[str] | None
    """The members of a merge patch; None: it was none."""

    @property
    def id(self) -> str:
        """Of the agent, approval or event that the path names."""
        return str(self.params["id"])


Page = Callable[[Asked], Awaitable[tuple[int, bodies.Body]]]


class VaultPages:
    """The routes over one vault."""

    def __init__(self, vault: VaultServices, services: Services, gate: Gate, limits: Limits) -> None:
        self._vault = vault
        self._services = services
        self._gate = gate
        self._limits = limits
        self._pages: Final[dict[str, Page]] = {
            "register": self._register,
            "agents": self._agents,
            "agent": self._agent,
            "set_policy": self._set_policy,
            "set_limits": self._set_limits,
            "deposit": self._deposit,
            "approvals": self._approvals,
            "approve": self._approve,
            "deny": self._deny,
            "dashboard": self._dashboard,
            "balance": self._balance,
            "history": self._history,
            "pay": self._pay,
            "payment": self._payment,
            "withdraw": self._withdraw,
            "reserve": self._reserve,
            "settle": self._settle,
            "release": self._release,
            "extend": self._extend,
            "tokens": self._tokens,
            "issue_token": self._issue_token,
            "revoke_token": self._revoke_token,
            "freeze": self._freeze,
            "unfreeze": self._unfreeze,
            "mint_budget": self._mint_budget,
            "budgets": self._budgets,
            "revoke_budget": self._revoke_budget,
            "events": self._events,
            "replay": self._replay,
            "audit": self._audit,
        }

    def owns(self, path: str) -> bool:
        """Whether what is asked for there is the vault's, be it there or not."""
        return is_vaults(path) or (self._services.vault_alone and path not in SHARED)

    async def answer(self, scope: Message, exchange: Exchange, visit: Visit) -> PlainAnswer:
        """Raises ``ClientGone``, and what nobody expects."""
        try:
            return _json(*await self._answer(scope, exchange, visit))
        except _Refused as refused:
            return _json(refused.status, refused.body, refused.headers)
        except Invalid as invalid:
            return _json(400, bodies.framework_error(400, "FST_ERR_VALIDATION", invalid.message))
        except ArbstrError as error:
            return _json(error.status, _error_body(error), _headers_of(error))

    async def _answer(self, scope: Message, exchange: Exchange, visit: Visit) -> tuple[int, bodies.Body]:
        path, method = scope["path"], scope["method"]
        if self._services.vault_alone and path == "/health" and method in ("GET", "HEAD"):
            return 200, {"status": "ok", "timestamp": bodies.iso(self._vault.now_ns())}
        self._gate.admit(visit, self._services.config.max_requests)
        found = find_vault_route(method, path)
        if found is None or not self._exists(found[0].auth):
            query = scope["query_string"].decode("latin-1")
            raise _Refused(404, bodies.no_route(method, f"{path}?{query}"[:MAX_URL_TOLD] if query else path))
        route, params = found
        try:
            self._let_in(route, params, exchange)
        except _Refused as refused:
            if refused.status == HTTPStatus.UNAUTHORIZED:  # whoever guesses is counted by where it comes from
                peer = (scope.get("client") or ("",))[0]
                exchange.limit_headers = self._services.touch(Caller(None, "anonymous", "anonymous", f"peer {peer}"))
            raise
        with visit.scope:
            asked = await self._read(route, params, scope["query_string"], exchange, visit)
            return await self._pages[route.page](asked)
        raise ShuttingDown("the server is shutting down and this request took too long", retry_after_s=1)

    # Who it is

    def _exists(self, auth: Auth) -> bool:
        """Routes that nobody could use are not there."""
        if auth is Auth.ADMIN:
            token = self._vault.admin_token
            return token is not None and len(token.reveal()) >= MIN_ADMIN_TOKEN
        return auth is not Auth.INTERNAL or self._vault.internal_token is not None

    def _let_in(self, route: VaultRoute, params: Mapping[str, str], exchange: Exchange) -> None:
        """Contract section 3.2. Raises ``_Refused`` (401, 403), RateLimited."""
        if route.auth is Auth.INTERNAL:
            given = exchange.headers.get(b"x-internal-token")
            token = self._vault.internal_token
            if given is None or token is None or not token.matches(given.decode("latin-1")):
                raise _unauthorized("Invalid internal token")
            return
        bearer = _bearer(exchange.headers.authorization)
        if route.auth is Auth.ADMIN:
            admin = self._vault.admin_token
            if bearer is None or admin is None or not admin.matches(bearer):
                raise _unauthorized("Invalid admin token")
            exchange.limit_headers = self._services.touch(_ADMIN)
            return
        holder = self._agent_of(bearer)
        exchange.limit_headers = self._services.touch(Caller(holder.agent_id, "agent", holder.name))
        if params["id"] != holder.agent_id:
            raise _Refused(403, bodies.application_error("forbidden", "Cannot access another agent's resources"))
        if holder.budget_id is not None:
            raise _Refused(403, bodies.application_error("forbidden", "A budget's token can only buy requests"))

    def _agent_of(self, bearer: str | None) -> Holder:
        holder = None
        if bearer is not None and bearer.startswith("vtk_"):
            holder = self._vault.holder_of(bearer)
        if holder is None:
            raise _unauthorized("Invalid agent token")
        return holder

    # What was sent

    async def _read(
        self, route: VaultRoute, params: Mapping[str, str], raw_query: bytes, exchange: Exchange, visit: Visit
    ) -> Asked:
        """Body, then shapes of params, body and query string; the first part that is wrong is told."""
        sent, merge = None, False
        if route.method != "GET":
            sent, merge = await self._read_body(route, exchange, visit)
        read_params = read_part("params", route.params, dict(params))
        body: Mapping[str, Any] = {}
        if route.body is not None:
            if not route.needs_body and (sent is None or (route.page in DECISIONS and not isinstance(sent, dict))):
                sent = {}
            shape = route.merge if merge and route.merge is not None else route.body
            body = read_part("body", shape, _flattened(sent) if route.page == "settle" else sent)
        query = read_part("querystring", route.query, _query(raw_query)) if route.query.fields else {}
        return Asked(
            read_params,
            body,
            query,
            _idempotency_key(exchange) if route.page in KEYED else None,
            _wait_s(exchange),
            frozenset(sent) if merge and isinstance(sent, dict) else None,
        )

    async def _read_body(self, route: VaultRoute, exchange: Exchange, visit: Visit) -> tuple[object, bool]:
        """The value, and whether it is a merge patch; None when there is neither a body nor a type of one."""
        header = exchange.headers.get(b"content-type")
        if header is None and not exchange.headers.has_body:
            return None, False
        media_type = b"" if header is None else header.partition(b";")[0].strip().lower()
        merge = route.merge is not None and media_type == MERGE_PATCH.encode()
        if media_type not in (b"application/json", b"text/plain") and not merge:
            raise _framework(415, "FST_ERR_CTP_INVALID_MEDIA_TYPE", "Unsupported Media Type")
        config = self._services.config
        total = max(self._limits.body_bytes, config.max_body_bytes)
        take_in = partial(self._gate.take_in, visit, limit=total)
        try:
            body = await exchange.read_body(min(MAX_BODY_BYTES, config.max_body_bytes), config.body_timeout_s, take_in)
        except BodyTooLarge:
            raise _framework(413, "FST_ERR_CTP_BODY_TOO_LARGE", "Request body is too large") from None
        except RequestTimeout as error:
            raise _framework(408, "request_timeout", error.message) from None
        if media_type == b"text/plain":
            return body.decode("utf-8", "replace"), False
        return _parse_json(body), merge

    async def _query(self, function: Callable[[Connection], T]) -> T:
        try:
            return await self._vault.read(function)
        except ReadTimedOut as error:
            raise DeadlineExceeded("the query took too long; ask for a shorter time") from error
        except StoreError as error:
            logger.error("the vault's books cannot be read: %s", error)
            raise LedgerUnavailable("the books cannot be read at present", retry_after_s=1) from error

    # Agents

    async def _register(self, asked: Asked) -> tuple[int, bodies.Body]:
        made = await self._vault.register(asked.body["name"], asked.body["metadata"])
        return 201, bodies.registered(made)

    async def _agents(self, asked: Asked) -> tuple[int, bodies.Body]:
        query = asked.query
        page = await self._query(lambda db: list_agents(db, after=query["cursor"], limit=query["limit"]))
        return 200, bodies.agents(page)

    async def _agent(self, asked: Asked) -> tuple[int, bodies.Body]:
        agent, policy = await self._query(lambda db: (find_agent(db, asked.id), latest_policy(db, asked.id)))
        if agent is None:
            raise NotFound("Agent not found")
        return 200, bodies.agent(agent, policy)

    async def _set_policy(self, asked: Asked) -> tuple[int, bodies.Body]:
        """Everything is replaced; of a merge patch what it names."""
        keep = frozenset() if asked.named is None else frozenset(POLICY_FIELDS) - asked.named
        return 200, bodies.policy(await self._vault.set_policy(asked.id, PolicyWish(**asked.body, keep=keep)))

    async def _set_limits(self, asked: Asked) -> tuple[int, bodies.Body]:
        """What this route does not speak of stays as it is."""
        wish = PolicyWish(**asked.body, keep=frozenset(POLICY_FIELDS) - set(asked.body))
        return 200, bodies.legacy_policy(await self._vault.set_policy(asked.id, wish))

    async def _deposit(self, asked: Asked) -> tuple[int, bodies.Body]:
        amount_msat = asked.body["amount_msat"]
        made = await self._vault.deposit(asked.id, amount_msat, asked.key)
        return 200, bodies.deposited(asked.id, amount_msat, made)

    async def _freeze(self, asked: Asked) -> tuple[int, bodies.Body]:
        return 200, bodies.frozen(asked.id, await self._vault.freeze(asked.id, asked.body["reason"]))

    async def _unfreeze(self, asked: Asked) -> tuple[int, bodies.Body]:
        await self._vault.unfreeze(asked.id)
        return 200, bodies.frozen(asked.id, None)

    async def _tokens(self, asked: Asked) -> tuple[int, bodies.Body]:
        agent, rows = await self._query(lambda db: (find_agent(db, asked.id), list_tokens(db, asked.id)))
        if agent is None:
            raise NotFound("Agent not found")
        return 200, {"tokens": [bodies.token(row) for row in rows]}

    async def _issue_token(self, asked: Asked) -> tuple[int, bodies.Body]:
        body = asked.body
        if body["replaces"] is not None:
            return 201, bodies.issued(await self._vault.rotate_token(asked.id, body["replaces"], body["grace_s"]))
        return 201, bodies.issued(await self._vault.issue_token(asked.id, body["name"], body["expires_in_s"]))

    async def _revoke_token(self, asked: Asked) -> tuple[int, bodies.Body]:
        return 200, bodies.token(await self._vault.revoke_token(asked.id, asked.params["token_id"]))

    # The operator's overview

    async def _dashboard(self, asked: Asked) -> tuple[int, bodies.Body]:
        now_ns = self._vault.now_ns()
        found = await self._query(lambda db: read_dashboard(db, now_ns))
        return 200, bodies.dashboard(found, asked.query["sort_by"], descending=asked.query["sort_order"] == "desc")

    async def _approvals(self, asked: Asked) -> tuple[int, bodies.Body]:
        query = asked.query
        paged = query["cursor"] is not None or query["limit"] is not None
        page = await self._query(
            lambda db: list_approvals(
                db,
                pending_only=query["status"] == "pending",
                after=query["cursor"] or "",
                limit=query["limit"] or MAX_LIST,
            )
        )
        return 200, bodies.approvals(page, paged=paged)

    async def _approve(self, asked: Asked) -> tuple[int, bodies.Body]:
        decision = self._vault.approve(asked.id, asked.body["by"], asked.body["reason"])
        return 200, bodies.resolved(await _once(decision), granted=True)

    async def _deny(self, asked: Asked) -> tuple[int, bodies.Body]:
        decision = self._vault.deny(asked.id, asked.body["by"], asked.body["reason"])
        return 200, bodies.resolved(await _once(decision), granted=False)

    async def _events(self, asked: Asked) -> tuple[int, bodies.Body]:
        query = asked.query
        page = await self._query(
            lambda db: list_events(db, query["state"], after=query["cursor"], limit=query["limit"])
        )
        return 200, bodies.events(page)

    async def _replay(self, asked: Asked) -> tuple[int, bodies.Body]:
        return 200, bodies.event(await self._vault.replay(asked.id))

    async def _audit(self, asked: Asked) -> tuple[int, bodies.Body]:
        query = asked.query
        actions = () if query["action"] is None else (query["action"],)
        wanted = _history_filter(query, actions)
        page = await self._query(lambda db: list_audit(db, wanted, agent_id=query["agent_id"], limit=query["limit"]))
        return 200, bodies.audit(page)

    # By an agent

    async def _balance(self, asked: Asked) -> tuple[int, bodies.Body]:
        found = await self._query(lambda db: read_balance(db, asked.id))
        if found is None:
            raise NotFound("Agent not found")
        return 200, bodies.balance(asked.id, found)

    async def _history(self, asked: Asked) -> tuple[int, bodies.Body]:
        query = asked.query
        action = query["action_type"]
        wanted = _history_filter(query, () if action is None else bodies.recorded_as(action))
        page = await self._query(lambda db: read_history(db, asked.id, wanted, limit=query["limit"]))
        return 200, bodies.history(page)

    async def _pay(self, asked: Asked) -> tuple[int, bodies.Body]:
        return 200, bodies.paid(await self._vault.pay(asked.id, PayWish(**asked.body), asked.key, asked.wait_s))

    async def _payment(self, asked: Asked) -> tuple[int, bodies.Body]:
        transaction_id = asked.params["tx_id"]

        def find(db: Connection) -> bodies.Body | None:
            row = find_payment(db, asked.id, transaction_id)
            if row is not None:
                return bodies.payment(row)
            hold = find_reservation(db, asked.id, transaction_id)
            return None if hold is None else bodies.reservation(hold, transaction_id)

        found = await self._query(find)
        if found is None:
            raise NotFound(f"Payment {transaction_id} not found")
        return 200, found

    async def _withdraw(self, asked: Asked) -> tuple[int, bodies.Body]:
        body = asked.body
        try:
            row = await self._vault.withdraw(asked.id, body["amount_msat"], body["destination"], asked.key)
        except BillingRefused as error:
            if error.status not in (400, 402, 403):
                raise
            message = f"Withdrawal denied: {error.reason}"
            raise _Refused(400, bodies.application_error(error.reason, message)) from None
        return 200, bodies.withdrawal(row)

    async def _mint_budget(self, asked: Asked) -> tuple[int, bodies.Body]:
        return 201, bodies.minted(await self._vault.mint_budget(asked.id, BudgetWish(**asked.body)))

    async def _budgets(self, asked: Asked) -> tuple[int, bodies.Body]:
        query = asked.query
        live_at_ns = self._vault.now_ns() if query["status"] == "active" else None
        page = await self._query(
            lambda db: list_budgets(db, asked.id, live_at_ns=live_at_ns, after=query["cursor"], limit=query["limit"])
        )
        return 200, bodies.budgets(page)

    async def _revoke_budget(self, asked: Asked) -> tuple[int, bodies.Body]:
        return 200, bodies.budget(await self._vault.revoke_budget(asked.id, asked.params["budget_id"]))

    # Internal billing

    async def _reserve(self, asked: Asked) -> tuple[int, bodies.Body]:
        body = asked.body
        amount_msat = body["amount_msats"]
        if self._vault.holder_of(body["agent_token"]) is None:
            raise _unauthorized("Invalid agent token")
        try:
            made = await self._vault.reserve(body["agent_token"], amount_msat, body["correlation_id"], body["model"])
        except BillingRefused as error:
            raise _refused(error, amount_msat) from None
        return 200, bodies.reserved(made)

    async def _extend(self, asked: Asked) -> tuple[int, bodies.Body]:
        amount_msat = asked.body["amount_msats"]
        try:
            made = await self._vault.extend(asked.body["reservation_id"], amount_msat)
        except BillingRefused as error:
            raise _refused(error, amount_msat) from None
        return 200, bodies.extended(made)

    async def _settle(self, asked: Asked) -> tuple[int, bodies.Body]:
        body = asked.body
        usage = Usage(**{name: body[name] for name in USAGE_FIELDS})
        return 200, bodies.settled(await self._vault.settle(body["reservation_id"], body["actual_msats"], usage))

    async def _release(self, asked: Asked) -> tuple[int, bodies.Body]:
        await self._vault.release(asked.body["reservation_id"], asked.body["reason"] or "")
        return 200, {"released": True}


# Rendering


def _json(status: int, body: Mapping[str, Any], headers: Any = ()) -> PlainAnswer:
    return PlainAnswer(status, (JSON_TYPE, *headers), wire.dumps(body))


def _framework(status: int, code: str, message: str) -> _Refused:
    return _Refused(status, bodies.framework_error(status, code, message))


def _unauthorized(message: str) -> _Refused:
    return _Refused(401, bodies.application_error("unauthorized", message))


_CODES: Final = {401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict"}


def _error_body(error: ArbstrError) -> bodies.Body:
    reason = error.reason if isinstance(error, BillingRefused) and error.status != 404 else None
    return bodies.application_error(_CODES.get(error.status, error.reason), error.message, reason=reason)


def _headers_of(error: ArbstrError) -> tuple[tuple[bytes, bytes], ...]:
    """``retry-after`` and the limits; the type is ours."""
    return tuple([header for header in error_headers(error) if header[0] != JSON_TYPE[0]])


def _refused(error: BillingRefused, requested_msat: int) -> _Refused:
    return _Refused(error.status, _refusal(error, requested_msat), _headers_of(error))


def _refusal(error: BillingRefused, requested_msat: int) -> bodies.Body:
    """Of a reservation: the predecessor's words, with our ``reason`` within ``error``."""
    if error.status == HTTPStatus.PAYMENT_REQUIRED:
        debt_msat = int(error.details.get("debt_msat", 0))
        return bodies.application_error(
            "insufficient_balance",
            "Insufficient balance for reservation",
            reason=error.reason,
            current_balance_msats=int(error.details.get("available_msat", 0)),
            requested_msats=requested_msat,
            **({"debt_msats": debt_msat} if debt_msat else {}),
        )
    if error.status == HTTPStatus.FORBIDDEN:
        return bodies.application_error("policy_denied", f"Policy denied: {error.reason}", reason=error.reason)
    return _error_body(error)


async def _once(decision: Awaitable[Resolved]) -> Resolved:
    """A conflict is told in the contract's words."""
    try:
        return await decision
    except BillingRefused as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        raise _Refused(409, bodies.application_error("conflict", "Approval already resolved")) from None


# Reading


def _bearer(authorization: str | None) -> str | None:
    """What follows ``Bearer ``, exactly so."""
    if authorization is None or not authorization.startswith("Bearer "):
        return None
    return authorization.removeprefix("Bearer ")


def _parse_json(body: bytes) -> object:
    if not body:
        message = "Body cannot be empty when content-type is set to 'application/json'"
        raise _framework(400, "FST_ERR_CTP_EMPTY_JSON_BODY", message)
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_plain_object, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        message = "Body is not valid JSON but content-type is set to 'application/json'"
        raise _framework(400, "FST_ERR_CTP_INVALID_JSON_BODY", message) from None


def _plain_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if "__proto__" in found:
        raise ValueError("__proto__ is no name of a member")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _flattened(sent: object) -> object:
    """A settlement's figures may stand under ``metadata``; those beside it win (contract section 19)."""
    if not isinstance(sent, dict) or not isinstance(sent.get("metadata"), dict):
        return sent
    nested = sent["metadata"]
    return {**{name: nested[name] for name in USAGE_FIELDS if name in nested}, **sent}


def _query(raw: bytes) -> dict[str, object]:
    """Parameters by name; what is repeated is a list."""
    try:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise Invalid(f"querystring/ Too big: expected object to have <={MAX_PARAMETERS} entries") from None
    found: dict[str, object] = {}
    for name, value in pairs:
        known = found.get(name)
        found[name] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
    return found


def _history_filter(query: Mapping[str, Any], actions: tuple[str, ...]) -> HistoryFilter:
    """Bounds in ms, inclusive; 0 is none."""
    wanted = HistoryFilter(
        after_sequence=bodies.sequence_of(query["cursor"]),
        since_ns=query["start_date"] * bodies.NS_PER_MS,
        actions=actions,
    )
    if query["end_date"]:
        end_ns = (query["end_date"] + 1) * bodies.NS_PER_MS - 1
        return HistoryFilter(wanted.after_sequence, wanted.since_ns, end_ns, actions)
    return wanted


def _idempotency_key(exchange: Exchange) -> str | None:
    given = exchange.headers.get(b"idempotency-key")
    if given is None:
        return None
    key = given.decode("latin-1")
    if not _KEY.fullmatch(key):
        raise Invalid("headers/idempotency-key Invalid string: must be 1 to 200 visible ASCII characters")
    return key


def _wait_s(exchange: Exchange) -> float | None:
    wanted = exchange.headers.wait_s
    return None if wanted is None else float(min(wanted, MAX_WAIT_S))
