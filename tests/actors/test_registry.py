"""Pykka's registry with our actors in it: the same for everybody who reads it, and cheap to leave."""

from __future__ import annotations

import random
import threading
import uuid
from typing import Any

import pykka
import pytest
import trio

from actors import ActorSystem, TrioActor
from actors._registry import register, unregister
from actors._stop_flag import StopFlag, new_urn


class Ours(TrioActor):
    def on_receive(self, message: Any) -> Any:
        return message


class OursToo(Ours):
    pass


class Threaded(pykka.ThreadingActor):
    pass


async def test_actors_are_found_by_everything_pykka_offers_when_several_runtimes_are_mixed() -> None:
    async with ActorSystem.run() as system:
        ours, threaded, too = system.start(Ours), Threaded.start(), system.start(OursToo)
        assert pykka.ActorRegistry.get_all() == [ours, threaded, too]
        assert pykka.ActorRegistry.get_by_class(Ours) == [ours, too]  # type: ignore[type-var]  # to mypy it is no Actor
        assert pykka.ActorRegistry.get_by_class_name("OursToo") == [too]
        assert pykka.ActorRegistry.get_by_urn(ours.actor_urn) is ours
        assert system.refs() == system.refs(Ours) == [ours, too]
        assert system.refs(OursToo) == [too]
        await ours.terminate()
        assert pykka.ActorRegistry.get_all() == [threaded, too]
        await trio.to_thread.run_sync(threaded.stop)
    assert pykka.ActorRegistry.get_all() == []


@pytest.mark.parametrize("seed", range(20))
def test_only_the_one_leaves_and_the_order_stays_when_refs_come_and_go(seed: int) -> None:
    class Ref:
        actor_urn = "urn"

    chance, model = random.Random(seed), list[Any]()
    for _ in range(300):
        kind = chance.random()
        if kind < 0.4 or not model:
            model.append(Ref())
            register(model[-1])
        elif kind < 0.55:
            model.append(Ref())
            pykka.ActorRegistry.register(model[-1])  # of another runtime
        elif kind < 0.6:
            unregister(Ref())  # type: ignore[arg-type]  # was never in
        else:
            unregister(model.pop(chance.randrange(len(model))))
        assert pykka.ActorRegistry.get_all() == model
    for ref in model:
        unregister(ref)
    assert pykka.ActorRegistry.get_all() == []


def test_registry_is_left_clean_when_threads_come_and_go_at_once() -> None:
    class Ref:
        pass

    def come_and_go(seed: int) -> None:
        chance, mine = random.Random(seed), list[Any]()
        for _ in range(300):
            if chance.random() < 0.5 or not mine:
                mine.append(Ref())
                register(mine[-1])
            else:
                unregister(mine.pop(chance.randrange(len(mine))))
        for ref in mine:
            unregister(ref)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert pykka.ActorRegistry.get_all() == []


def test_nobody_is_compared_when_one_of_thousands_leaves() -> None:
    class Ref:
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            raise AssertionError("Pykka's way: through the whole list")

    refs: list[Any] = [Ref() for _ in range(5_000)]
    for ref in refs:
        register(ref)
    random.Random(1).shuffle(refs)
    for ref in refs:
        unregister(ref)
    assert pykka.ActorRegistry.get_all() == []


def test_one_entry_leaves_at_a_time_when_a_ref_was_registered_twice() -> None:
    refs = [Threaded.start() for _ in range(3)]
    try:
        pykka.ActorRegistry.register(refs[0])
        register(refs[0])
        for left in (2, 1, 0):
            unregister(refs[0])
            assert pykka.ActorRegistry.get_all().count(refs[0]) == left
    finally:
        for ref in refs:
            ref.stop()


async def test_everybody_is_gone_when_thousands_stop() -> None:
    async with ActorSystem.run(grace_s=30) as system:
        refs = [system.start(Ours) for _ in range(2_000)]
        await refs[-1].request("hello")
    assert pykka.ActorRegistry.get_all() == []
    assert not any(ref.is_alive() for ref in refs)


# -- the parts made in place of Pykka's


def test_urn_is_that_of_a_random_uuid() -> None:
    for _ in range(200):
        found = uuid.UUID(new_urn())
        assert (found.version, found.variant) == (4, uuid.RFC_4122)
    urn = new_urn()
    assert uuid.UUID(urn).urn == urn
    assert len({new_urn() for _ in range(200)}) == 200


def test_threads_wake_when_they_wait_for_the_stop_flag_and_it_is_set() -> None:
    flag = StopFlag()
    assert isinstance(flag, threading.Event)
    assert not flag.is_set()
    assert flag.wait(0.001) is False
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(flag.wait(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join(10)
    assert woken == [True] * 4
    assert flag.wait() is True
    assert "StopFlag: set" in repr(flag)
    flag.clear()
    assert flag.wait(0) is False
