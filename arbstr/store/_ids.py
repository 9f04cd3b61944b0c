"""Identifiers: ULIDs (48 bits of milliseconds, 80 random bits, Crockford base 32) with a prefix that names the kind."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]
_SHIFTS = tuple(range(120, -1, -10))
_OF_CHANCE = _SHIFTS[-8:]
_RANDOM_BITS = 80


def _base32(number: int, shifts: tuple[int, ...] = _SHIFTS) -> str:
    """26 characters, two at a time."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in shifts])


@functools.lru_cache(maxsize=4)
def _instant(millis: int) -> str:
    """The first ten characters of all ids of one millisecond."""
    return _base32(millis << _RANDOM_BITS)[:10]


def new_ulid() -> str:
    """26 characters that sort by the millisecond they were made in. A name, not a secret."""
    # Not os.urandom: it lets go of the interpreter and waits for it again, 70 µs beside a busy writer thread.
    chance = random.getrandbits(_RANDOM_BITS)
    return _instant(time.time_ns() // 1_000_000) + _base32(chance, _OF_CHANCE)


def new_agent_id() -> str:
    return "ag_" + new_ulid()


def new_hold_id() -> str:
    return "tx_" + new_ulid()


def derived_hold_id(*names: str) -> str:
    """The same for the same names, so that a repeat finds what the first one made; otherwise like ``new_hold_id``."""
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).digest()
    return "tx_" + _base32(int.from_bytes(digest[:16]))


def new_token_id() -> str:
    return "tk_" + new_ulid()


def new_approval_id() -> str:
    return "apr_" + new_ulid()


def request_hold_id(approval_id: str) -> str:
    """Of what is held for a request that needs an approval: one follows from the other."""
    return "tx_" + approval_id.removeprefix("apr_")


def new_budget_id() -> str:
    return "bu_" + new_ulid()


def new_event_id() -> str:
    return "evt_" + new_ulid()


def new_agent_token() -> str:
    """A bearer token: ``vtk_`` and 128 random bits. Shown once; only its hash is stored."""
    return "vtk_" + _base32(int.from_bytes(os.urandom(16)))


def hash_token(token: str) -> str:
    """Lower-case hex SHA-256 of the whole token, as stored (contract: vault, section 4)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
