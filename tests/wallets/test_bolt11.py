"""Invoices of BOLT 11's own examples, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.wallets import Bolt11, InvoiceUnreadable, read_invoice

COFFEE = (
    "lnbc2500u1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu"
    "aztrnwngzn3kdzw5hydlzf03qdgm2hdq27cqv3agm2awhz5se903vruatfhq77w3ls4evs3ch9zw97j25emudupq63nyw24cg27h2rspfj9srp"
)
DONATION = (
    "lnbc1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6"
    "twvus8g6rfwvs8qun0dfjkxaq8rkx3yf5tcsyz3d73gafnh3cax9rn449d9p5uxz9ezhhypd0elx87sjle52x86fux2ypatgddc6k63n7erqz"
    "25le42c4u4ecky03ylcqca784w"
)
MADE = 1_496_314_658


def test_amount_and_minute_are_read_when_there_are_some() -> None:
    assert read_invoice(COFFEE) == Bolt11("bc", 250_000_000, MADE, 60)
    assert read_invoice(COFFEE).expires_at_s == MADE + 60


def test_the_payer_is_to_say_when_there_is_no_amount() -> None:
    assert read_invoice(DONATION) == Bolt11("bc", None, MADE, 3_600)


@pytest.mark.parametrize("text", [COFFEE.upper(), f"lightning:{COFFEE}", f" {COFFEE}\n"])
def test_it_is_the_same_when_it_is_written_otherwise(text: str) -> None:
    assert read_invoice(text) == read_invoice(COFFEE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lnbc1",
        "lnbc-nonsense",
        COFFEE[:-1],
        COFFEE[:-1] + "q",
        COFFEE.replace("2500u", "2500m"),
        "ä" * 200,
        COFFEE.title(),
    ],
)
def test_it_is_refused_when_it_is_none_or_damaged(text: str) -> None:
    with pytest.raises(InvoiceUnreadable):
        read_invoice(text)


@given(st.integers(0, len(COFFEE) - 1), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1"))
def test_no_single_mistake_passes(position: int, character: str) -> None:
    damaged = COFFEE[:position] + character + COFFEE[position + 1 :]
    if damaged != COFFEE:
        with pytest.raises(InvoiceUnreadable):
            read_invoice(damaged)


@given(st.text(max_size=300))
def test_nothing_else_is_raised_whatever_the_text(text: str) -> None:
    try:
        read_invoice(text)
    except InvoiceUnreadable:
        return
