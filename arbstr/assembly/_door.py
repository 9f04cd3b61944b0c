"""Limits of several processes together: kept where the accounts are, asked for by the cores.

Nothing is asked while nothing is limited. When the process of the accounts is started anew, what was used is forgotten,
as when the program is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal, cast

import trio
from attrs import define, field, frozen

from arbstr.accounts import AskEnter, AskTouch, Client, Entered, Limited, LinkBank, Session, TellLeft, TellSpent
from arbstr.errors import RateLimited
from arbstr.requests import Caller, Limits, Pass, Place

HeaderList = tuple[tuple[bytes, bytes], ...]


@define(eq=False)
class FarDoor:
    """A core's (``arbstr.requests.Door``). ``limits`` are only looked at for whether there are any, and for models."""

    bank: LinkBank
    limits: Limits
    _numbers: Callable[[], int] = field(factory=lambda: itertools.count(1).__next__)

    async def enter(self, caller: Caller, *, models: tuple[str, ...], tokens: int) -> Place:
        """When it is cancelled, the place is given back."""
        if not self.limits.limited:
            return Pass()
        self.limits.check_models(caller, models)
        number = self._numbers()
        try:
            answer = await self.bank.enter(AskEnter(number, _client(caller), models, tokens))
        except BaseException:
            self.bank.place(TellLeft(number))
            raise
        return _FarPlace(self.bank, number, _let_in(answer))

    async def touch(self, caller: Caller) -> HeaderList:
        if not self.limits.counts_calls:
            return ()
        return _let_in(await self.bank.enter(AskTouch(_client(caller))))


@define(eq=False)
class _FarPlace:
    bank: LinkBank
    number: int
    headers: HeaderList
    _left: bool = False

    def spent(self, tokens: int, now: float) -> None:
        self.bank.place(TellSpent(self.number, tokens))

    def leave(self, now: float) -> None:
        if not self._left:
            self._left = True
            self.bank.place(TellLeft(self.number))


def _client(caller: Caller) -> Client:
    return Client(caller.agent_id, caller.role, caller.name, caller.client)


def _let_in(answer: Entered | Limited) -> HeaderList:
    if isinstance(answer, Limited):
        raise RateLimited(
            answer.message, retry_after_s=answer.retry_after_s, headers=answer.headers, details=answer.details
        )
    return answer.headers


@frozen
class Doorman:
    """Where the accounts are: counts for all, and knows whose each place is."""

    limits: Limits
    _places: dict[Session, dict[int, Pass]] = field(factory=dict)

    def limit(self, session: Session, asked: AskEnter | AskTouch) -> Entered | Limited:
        """Raises PermissionRefused."""
        now = trio.current_time()
        try:
            if isinstance(asked, AskTouch):
                return Entered(self.limits.touch(_caller(asked.client), now))
            place = self.limits.enter(_caller(asked.client), models=asked.models, tokens=asked.tokens, now=now)
        except RateLimited as error:
            return Limited(error.message, error.retry_after_s or 0.0, error.headers, error.details)
        self._places.setdefault(session, {})[asked.number] = place
        return Entered(place.headers)

    def place(self, session: Session, told: TellSpent | TellLeft) -> None:
        places = self._places.get(session, {})
        if isinstance(told, TellSpent):
            if told.number in places:
                places[told.number].spent(told.tokens, trio.current_time())
        elif (place := places.pop(told.number, None)) is not None:
            place.leave(trio.current_time())

    def forget(self, session: Session) -> None:
        for place in self._places.pop(session, {}).values():
            place.leave(trio.current_time())


def _caller(client: Client) -> Caller:
    role = cast("Literal['anonymous', 'client', 'agent', 'admin']", client.role)
    return Caller(client.agent_id, role, client.name, client.client)
