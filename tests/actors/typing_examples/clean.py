# pyright: strict
"""A program as users write it: both type checkers must find nothing, and no ignore is needed."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import assert_type

import pykka
import trio

from actors import (
    ActorStatistics,
    ActorSystem,
    Ask,
    DeadLetter,
    InboxPolicy,
    Reply,
    TrioActor,
    TrioActorRef,
    TrioFuture,
    wait_for,
)


@dataclass(frozen=True, slots=True)
class Deposit(Ask[int]):
    """Answered with the new balance."""

    amount: int


@dataclass(frozen=True)
class Owner(Ask[str]):
    pass


class Withdraw(Ask["int | None"]):
    """Not every message is a dataclass."""

    def __init__(self, amount: int) -> None:
        self.amount = amount


class Account(TrioActor):
    """All hooks async."""

    inbox_capacity = 16
    inbox_policy = InboxPolicy.WAIT

    def __init__(self, owner: str, balance: int = 0) -> None:
        super().__init__()
        self._owner = owner
        self._balance = balance
        self._waiting: Reply[int | None] | None = None

    async def on_start(self) -> None:
        self.spawn(self._work, 1.0, name="work")

    async def on_stop(self) -> None:
        await trio.lowlevel.checkpoint()

    async def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.lowlevel.checkpoint()

    async def on_receive(self, message: Deposit | Owner | Withdraw) -> int | str | None:
        match message:
            case Deposit(amount=amount):
                self._balance += amount
                return self._balance
            case Withdraw():
                self._waiting = self.take_reply()
                return None
            case Owner():
                return self._owner

    async def _work(self, period_s: float) -> None:
        while True:
            await trio.sleep(period_s)
            if self._waiting is not None:
                self._waiting.set(None)


class Savings(Account):
    """A subclass of a subclass, hooks async again."""

    async def on_start(self) -> None:
        await super().on_start()
        self.actor_ref.tell(Deposit(1))

    async def on_stop(self) -> None:
        await trio.lowlevel.checkpoint()


class Counter(TrioActor):
    """All hooks plain."""

    def on_start(self) -> None:
        self.count = 0

    def on_stop(self) -> None:
        pass

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def on_receive(self, message: object) -> int:
        self.count += 1
        return self.count


def is_alive(ref: TrioActorRef[Account]) -> bool:
    return ref.is_alive()


async def with_tasks(system: ActorSystem) -> None:
    ref = system.start(Account, "Ada", balance=1)
    assert_type(ref, TrioActorRef[Account])
    assert_type(Savings.start("Bob"), TrioActorRef[Savings])
    assert_type(ref.actor_class, type[Account])

    assert_type(await ref.request(Deposit(1)), int)
    assert_type(await ref.request(Owner(), timeout_s=1.0), str)
    assert_type(await ref.request(Withdraw(5)), int | None)
    future = ref.ask(Deposit(1), block=False)
    assert_type(future, TrioFuture[int])
    assert_type(await future, int)
    assert_type(await future.map(str), str)
    assert_type(await wait_for(future, 1.0), int)
    await ref.send(Deposit(1))
    ref.tell("anything may be a message")

    savings = system.start(Savings, "Bob")
    is_alive(savings)  # a ref to a subclass is a ref to the class
    assert_type(Counter.start(), TrioActorRef[Counter])
    assert_type(system.refs(Savings), list[TrioActorRef[Savings]])
    assert_type(ref.statistics(), ActorStatistics)
    assert_type(system.statistics().dead_letters["dropped"], int)
    await ref.terminate(grace_s=1.0)


def show(letter: DeadLetter) -> None:
    print(letter.reason, letter.recipient.class_name, letter.message)  # noqa: T201  # what users do


async def with_foreign_future(future: pykka.ThreadingFuture[str]) -> str:
    return await wait_for(future, timeout_s=1.0)


def with_threads() -> int:
    with ActorSystem.in_thread() as system:
        unsubscribe = system.dead_letters.subscribe(show)
        ref = system.start(Account, "Ada")
        assert_type(ref.ask(Deposit(1)), int)
        assert_type(ref.ask(Owner(), timeout=1.0), str)
        assert_type(ref.stop(), bool)
        unsubscribe()
        return ref.ask(Deposit(1), block=True)


async def main() -> None:
    async with ActorSystem.run() as system:
        await with_tasks(system)


if __name__ == "__main__":
    trio.run(main)
