"""The directory: immutable snapshots in file order."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from actors import TrioActorRef
from arbstr.config import Tier
from arbstr.providers import BreakerState, Directory, ProviderView


def view(name: str, **fields: Any) -> ProviderView:
    plain = ProviderView(
        name=name,
        url=f"mock://{name}",
        models=(),
        any_model=True,
        price=None,
        tier=Tier.STANDARD,
        breaker_state=BreakerState.CLOSED,
        failure_count=0,
        open_until=None,
        probing=False,
        in_flight=0,
        max_concurrent=2,
        ttfb_ms=None,
        has_key=False,
        masked_key=None,
    )
    return evolve(plain, **fields)


def a_ref() -> TrioActorRef:
    return object()  # type: ignore[return-value]  # the directory only hands it on


def names(directory: Directory) -> list[str]:
    return [each.name for each in directory.snapshot]


def test_is_empty_when_nobody_has_enlisted() -> None:
    assert Directory(["a", "b"]).snapshot == ()


def test_keeps_file_order_when_providers_enlist_in_any_order() -> None:
    directory = Directory(["a", "b", "c"])
    for name in ("c", "a", "later", "b"):
        directory.enlist(view(name), a_ref())
    assert names(directory) == ["a", "b", "c", "later"]


def test_never_changes_a_snapshot_when_a_view_is_published() -> None:
    directory = Directory()
    directory.enlist(view("a"), a_ref())
    before = directory.snapshot
    directory.publish(view("a", in_flight=2))
    assert not before[0].busy
    assert directory.snapshot[0].busy


def test_keeps_the_place_when_a_provider_leaves_and_returns() -> None:
    directory, ref = Directory(), a_ref()
    directory.enlist(view("a"), ref)
    directory.enlist(view("b"), a_ref())
    directory.withdraw("a", ref)
    assert names(directory) == ["b"]
    directory.enlist(view("a"), a_ref())
    assert names(directory) == ["a", "b"]


def test_keeps_the_successor_when_the_former_actor_withdraws_late() -> None:
    directory, former, successor = Directory(), a_ref(), a_ref()
    directory.enlist(view("a"), former)
    directory.enlist(view("a"), successor)
    directory.withdraw("a", former)
    assert names(directory) == ["a"]
    assert directory.ref("a") is successor


def test_knows_no_actor_when_none_runs_by_that_name() -> None:
    with pytest.raises(KeyError):
        Directory(["a"]).ref("a")
