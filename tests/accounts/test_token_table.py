"""Whose tokens there are, and who is told of changes."""

from __future__ import annotations

import pytest

from arbstr.accounts import TokenTable
from arbstr.accounts import _tokens as tokens_module
from arbstr.store import TokenRow, hash_token


def row(token: str, agent_id: str = "ag_1", expires_ns: int | None = None) -> TokenRow:
    return TokenRow(agent_id, "one", hash_token(token), f"id of {token}", None, expires_ns)


def test_a_token_is_its_holders_until_it_is_forgotten() -> None:
    table = TokenTable([row("a"), row("b", "ag_2")])
    holder = table.holder_of("b")
    assert holder is not None
    assert holder.agent_id == "ag_2"
    table.change((), (hash_token("b"), hash_token("never there")))
    assert table.holder_of("b") is None
    assert [each.token_hash for each in table.rows()] == [hash_token("a")]


def test_watchers_hear_what_has_changed() -> None:
    table, heard = TokenTable([row("a")]), []
    table.watchers.append(lambda learned, forgotten: heard.append((learned, forgotten)))
    table.change((row("b"),), (hash_token("a"),))
    assert heard == [((row("b"),), (hash_token("a"),))]


def test_only_the_new_ones_count_when_all_are_replaced() -> None:
    table = TokenTable([row("a"), row("b")])
    table.replace([row("b", "ag_2"), row("c")])
    assert table.holder_of("a") is None
    assert {each.agent_id for each in table.rows()} == {"ag_1", "ag_2"}


def test_an_expired_token_is_nobodys_and_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000
    monkeypatch.setattr(tokens_module.time, "time_ns", lambda: now)
    table = TokenTable([row("a", expires_ns=1_001), row("b", expires_ns=2_000), row("c")])
    table.change((row("a", expires_ns=3_000),), ())  # it may live longer after all
    assert table.holder_of("b") is not None
    now = 2_000
    assert table.holder_of("b") is None
    table.forget_expired()
    assert {each.token_hash for each in table.rows()} == {hash_token("a"), hash_token("c")}
