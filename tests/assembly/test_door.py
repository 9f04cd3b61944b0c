"""Limits of several processes together."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from arbstr.accounts import AskEnter, AskTouch, Entered, Limited, Session, TellLeft, TellSpent
from arbstr.assembly._door import Doorman, FarDoor
from arbstr.config import AgentLimit, Limit, LimitsConfig
from arbstr.errors import LedgerUnavailable, PermissionRefused, RateLimited
from arbstr.requests import Caller, Limits

CALLER = Caller("ag_1", "agent", "one")


def limits(rps: int = 0, **limit: int) -> Limits:
    return Limits(LimitsConfig(agent=Limit(**limit)), rate_limit_rps=rps)


class Bank:
    """A link to a doorman without anything between."""

    def __init__(self, doorman: Doorman, worker: int) -> None:
        self.doorman, self.session = doorman, Session(worker, f"s{worker}")
        self.asked = 0
        self.away = False

    async def enter(self, asked: AskEnter | AskTouch) -> Entered | Limited:
        self.asked += 1
        answer = self.doorman.limit(self.session, asked)
        await trio.lowlevel.checkpoint()
        if self.away:
            raise LedgerUnavailable("away")
        return answer

    def place(self, told: TellSpent | TellLeft) -> None:
        self.doorman.place(self.session, told)


def doors(doorman: Doorman, own: Limits, count: int = 2) -> list[tuple[FarDoor, Bank]]:
    banks: list[Any] = [Bank(doorman, worker) for worker in range(1, count + 1)]
    return [(FarDoor(bank, own), bank) for bank in banks]


async def enter(door: FarDoor, tokens: int = 1) -> Any:
    return await door.enter(CALLER, models=("m",), tokens=tokens)


async def test_what_one_worker_lets_in_counts_for_the_other(autojump_clock: Any) -> None:
    (first, _), (second, _) = doors(Doorman(limits(requests_per_minute=3)), limits(requests_per_minute=3))
    places = [await enter(first), await enter(second), await enter(first)]
    assert dict(places[2].headers)[b"x-ratelimit-remaining-requests"] == b"0"
    with pytest.raises(RateLimited) as caught:
        await enter(second)
    assert caught.value.retry_after_s == pytest.approx(20)
    assert dict(caught.value.headers)[b"x-ratelimit-limit-requests"] == b"3"
    assert caught.value.details == {"limit": 3, "limited": "requests per minute"}


async def test_a_place_is_given_back_when_its_request_ends_and_once(autojump_clock: Any) -> None:
    doorman = Doorman(limits(concurrent_requests=1))
    ((door, _),) = doors(doorman, limits(concurrent_requests=1), 1)
    place = await enter(door)
    with pytest.raises(RateLimited):
        await enter(door)
    place.spent(5, 0.0)
    place.leave(0.0)
    place.leave(0.0)
    await enter(door)
    assert doorman.limits.in_flight == 1


async def test_what_was_really_used_counts(autojump_clock: Any) -> None:
    ((door, _),) = doors(Doorman(limits(tokens_per_minute=100)), limits(tokens_per_minute=100), 1)
    place = await enter(door, tokens=90)
    place.spent(10, 0.0)
    place.leave(0.0)
    await enter(door, tokens=90)


async def test_a_place_is_given_back_when_its_asker_does_not_wait_for_it(autojump_clock: Any) -> None:
    doorman = Doorman(limits(concurrent_requests=1))
    ((door, bank),) = doors(doorman, limits(concurrent_requests=1), 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await enter(door)
    assert doorman.limits.in_flight == 0
    bank.away = True
    with pytest.raises(LedgerUnavailable):
        await enter(door)
    assert doorman.limits.in_flight == 0


async def test_the_places_of_a_worker_are_given_back_when_it_dies(autojump_clock: Any) -> None:
    doorman = Doorman(limits(concurrent_requests=2))
    (first, bank), (second, _) = doors(doorman, limits(concurrent_requests=2))
    await enter(first)
    await enter(second)
    doorman.forget(bank.session)
    assert doorman.limits.in_flight == 1
    await enter(second)


async def test_nobody_is_asked_when_nothing_is_limited(autojump_clock: Any) -> None:
    ((door, bank),) = doors(Doorman(limits()), limits(), 1)
    place = await enter(door)
    place.spent(1, 0.0)
    place.leave(0.0)
    assert await door.touch(CALLER) == ()
    assert bank.asked == 0


async def test_calls_that_are_for_no_model_count_for_all_workers_too(autojump_clock: Any) -> None:
    (first, _), (second, _) = doors(Doorman(limits(rps=2)), limits(rps=2))
    await first.touch(CALLER)
    assert dict(await second.touch(CALLER))[b"x-ratelimit-remaining-requests"] == b"0"
    with pytest.raises(RateLimited):
        await first.touch(CALLER)


async def test_a_model_that_is_not_allowed_is_refused_without_asking(autojump_clock: Any) -> None:
    config = LimitsConfig(agents=(AgentLimit("one", models=("other",)),))
    ((door, bank),) = doors(Doorman(Limits(config)), Limits(config), 1)
    with pytest.raises(PermissionRefused):
        await enter(door)
    assert bank.asked == 0


def test_a_place_that_was_never_given_may_be_left() -> None:
    doorman, session = Doorman(limits(concurrent_requests=1)), Session(1, "s")
    doorman.place(session, TellLeft(7))
    doorman.place(session, TellSpent(7, 100))
    doorman.forget(session)
    assert doorman.limits.in_flight == 0
