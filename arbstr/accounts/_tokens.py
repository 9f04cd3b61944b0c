"""Whose tokens there are, by their hashes: where the accounts are, and as a copy wherever bearers are let in."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable

from arbstr.accounts._bank import Holder
from arbstr.store import TokenRow, hash_token

Watcher = Callable[[tuple[TokenRow, ...], tuple[str, ...]], None]
"""Told of every change: tokens that count from now on, and the hashes of those that do not any more."""


class TokenTable:
    """Lives on the Trio thread. What has expired is nobody's, whether or not it has been forgotten yet."""

    def __init__(self, rows: Iterable[TokenRow] = ()) -> None:
        self._by_hash: dict[str, TokenRow] = {}
        self._expiring: list[tuple[int, str]] = []
        self.watchers: list[Watcher] = []
        self.change(tuple(rows), ())

    def rows(self) -> tuple[TokenRow, ...]:
        return tuple(self._by_hash.values())

    def holder_of(self, token: str) -> Holder | None:
        """Whose bearer token this is; None when nobody's, or it has been revoked or has expired.

        Looked up by its SHA-256, so the time taken says nothing about any token.
        """
        row = self._by_hash.get(hash_token(token))
        if row is None or (row.expires_ns is not None and row.expires_ns <= time.time_ns()):
            return None
        return Holder(row.agent_id, row.name, row.budget_id)

    def change(self, learned: tuple[TokenRow, ...], forgotten: tuple[str, ...]) -> None:
        for token_hash in forgotten:
            self._by_hash.pop(token_hash, None)
        for row in learned:
            self._by_hash[row.token_hash] = row
            if row.expires_ns is not None:
                heapq.heappush(self._expiring, (row.expires_ns, row.token_hash))
        for watcher in self.watchers:
            watcher(learned, forgotten)

    def replace(self, rows: Iterable[TokenRow]) -> None:
        """These, and no others."""
        self._by_hash.clear()
        self._expiring.clear()
        self.change(tuple(rows), ())

    def forget_expired(self) -> None:
        now_ns = time.time_ns()
        while self._expiring and self._expiring[0][0] <= now_ns:
            _, token_hash = heapq.heappop(self._expiring)
            row = self._by_hash.get(token_hash)
            if row is not None and row.expires_ns is not None and row.expires_ns <= now_ns:
                del self._by_hash[token_hash]
