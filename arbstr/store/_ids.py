"""Identifiers: ULIDs (48 bits of milliseconds, 80 random bits, Crockford base 32) with a prefix that names the kind."""

from __future__ import annotations

import hashlib
import os
import random
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _base32(number: int, length: int) -> str:
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(5 * (length - 1), -1, -5))


def new_ulid() -> str:
    """26 characters that sort by the millisecond they were made in. A name, not a secret."""
    # Not os.urandom: it lets go of the interpreter and waits for it again, 70 µs beside a busy writer thread.
    return _base32((time.time_ns() // 1_000_000 << 80) | random.getrandbits(80), 26)


def new_agent_id() -> str:
    return "ag_" + new_ulid()


def new_hold_id() -> str:
    return "tx_" + new_ulid()


def new_agent_token() -> str:
    """A bearer token: ``vtk_`` and 128 random bits. Shown once; only its hash is stored."""
    return "vtk_" + _base32(int.from_bytes(os.urandom(16)), 26)


def hash_token(token: str) -> str:
    """Lower-case hex SHA-256 of the whole token, as stored (contract: vault, section 4)."""
    return hashlib.sha256(token.encode()).hexdigest()
