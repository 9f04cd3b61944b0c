"""The fake vault and the fake feed: they speak as the papers say."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.contract.client import Answer, send
from tests.contract.peers import FakeFeed, FakeVault, quote
from tests.contract.upstream import Upstream, error


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def post(url: str, path: str, body: object) -> Answer:
    address, _, name = url.rpartition("/")
    return send(address, "POST", f"/{name}{path}", body=json.dumps(body).encode())


def test_vault_returns_what_is_left_of_a_reservation(upstream: Upstream) -> None:
    vault = FakeVault(upstream.backend("vault", suffix=""))
    reserve = {"agent_token": "vtk_1", "amount_msats": 500, "correlation_id": "c-1", "model": "gpt-4o"}
    figures = {"actual_msats": 110, "tokens_in": 1, "tokens_out": 2, "provider": "p", "latency_ms": 3}
    first = post(vault.backend.url, "/internal/reserve", reserve).json["reservation_id"]
    second = post(vault.backend.url, "/internal/reserve", reserve).json["reservation_id"]
    settled = post(vault.backend.url, "/internal/settle", {"reservation_id": first, **figures}).json
    released = post(vault.backend.url, "/internal/release", {"reservation_id": second, "reason": "timeout"}).json
    assert settled == {"settled": True, "refunded_msats": 390}
    assert released["refunded_msats"] == 500
    assert (vault.held, vault.settled, vault.released) == ({}, {first: 110}, {second: "timeout"})
    assert [seen.json["amount_msats"] for seen in vault.reserves()] == [500, 500]
    assert (len(vault.settles()), len(vault.releases())) == (1, 1)


def test_vault_takes_no_settlement_whose_figures_are_not_beside_it(upstream: Upstream) -> None:
    vault = FakeVault(upstream.backend("strict-vault", suffix=""))
    nested = {"tokens_in": 1, "tokens_out": 2, "provider": "p", "latency_ms": 3}
    body = {"reservation_id": "res-1", "actual_msats": 110, "metadata": nested}
    assert post(vault.backend.url, "/internal/settle", body).status == 400
    assert vault.settled == {}


def test_vault_refuses_when_it_is_told_to(upstream: Upstream) -> None:
    vault = FakeVault(upstream.backend("poor-vault", suffix=""))
    vault.backend.on("/internal/reserve", error(402))
    assert post(vault.backend.url, "/internal/reserve", {"amount_msats": 1}).status == 402
    assert vault.held == {}


def test_feed_tells_what_its_lists_hold_now(upstream: Upstream) -> None:
    feed = FakeFeed(upstream.backend("feed", suffix=""))
    feed.quotes.append(quote("m", 1000, None, endpoint="https://node.example/v1"))
    feed.nodes.append({"provider_id": "node-1", "reliability": 0.9})
    health, quotes, nodes = (
        send(upstream.address, "GET", f"/feed{path}").json
        for path in ("/health", "/api/quotes?limit=2000", "/api/nodes")
    )
    assert health == {"ok": True, "quotes": 1}
    assert (quotes[0]["model"], quotes[0]["price_in_sats"], quotes[0]["price_out_sats"]) == ("m", 1000, None)
    assert nodes == feed.nodes
    assert feed.backend.calls("/api/quotes")[0].query == "limit=2000"
