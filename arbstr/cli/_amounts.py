"""Amounts and rates as people type and read them."""

from __future__ import annotations

import re
from fractions import Fraction

from arbstr.units import MSAT_PER_SAT, Msat

MAX_MSAT = 21_000_000 * 100_000_000 * MSAT_PER_SAT
"""All bitcoin that there will ever be; fits into 64 bits."""


def parse_amount_msat(text: str) -> Msat:
    """``'1000'`` and ``'0.5'`` are sats (at most 3 decimals), ``'250msat'`` is millisatoshi. Exact, more than zero.

    Raises ValueError naming the text and what to write.
    """
    if match := re.fullmatch(r"([0-9]{1,19}) ?msat", text):
        amount = int(match[1])
    elif match := re.fullmatch(r"([0-9]{1,16})(?:\.([0-9]{1,3}))?", text):
        amount = int(match[1]) * MSAT_PER_SAT + int((match[2] or "").ljust(3, "0"))
    else:
        raise ValueError(f'{text!r} is not an amount; write sats like "1000" or "0.5", or "250msat"')
    if not 0 < amount <= MAX_MSAT:
        raise ValueError(f"{text!r} is out of range; write more than 0 and at most 21 million bitcoin")
    return Msat(amount)


MAX_PLACES = 18


def format_decimal(value: Fraction) -> str:
    """Shortest decimal form (``5``, ``1.5``): exact for rates that were written as decimals, else cut at 18 places."""
    places = 0
    while value.denominator != 1 and places < MAX_PLACES:
        value, places = value * 10, places + 1
    digits = str(int(value)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits
