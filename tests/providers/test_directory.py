"""The directory: immutable snapshots in file order."""

from __future__ import annotations

from typing import Any

import pytest

from actors import TrioActorRef
from arbstr.config import ProviderConfig
from arbstr.providers import Directory, ProviderView


def view(name: str, **fields: Any) -> ProviderView:
    return ProviderView(ProviderConfig(name=name, url=f"mock://{name}", max_concurrent=2), **fields)


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
    directory, ref = Directory(), a_ref()
    directory.enlist(view("a"), ref)
    before = directory.snapshot
    directory.publish(view("a", in_flight=2), ref)
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


@pytest.mark.parametrize("withdrawn", [False, True])
def test_shows_nothing_of_an_actor_when_it_is_no_longer_the_one(withdrawn: bool) -> None:
    directory, former = Directory(), a_ref()
    directory.enlist(view("a"), former)
    if withdrawn:
        directory.withdraw("a", former)
    else:
        directory.enlist(view("a"), a_ref())
    directory.publish(view("a", in_flight=2), former)
    assert [each.busy for each in directory.snapshot] == ([] if withdrawn else [False])


def test_follows_the_new_order_when_it_is_arranged_anew() -> None:
    directory, ref = Directory(["a", "b"]), a_ref()
    for name in ("a", "b", "c", "d"):
        directory.enlist(view(name), ref)
    directory.withdraw("c", ref)
    directory.arrange(["d", "later", "a"])
    assert names(directory) == ["d", "a", "b"]
    directory.enlist(view("later"), ref)
    directory.enlist(view("c"), ref)
    assert names(directory) == ["d", "later", "a", "b", "c"], "the place of c was not kept"


def test_shows_all_at_once_when_it_is_one_change() -> None:
    directory, stays, leaves, comes = Directory(), a_ref(), a_ref(), a_ref()
    directory.enlist(view("stays"), stays)
    directory.enlist(view("leaves"), leaves)
    before = directory.snapshot
    with directory.one_change():
        directory.enlist(view("comes"), comes)
        directory.publish(view("comes", in_flight=1), comes)
        directory.publish(view("stays", in_flight=2), stays)
        assert directory.snapshot is before
        with pytest.raises(KeyError):
            directory.ref("comes")
        directory.withdraw("leaves", leaves)
        directory.arrange(["comes", "stays"])
        assert directory.snapshot is before
    assert [(each.name, each.in_flight) for each in directory.snapshot] == [("comes", 1), ("stays", 2)]
    assert directory.ref("comes") is comes


def test_keeps_the_former_actor_until_the_end_when_it_is_replaced_in_one_change() -> None:
    directory, former, successor = Directory(), a_ref(), a_ref()
    directory.enlist(view("a"), former)
    with directory.one_change():
        directory.enlist(view("a", in_flight=1), successor)
        directory.publish(view("a", in_flight=2), former)
        assert directory.ref("a") is former
    assert directory.ref("a") is successor
    assert directory.snapshot[0].in_flight == 1


def test_keeps_the_successor_when_the_former_actor_comes_back_and_leaves_in_one_change() -> None:
    directory, former, successor = Directory(), a_ref(), a_ref()
    with directory.one_change():
        directory.enlist(view("a"), successor)
        directory.enlist(view("a"), former)
        directory.withdraw("a", former)
    assert directory.ref("a") is successor
    assert names(directory) == ["a"]


def test_never_shows_a_newcomer_when_it_leaves_within_the_change() -> None:
    directory, ref = Directory(), a_ref()
    with directory.one_change():
        directory.enlist(view("a"), ref)
        directory.withdraw("a", ref)
    assert directory.snapshot == ()


def test_shows_what_was_done_when_the_change_ends_by_an_exception() -> None:
    directory = Directory()

    def change_half() -> None:
        with directory.one_change():
            directory.enlist(view("a"), a_ref())
            raise KeyError

    with pytest.raises(KeyError):
        change_half()
    directory.enlist(view("b"), a_ref())
    assert names(directory) == ["a", "b"]
