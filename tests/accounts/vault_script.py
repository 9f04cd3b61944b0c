"""A vault as an httpx transport: ours or the predecessor's, with the faults of a network in between."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import httpx
import trio
from attrs import define, field

from arbstr.secrets import Secret

INTERNAL = "an-internal-token-of-32-characters-or-more"
TOKEN = "vtk_agent"
AGENT = "ag_one"

Fault = str | tuple[int, dict[str, Any]]
"""``refuse``: nobody listens. ``lose``: reset before anything is done. ``forget``: done, and the answer is lost.
``hang``: done, and no answer ever comes. A status and a body: answered so, and not done."""


@define
class Hold:
    id: str
    amount: int
    state: str = "open"
    charged: int = 0
    extended: int = 0


@define(eq=False)
class VaultScript(httpx.AsyncBaseTransport):
    """One agent with ``available`` msat. ``ours`` False: strict about flat figures, knows no key, cannot extend."""

    ours: bool = True
    available: int = 1_000_000
    holds: dict[str, Hold] = field(factory=dict)
    by_key: dict[str, str] = field(factory=dict)
    faults: dict[str, deque[Fault]] = field(factory=dict)
    down: bool = False
    calls: list[tuple[float, str, dict[str, Any]]] = field(factory=list)
    lease_s: float = 3_600.0

    def fail(self, path: str, *faults: Fault) -> None:
        self.faults.setdefault(path, deque()).extend(faults)

    def sent(self, path: str) -> list[dict[str, Any]]:
        return [body for _, called, body in self.calls if called == path]

    def times(self, path: str) -> list[float]:
        return [round(at, 3) for at, called, _ in self.calls if called == path]

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values() if hold.state == "open")

    @property
    def charged(self) -> int:
        return sum(hold.charged for hold in self.holds.values())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        path = request.url.path.removeprefix("/internal/")
        body = json.loads(request.content)
        self.calls.append((trio.current_time(), path, body))
        fault = self.faults[path].popleft() if self.faults.get(path) else None
        if self.down or fault == "refuse":
            raise httpx.ConnectError("nobody listens on http://user:password@vault")
        if fault == "lose":
            raise httpx.ReadError("reset")
        if isinstance(fault, tuple):
            return _answer(*fault)
        if request.headers["x-internal-token"] != INTERNAL:
            return _answer(401, _error("unauthorized", "Invalid internal token"))
        answer = self._do(path, body)
        if fault == "forget":
            raise httpx.ReadError("reset")
        if fault == "hang":
            await trio.sleep_forever()
        return answer

    def _do(self, path: str, body: dict[str, Any]) -> httpx.Response:
        pages: dict[str, Callable[[dict[str, Any]], httpx.Response]] = {
            "reserve": self._reserve,
            "settle": self._settle,
            "release": self._release,
        }
        if path == "extend" and self.ours:
            return self._extend(body)
        if path not in pages:
            words = f"Route POST:/internal/{path} not found"
            return _answer(404, {"message": words, "error": "Not Found", "statusCode": 404})
        return pages[path](body)

    def _reserve(self, body: dict[str, Any]) -> httpx.Response:
        assert set(body) == {"agent_token", "amount_msats", "correlation_id", "model"}
        amount, key = body["amount_msats"], body["correlation_id"]
        if amount <= 0:
            return _invalid("amount_msats")
        if body["agent_token"] != TOKEN:
            return _answer(401, _error("unauthorized", "Invalid agent token"))
        if self.ours and key in self.by_key:
            hold = self.holds[self.by_key[key]]
            return self._granted(hold) if hold.state == "open" else _answer(409, _error("conflict", "x", "key_used"))
        if amount > self.available:
            short = _error("insufficient_balance", "Insufficient balance for reservation")
            return _answer(402, {**short, "current_balance_msats": self.available, "requested_msats": amount})
        hold = Hold(f"tx_{len(self.holds) + 1}", amount)
        self.holds[hold.id] = hold
        self.by_key[key] = hold.id
        self.available -= amount
        return self._granted(hold)

    def _granted(self, hold: Hold) -> httpx.Response:
        more = {"agent_id": AGENT, "lease_s": self.lease_s} if self.ours else {}
        return _answer(200, {"reservation_id": hold.id, "remaining_balance_msats": self.available, **more})

    def _extend(self, body: dict[str, Any]) -> httpx.Response:
        if "reservation_id" not in body:
            return _invalid("reservation_id")
        hold = self.holds[body["reservation_id"]]
        more = max(0, body["amount_msats"] - hold.amount)
        if more > self.available:
            short = _error("insufficient_balance", "Insufficient balance for reservation")
            return _answer(402, {**short, "current_balance_msats": self.available, "requested_msats": more})
        hold.amount += more
        hold.extended += 1
        self.available -= more
        answer = {"reservation_id": hold.id, "remaining_balance_msats": self.available, "amount_msats": hold.amount}
        return _answer(200, answer)

    def _settle(self, body: dict[str, Any]) -> httpx.Response:
        figures = {"actual_msats": int, "tokens_in": int, "tokens_out": int, "latency_ms": int, "provider": str}
        if any(not isinstance(body.get(name), kind) for name, kind in figures.items()) or body["actual_msats"] <= 0:
            return _invalid("tokens_in")
        return self._end(body["reservation_id"], "settled", body["actual_msats"])

    def _release(self, body: dict[str, Any]) -> httpx.Response:
        return self._end(body["reservation_id"], "released", 0)

    def _end(self, reservation_id: str, state: str, charge: int) -> httpx.Response:
        hold = self.holds.get(reservation_id)
        if hold is None:
            return _answer(404, _error("not_found", "Reservation not found"))
        if hold.state == "open":
            hold.state, hold.charged = state, charge
            self.available += hold.amount - charge
        elif (hold.state, hold.charged) != (state, charge):
            return _answer(409, _error("conflict", "x", f"already_{hold.state}"))
        done = {"settled": True, "refunded_msats": 0, "actual_msats": charge} if charge else {"released": True}
        return _answer(200, {**done, "remaining_balance_msats": self.available})


def _answer(status: int, body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(status, json=body)


def _error(code: str, message: str, reason: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **({"reason": reason} if reason else {})}}


def _invalid(name: str) -> httpx.Response:
    words = f"body/{name} Invalid input"
    return _answer(400, {"statusCode": 400, "code": "FST_ERR_VALIDATION", "error": "Bad Request", "message": words})


SECRET = Secret(INTERNAL)
