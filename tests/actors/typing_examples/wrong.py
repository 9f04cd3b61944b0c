# pyright: strict
"""Mistakes that a type checker must find: each line that ends in a mark, and no other."""

from __future__ import annotations

from dataclasses import dataclass

import pykka

from actors import ActorSystem, Ask, InboxPolicy, Reply, TrioActor, TrioActorRef, wait_for


@dataclass(frozen=True)
class Deposit(Ask[int]):
    amount: int


class Account(TrioActor):
    inbox_policy = InboxPolicy.REFUSE

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner


class Careless(TrioActor):
    inbox_policy = "drop_oldest"  # error

    def on_receive(self, message: Deposit) -> None:
        reply: Reply[int] = self.take_reply()
        reply.set("not a number")  # error
        self.spawn(self.work, "not a number")  # error

    async def work(self, amount: int) -> None: ...


def show(*values: object) -> None: ...


async def with_tasks(system: ActorSystem) -> None:
    system.start(Account)  # error
    system.start(Account, 5)  # error
    system.start(str, "no actor")  # error
    ref = system.start(Account, "Ada")
    answer: str = await ref.request(Deposit(1))  # error
    await ref.request(Deposit("much"))  # error
    await ref.request(Deposit(1), timeout=5)  # error
    ref.ask(Deposit(1), timeout_s=5)  # error
    other: TrioActorRef[Careless] = ref  # error
    show(ref.statistics().depht)  # error
    show(system.dead_letters.counts["lost"])  # error
    show(answer, other)


async def later(ref: TrioActorRef[Account]) -> str:
    return await ref.ask(Deposit(1), block=False)  # error


async def with_foreign_future(future: pykka.ThreadingFuture[str]) -> int:
    return await wait_for(future, 1.0)  # error


def with_threads(ref: TrioActorRef[Account]) -> str:
    return ref.ask(Deposit(1))  # error
