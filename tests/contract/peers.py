"""Other services that a core speaks to, as scripts of an :class:`Upstream` backend: the vault and the market feed."""

from __future__ import annotations

from itertools import count
from typing import Any

from attrs import define, field

from tests.contract.upstream import Answer, Backend, Seen, json_answer

NO_ROUTE = {"message": "Route POST:/internal/extend not found", "error": "Not Found", "statusCode": 404}


@define(eq=False)
class FakeVault:
    """The internal API of the predecessor's vault (contract section 12; vault, section 19): grants everything, keeps
    account, and is as strict about settlements. It has no other routes.

    ``backend.on("/internal/reserve", error(402))`` and the like make it refuse. Its URL for a configuration is
    ``backend.url``, so make the backend with ``suffix=""``.
    """

    backend: Backend
    held: dict[str, int] = field(factory=dict)
    settled: dict[str, int] = field(factory=dict)
    released: dict[str, str] = field(factory=dict)
    _numbers: count[int] = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        self.script()

    def script(self) -> None:
        """Grant everything, from now on."""
        self.backend.on("/internal/extend", json_answer(NO_ROUTE, status=404))
        self.backend.on("/internal/reserve", self._reserve)
        self.backend.on("/internal/settle", self._settle)
        self.backend.on("/internal/release", self._release)

    def reserves(self) -> list[Seen]:
        return self.backend.calls("/internal/reserve")

    def settles(self) -> list[Seen]:
        return self.backend.calls("/internal/settle")

    def releases(self) -> list[Seen]:
        return self.backend.calls("/internal/release")

    def _reserve(self, seen: Seen) -> Answer:
        reservation = f"res-{next(self._numbers)}"
        self.held[reservation] = seen.json["amount_msats"]
        return json_answer({"reservation_id": reservation})

    def _settle(self, seen: Seen) -> Answer:
        body = seen.json
        counts = all(isinstance(body.get(name), int) for name in ("tokens_in", "tokens_out", "latency_ms"))
        if not counts or not isinstance(body.get("provider"), str) or body["actual_msats"] <= 0:
            return json_answer({"statusCode": 400, "code": "FST_ERR_VALIDATION", "message": "x"}, status=400)
        reservation, amount = body["reservation_id"], body["actual_msats"]
        self.settled[reservation] = amount
        return json_answer({"settled": True, "refunded_msats": self.held.pop(reservation, 0) - amount})

    def _release(self, seen: Seen) -> Answer:
        reservation = seen.json["reservation_id"]
        self.released[reservation] = seen.json["reason"]
        return json_answer({"released": True, "refunded_msats": self.held.pop(reservation, 0)})


@define(eq=False)
class FakeFeed:
    """A price feed (contract section 16.1). Make its backend with ``suffix=""``; change the lists at any time."""

    backend: Backend
    quotes: list[dict[str, Any]] = field(factory=list)
    nodes: list[dict[str, Any]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.backend.on("/health", lambda _: json_answer({"ok": True, "quotes": len(self.quotes)}))
        self.backend.on("/api/quotes", lambda _: json_answer(self.quotes))
        self.backend.on("/api/nodes", lambda _: json_answer(self.nodes))


def quote(
    model: str,
    price_in: float | None,
    price_out: float | None,
    *,
    endpoint: str | None,
    source: str = "market",
    provider: str = "Some Node",
    provider_id: str = "node-1",
    observed_at: str | None = None,
) -> dict[str, Any]:
    """One quote; prices in sats per 1,000,000 tokens, ``observed_at`` RFC 3339."""
    return {
        "source": source,
        "provider": provider,
        "provider_id": provider_id,
        "model": model,
        "price_in_sats": price_in,
        "price_out_sats": price_out,
        "endpoint": endpoint,
        "observed_at": observed_at,
    }
