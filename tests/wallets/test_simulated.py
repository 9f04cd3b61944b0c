"""What the simulated wallet does with an order, by its script; every wallet must keep the first four."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.wallets import (
    Answer,
    Behaviour,
    PaymentOrder,
    SimulatedBook,
    SimulatedWallet,
    WalletError,
    WalletState,
)

ORDER = PaymentOrder("k", 1_000, 100, "to")
W = WalletState


def wallet(book: SimulatedBook | None = None, **behaviour: Any) -> SimulatedWallet:
    return SimulatedWallet(lambda _: Behaviour(**behaviour), book)


async def test_an_order_settles_at_once_when_no_script_says_otherwise() -> None:
    simulated = SimulatedWallet()
    before = await simulated.balance()
    result = await simulated.pay(ORDER)
    assert (result.state, result.fee_msat, len(result.payment_hash or "")) == (W.SUCCEEDED, 0, 64)
    assert await simulated.lookup("k") == result
    assert await simulated.balance() == before - 1_000


async def test_a_key_is_paid_once_when_it_is_asked_for_again() -> None:
    simulated = SimulatedWallet()
    first = await simulated.pay(ORDER)
    assert await simulated.pay(PaymentOrder("k", 5_000, 100, "elsewhere")) == first
    assert simulated.book.paid == ["k"]


async def test_the_oldest_orders_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.wallets._simulated.MAX_REMEMBERED", 3)
    simulated = SimulatedWallet()
    for number in range(20):
        await simulated.pay(evolve(ORDER, key=f"k{number}"))
        assert (await simulated.lookup(f"k{number}")).state is W.SUCCEEDED
    assert list(simulated.book.entries) == ["k17", "k18", "k19"]
    assert len(simulated.book.paid) <= 6
    assert simulated.book.paid[-1] == "k19"


async def test_a_key_is_never_paid_when_it_was_looked_up_before() -> None:
    simulated = SimulatedWallet()
    assert (await simulated.lookup("k")).state is W.FAILED
    assert (await simulated.pay(ORDER)).state is W.FAILED
    assert simulated.book.paid == []


@pytest.mark.parametrize("answer", list(Answer))
@pytest.mark.parametrize("outcome", list(W)[1:])
async def test_a_lookup_tells_the_truth_after_a_crash_when_the_book_was_kept(
    autojump_clock: Any, answer: Answer, outcome: WalletState
) -> None:
    book = SimulatedBook()
    first = wallet(book, outcome=outcome, after_s=5, answer=answer)
    with trio.move_on_after(1):
        try:
            await first.pay(ORDER)
        except WalletError:
            assert answer in (Answer.LOST, Answer.REFUSED)
    second = wallet(book)
    await trio.sleep(10)
    found = await second.lookup("k")
    assert found.state is (W.FAILED if answer is Answer.REFUSED else outcome)
    assert (found.state is W.SUCCEEDED) == (book.paid == ["k"])


async def test_an_order_goes_on_when_its_caller_is_cancelled(autojump_clock: Any) -> None:
    simulated = wallet(after_s=60)
    with trio.move_on_after(10):
        await simulated.pay(ORDER)
    assert (await simulated.lookup("k")).state is W.PENDING
    await trio.sleep(60)
    assert (await simulated.lookup("k")).state is W.SUCCEEDED


async def test_lookups_are_in_doubt_as_often_as_the_script_says() -> None:
    simulated = wallet(answer=Answer.SAYS_UNKNOWN, doubtful_lookups=2, fee_msat=7)
    assert (await simulated.pay(ORDER)).state is W.UNKNOWN
    assert [(await simulated.lookup("k")).state for _ in range(3)] == [W.UNKNOWN, W.UNKNOWN, W.SUCCEEDED]
    assert (await simulated.lookup("k")).fee_msat == 7


async def test_an_order_fails_when_the_wallet_is_empty() -> None:
    simulated = SimulatedWallet(book=SimulatedBook(balance_msat=999))
    result = await simulated.pay(ORDER)
    assert (result.state, result.error, await simulated.balance()) == (W.FAILED, "empty_wallet", 999)


async def test_each_invoice_is_another() -> None:
    simulated = SimulatedWallet()
    first, second = [await simulated.invoice(5, "memo", 60) for _ in range(2)]
    assert first.payment_hash != second.payment_hash
    assert (first.amount_msat, first.memo) == (5, "memo")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(list(Answer)[:4])), max_size=20))
def test_no_key_is_paid_twice_whatever_is_asked(calls: list[tuple[str, bool, Answer]]) -> None:
    async def run() -> None:
        book = SimulatedBook()
        for key, look, answer in calls:
            simulated = wallet(book, answer=answer)
            try:
                before = book.paid.count(key)
                result = await (simulated.lookup(key) if look else simulated.pay(PaymentOrder(key, 1)))
                if look:
                    assert book.paid.count(key) == before
                if result.state is W.FAILED:
                    assert key not in book.paid
            except WalletError:
                pass
        assert len(set(book.paid)) == len(book.paid)

    trio.run(run)
