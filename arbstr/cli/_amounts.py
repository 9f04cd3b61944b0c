"""Amounts as people type them."""

from __future__ import annotations

import re

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
