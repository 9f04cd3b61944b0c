"""What a Lightning invoice asks for (BOLT 11): network, amount, until when. Pure; signatures are the wallet's affair.

A wallet pays whatever an invoice says, from money that belongs to many agents: so what an agent says that it pays, and
what its invoice says, must be the same before anybody is asked to pay it.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

_CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES: Final = {character: value for value, character in enumerate(_CHARSET)}
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PREFIX: Final = re.compile(r"ln(bcrt|bc|tbs|tb|sb)(?:([1-9][0-9]{0,18})([munp])?)?")
_MSAT_PER_UNIT: Final = {"": 100_000_000_000, "m": 100_000_000, "u": 100_000, "n": 100}
"""Millisatoshi in one bitcoin, and in its parts; a tenth of one is a "p"."""
_EXPIRY_TAG: Final = _VALUES["x"]
_SIGNATURE_WORDS: Final = 104
_TIMESTAMP_WORDS: Final = 7
_CHECKSUM_WORDS: Final = 6
DEFAULT_EXPIRY_S: Final = 3_600
MAX_LENGTH: Final = 2_000


class InvoiceUnreadable(ValueError):
    """Not an invoice, or one that was damaged on the way; the text says how."""


@frozen
class Bolt11:
    """``amount_msat`` None: the payer is to say. Times are seconds since 1970."""

    network: str
    """``bc``, ``tb``, ``tbs``, ``bcrt`` or ``sb``."""
    amount_msat: int | None
    made_at_s: int
    expiry_s: int

    @property
    def expires_at_s(self) -> int:
        return self.made_at_s + self.expiry_s


def read_invoice(text: str) -> Bolt11:
    """Read an invoice, in lower or upper case, with or without ``lightning:``. Raises InvoiceUnreadable."""
    text = text.strip().removeprefix("lightning:").removeprefix("LIGHTNING:")
    if len(text) > MAX_LENGTH or text not in (text.lower(), text.upper()):
        raise InvoiceUnreadable("an invoice is at most 2,000 characters, all in lower case or all in upper case")
    prefix, separator, data = text.lower().rpartition("1")
    found = _PREFIX.fullmatch(prefix)
    if not separator or found is None or not data.isascii() or any(character not in _VALUES for character in data):
        raise InvoiceUnreadable("this is no Lightning invoice: it must begin with ln, a network and an amount")
    words = [_VALUES[character] for character in data]
    if len(words) < _TIMESTAMP_WORDS + _SIGNATURE_WORDS + _CHECKSUM_WORDS or _checksum(prefix, words) != 1:
        raise InvoiceUnreadable("the invoice was damaged on the way: its checksum is wrong")
    made_at_s = _number(words[:_TIMESTAMP_WORDS])
    fields = words[_TIMESTAMP_WORDS : -_SIGNATURE_WORDS - _CHECKSUM_WORDS]
    return Bolt11(found[1], _amount(found[2], found[3] or ""), made_at_s, _expiry(fields))


def _amount(digits: str | None, unit: str) -> int | None:
    if digits is None:
        return None
    if unit == "p":
        if not digits.endswith("0"):
            raise InvoiceUnreadable("the invoice asks for a part of a millisatoshi")
        return int(digits) // 10
    return int(digits) * _MSAT_PER_UNIT[unit]


def _expiry(fields: list[int]) -> int:
    """Of the tagged fields: a type, a length in two words, and that many words."""
    at = 0
    while at + 3 <= len(fields):
        tag, length = fields[at], fields[at + 1] * 32 + fields[at + 2]
        value = fields[at + 3 : at + 3 + length]
        if len(value) < length:
            raise InvoiceUnreadable("a field of the invoice is cut off")
        if tag == _EXPIRY_TAG:
            return _number(value)
        at += 3 + length
    return DEFAULT_EXPIRY_S


def _number(words: list[int]) -> int:
    number = 0
    for word in words:
        number = number * 32 + word
    return number


def _checksum(prefix: str, words: list[int]) -> int:
    """1 for an undamaged text (BIP 173)."""
    expanded = [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]
    state = 1
    for value in expanded + words:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                state ^= generator
    return state
