"""Every fault, as the client, the provider's circuit, the books and the provider itself see it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from arbstr.store import Store
from tests.contract.upstream import Backend, Upstream
from tests.faults.rig import KEY, FrontEnd, Got, Market, play
from tests.faults.table import KNOWN, ROWS, Cell, End, Mode, Others, cells


def test_no_fault_of_the_scripted_provider_is_left_out() -> None:
    assert KNOWN - ROWS.keys() == set()


def test_every_fault_is_expected_of_where_it_is_played_and_nowhere_else() -> None:
    assert [row.name for row in ROWS.values() if row.listens and row.answers.keys() != row.expected.keys()] == []


@pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.id) for cell in cells()])
async def test_it_is_as_the_page_of_faults_says_when_a_provider_fails(
    cell: Cell, upstream: Upstream, front_end: FrontEnd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with play(cell, upstream, front_end, tmp_path) as (got, market, faulty):
        check_client(cell, got)
        await check_providers(cell, market, faulty)
        await check_books(cell, got, market)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


# What the client saw


def check_client(cell: Cell, got: Got) -> None:
    expected = cell.expected
    assert not got.cut, "an answer never breaks off below HTTP"
    assert got.status == expected.status, got
    assert got.headers["x-arbstr-request-id"]
    told = repr((got.headers, got.body))
    assert KEY not in told
    assert "127.0.0.1" not in told, "the client learns where a provider is"
    assert got.headers.get("retry-after") == expected.retry_after
    match expected.end:
        case End.ERROR_BODY:
            assert not got.is_stream
            assert reason_of(got.json) == expected.reason
        case End.COMPLETE if cell.mode is Mode.PLAIN:
            assert not got.is_stream
            texts = [choice["message"]["content"] for choice in got.json.get("choices", ())]
            assert texts == [expected.text] * bool(expected.text)
            assert got.headers["x-arbstr-cost-msat"] == str(expected.charged)
        case _:
            check_stream(cell, got)


def check_stream(cell: Cell, got: Got) -> None:
    expected = cell.expected
    assert got.is_stream
    *before, last = got.events
    if expected.end is End.COMPLETE:
        assert last == b"[DONE]"
    else:
        assert reason_of(json.loads(last)) == expected.reason
    chunks = [json.loads(one) for one in before if is_json(one)]
    assert len(before) - len(chunks) == expected.garbled
    # A client that has not asked for usage looks into the choices of every chunk.
    assert all(chunk["choices"] and "error" not in chunk for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected.text


def is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def reason_of(body: Any) -> str:
    """Ours, or the code of the provider whose words are passed on."""
    error = body["error"]
    reason: str = error.get("reason", error["code"])
    assert error["message"]
    return reason


# What the providers saw


async def check_providers(cell: Cell, market: Market, faulty: Backend) -> None:
    expected = cell.expected
    attempts = [
        f"{row['provider']} {row['error'] or row['outcome']}"
        for row in market.rows("SELECT provider, outcome, error FROM attempts ORDER BY position")
    ]
    assert attempts == [f"faulty {one}" for one in expected.tries] + ["healthy success"] * expected.rescued
    assert len(faulty.calls()) == len(expected.tries) * cell.row.listens
    view = await market.describe("faulty")
    why = "" if view.opened_by is None else f" ({view.opened_by.value})"
    assert (f"{view.breaker_state.value}{why}", view.failure_count) == (expected.breaker, expected.failures)
    for name in ("faulty", "healthy")[: 1 + (cell.others is Others.HEALTHY)]:
        view = await market.describe(name)
        assert (view.in_flight, view.expired_permits, view.unknown_reports) == (0, 0, 0), name
        assert market.fleet.upstream(name).in_flight == 0, name
        assert name == "faulty" or (view.breaker_state.value, view.failure_count) == ("closed", 0)


# What was billed


async def check_books(cell: Cell, got: Got, market: Market) -> None:
    expected = cell.expected
    report = Store.check(market.path)
    assert report.clean, report.problems
    assert report.open_holds == 0
    [receipt] = market.rows("SELECT * FROM receipts")
    [hold] = market.rows("SELECT * FROM holds")
    assert receipt["request_id"] == got.headers["x-arbstr-request-id"] == hold["key"]
    assert receipt["cost_msat"] == hold["charged_msat"] == report.spent_msat + report.debt_msat
    assert receipt["cost_msat"] == expected.charged, receipt
    assert bool(receipt["estimated"]) == expected.estimated
    assert hold["state"] == ("released" if expected.end is End.ERROR_BODY else "settled")
    outcome = {End.COMPLETE: "ok", End.ERROR_EVENT: "stream_incomplete", End.ERROR_BODY: "failed"}[expected.end]
    assert (receipt["outcome"], receipt["http_status"]) == (outcome, expected.status)
    assert receipt["provider"] == ("healthy" if expected.rescued else "faulty")
    # Whoever gets an answer, or some of one, pays for it to the one that it came from; for an error nobody pays.
    assert bool(receipt["cost_msat"]) == (expected.end is not End.ERROR_BODY)
