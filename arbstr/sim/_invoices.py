"""Invoices as a payee would write them (BOLT 11), for agents to pay, rightly or not. Nobody has signed them."""

from __future__ import annotations

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
SIGNATURE_WORDS = 104
EXPIRY_TAG = CHARSET.index("x")


def write_invoice(number: int, amount_msat: int | None, made_at_s: int, expiry_s: int) -> str:
    """``number`` makes it another one than all others; ``amount_msat`` None: the payer is to say."""
    prefix = "lnbc" if amount_msat is None else f"lnbc{amount_msat * 10}p"
    expiry = _words(expiry_s, 6)
    fields = [EXPIRY_TAG, *_words(len(expiry), 2), *expiry]
    words = [*_words(made_at_s, 7), *fields, *_words(number, SIGNATURE_WORDS)]
    checksum = _polymod(_expanded(prefix) + words + [0] * 6) ^ 1
    words += _words(checksum, 6)
    return prefix + "1" + "".join([CHARSET[word] for word in words])


def _words(number: int, count: int) -> list[int]:
    return [(number >> 5 * place) & 31 for place in reversed(range(count))]


def _expanded(prefix: str) -> list[int]:
    return [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]


def _polymod(values: list[int]) -> int:
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(GENERATORS):
            if top >> bit & 1:
                state ^= generator
    return state
