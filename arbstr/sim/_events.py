"""What may happen to the system, each kind a value: when, a sentence for the story, and how it happens.

A further kind is a class with ``at_s``, ``sentence`` and ``happen``, a function that draws one, and its line in
``KINDS`` here or in ``_vault_events``. ``happen`` runs in a task of its own, outside of the process, and survives the
process's crash.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol
from uuid import uuid4

import trio
from attrs import evolve, field, frozen

from actors import ActorDeadError, AskTimeout, InboxFull, SystemNotRunning
from arbstr.accounts import Deposit, Ended, Held, Release, Reserve, Settle
from arbstr.config import Limit, LimitsConfig
from arbstr.errors import ArbstrError, BillingRefused, LedgerUnavailable
from arbstr.requests import Caller, ModelRequest
from arbstr.sim._facts import Asked, Token
from arbstr.sim._outside import Client
from arbstr.sim._scripts import Script, draw_script
from arbstr.store import ApprovalStatus, ReceiptRow
from arbstr.units import Price
from arbstr.wire import dumps, parse_chat

if TYPE_CHECKING:
    from arbstr.sim._process import Process
    from arbstr.sim._world import World

NS = 1_000_000_000
SPAN_S = 40.0
"""In which everything happens that is drawn."""
ASK_S = 60.0
ATTEMPTS = 4
"""Of a depositor to hear that the money is there."""
_LOST = (ActorDeadError, AskTimeout, InboxFull, SystemNotRunning)


class Event(Protocol):
    @property
    def at_s(self) -> float: ...

    def sentence(self) -> str: ...

    async def happen(self, world: World, number: int) -> None:
        """``number`` is unique among the events of a run."""


@frozen
class Setting:
    """What events may speak of."""

    agents: int
    providers: tuple[str, ...]
    rails: tuple[str, ...] = ()


LOOKS = 60


def moment(dice: random.Random) -> float:
    """Often the same as that of others."""
    return float(dice.randrange(8) * 5) if dice.random() < 0.5 else round(dice.uniform(0, SPAN_S), 2)


# Clients


@frozen
class Ask:
    """A request to a model. ``patience_s`` None: the client waits for ever."""

    at_s: float
    agent: int
    stream: bool
    scripts: tuple[Script, ...]
    max_tokens: int | None = None
    prompt_bytes: int = 20
    include_usage: bool = False
    patience_s: float | None = None
    reads_s: float = 0.0
    leaves_after: int | None = None
    token: int = 0
    """0: the agent's own; else one of all that it has ever had."""
    waits_s: float = 0.0
    """For a human, where one has to allow it."""
    comes_back: bool = False
    """When it has been put off, until somebody has decided."""

    def sentence(self) -> str:
        what = "a stream" if self.stream else "an answer"
        limit = "" if self.max_tokens is None else f" of at most {self.max_tokens} tokens"
        habits = f", reading a piece each {self.reads_s:g} s" if self.reads_s else ""
        if self.leaves_after is not None:
            habits += f", and leaves after {self.leaves_after} pieces"
        if self.patience_s is not None:
            habits += f", and leaves after {self.patience_s:g} s"
        if self.waits_s:
            habits += f", waits {self.waits_s:g} s for a human"
        if self.comes_back:
            habits += ", comes back when it is put off"
        tries = "; then who is asked ".join(script.sentence() for script in self.scripts)
        token = f" with token {self.token}" if self.token else ""
        return f"agent {self.agent} asks{token} for {what}{limit}{habits}; who is asked {tries}"

    async def happen(self, world: World, number: int) -> None:
        process = world.process
        await process.ready.wait()
        if not process.takes_clients:
            return  # it came while there was nobody
        token = world.token_of(world.agents[self.agent], self.token)
        holder = process.accounts.holder_of(token.text)
        world.presented(token, holder)
        if holder is None:
            return
        caller = Caller(holder.agent_id, "agent", holder.name, budget_id=holder.budget_id)
        self._send(world, process, caller, token, None)

    def _send(self, world: World, process: Process, caller: Caller, token: Token, approval_id: str | None) -> None:
        request = self._request(caller, approval_id)
        asked = Asked(
            key=request.request_id,
            agent_id=world.agents[self.agent],
            token=token,
            at_s=trio.current_time(),
            process=process.number,
            stream=self.stream,
            limit=self.max_tokens or None,  # 0 is taken for none
        )
        world.ask(asked, self.scripts)
        client = Client(world, process, asked, self.reads_s, self.leaves_after)
        process.start_client(lambda: self._wait(process, request, client, caller, token))

    def _request(self, caller: Caller, approval_id: str | None) -> ModelRequest:
        body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "p" * self.prompt_bytes}]}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": self.include_usage}}
        return ModelRequest(
            request_id=str(uuid4()),
            correlation_id=None,
            traceparent=None,
            policy=None,
            stream_cost=True,
            caller=caller,
            call=parse_chat(dumps(body)),
            approval_id=approval_id,
            wait_s=self.waits_s,
        )

    async def _wait(
        self, process: Process, request: ModelRequest, client: Client, caller: Caller, token: Token
    ) -> None:
        """What the edge does: it cancels the answer when its client closes the connection."""
        with trio.move_on_after(float("inf") if self.patience_s is None else self.patience_s) as scope:
            try:
                answer = await process.requests.answer(request, client)
            except ArbstrError as error:  # the edge renders it
                client.world.note(f"{request.request_id} is refused with {error.status} {error.reason}")
            else:
                if answer is not None:
                    client.world.count(f"status {answer.status}")
                    client.answered(answer)
                    if answer.status == 202 and self.comes_back:
                        approval_id = dict(answer.headers)[b"x-arbstr-approval"].decode()
                        client.world.errands.start_soon(self._come_back, client.world, caller, token, approval_id)
        if scope.cancelled_caught:
            client.world.count("clients that left")
            client.world.note(f"{request.request_id}: its client has left")

    async def _come_back(self, world: World, caller: Caller, token: Token, approval_id: str) -> None:
        """Look now and then, and come for it; twice, for one of them must be told no."""
        for _ in range(LOOKS):
            await trio.sleep(2)
            row = world.books.approvals.get(approval_id)
            if row is not None and row.status is not ApprovalStatus.PENDING:
                break
        for _ in range(2):
            process = world.process
            await process.ready.wait()
            if process.takes_clients:
                self._send(world, process, caller, token, approval_id)
            await trio.sleep(1)


def draw_ask(dice: random.Random, setting: Setting) -> Event:
    return Ask(
        at_s=moment(dice),
        agent=dice.randrange(setting.agents),
        stream=dice.random() < 0.65,
        scripts=tuple([draw_script(dice) for _ in range(dice.choice((1, 2, 3)))]),
        max_tokens=dice.choice((None, None, 0, 5, 50, 400)),
        prompt_bytes=dice.choice((3, 20, 200)),
        include_usage=dice.random() < 0.5,
        patience_s=dice.choice((None, None, None, round(dice.uniform(0, 15), 2), 0.0)),
        reads_s=dice.choice((0.0, 0.0, 0.0, 1.0, 2.5)),
        leaves_after=dice.choice((None, None, None, None, dice.randrange(5))),
        token=dice.choice((0, 0, 0, dice.randrange(5))),
        waits_s=dice.choice((0.0, 0.0, 5.0, 40.0)),
        comes_back=dice.random() < 0.7,
    )


@frozen
class HoldDirectly:
    """Somebody else holds and settles by hand, saying everything twice, as a careful client of the vault does."""

    at_s: float
    agent: int
    amount_msat: int
    charge_msat: int
    holds_s: float
    """Between hold and end."""
    releases: bool = False

    def sentence(self) -> str:
        end = "releases it" if self.releases else f"settles it with {self.charge_msat} msat"
        hold = f"agent {self.agent} holds {self.amount_msat} msat twice by one key"
        return f"{hold}, and {end} twice {self.holds_s:g} s later"

    async def happen(self, world: World, number: int) -> None:
        process = world.process
        await process.ready.wait()
        if not process.takes_clients:
            return
        agent_id = world.agents[self.agent]
        asked = Asked(f"direct {number}", agent_id, trio.current_time(), process.number, direct=True)
        world.ask(asked)
        process.start_client(lambda: self._hold_and_end(world, process, asked))

    async def _hold_and_end(self, world: World, process: Process, asked: Asked) -> None:
        reserve = Reserve(asked.key, self.amount_msat, "m", "nobody")
        first = await _told(process, asked, reserve)
        second = await _told(process, asked, reserve)
        if isinstance(first, Held) and isinstance(second, Held) and first.amount_msat != second.amount_msat:
            world.wrong([f"M5: {asked.key} holds {first.amount_msat} and then {second.amount_msat} msat"])
        await trio.sleep(self.holds_s)
        if isinstance(first, Held) or isinstance(second, Held):
            with_charge, end = self._ends(asked, world)
            await self._end_twice(world, process, asked, end, with_charge)
            await self._hold_anew(world, process, asked)

    async def _hold_anew(self, world: World, process: Process, former: Asked) -> None:
        """Nothing, by another key: a debt of the last one must be in its way."""
        asked = evolve(former, key=f"{former.key} anew", calls=[], renewed=[])
        world.ask(asked)
        held = await _told(process, asked, Reserve(asked.key, 0, "m", "nobody"))
        if isinstance(held, Held):
            receipt = make_receipt(asked, 0, world.machine.wall_ns())
            await _told(process, asked, Release(asked.key, "it is not needed", receipt))

    def _ends(self, asked: Asked, world: World) -> tuple[int, Settle | Release]:
        charge_msat = 0 if self.releases else self.charge_msat
        receipt = make_receipt(asked, charge_msat, world.machine.wall_ns())
        if self.releases:
            return charge_msat, Release(asked.key, "it is not needed", receipt)
        return charge_msat, Settle(asked.key, charge_msat, receipt)

    async def _end_twice(
        self, world: World, process: Process, asked: Asked, end: Settle | Release, charge_msat: int
    ) -> None:
        first, second = await _told(process, asked, end), await _told(process, asked, end)
        for answer in (first, second):
            if isinstance(answer, Ended) and not process.dead:
                world.promise_end(asked, answer.charged_msat)
        other = Settle(asked.key, charge_msat + 1, make_receipt(asked, charge_msat + 1, world.machine.wall_ns()))
        third = await _told(process, asked, other)
        if isinstance(first, Ended) and isinstance(third, Ended) and not process.dead:
            world.wrong([f"M3: {asked.key} ended with {first.charged_msat} msat and then with {third.charged_msat}"])
        again = await _told(process, asked, Reserve(asked.key, self.amount_msat, "m", "nobody"))
        if isinstance(first, Ended) and isinstance(again, Held) and not process.dead:
            world.wrong([f"M5: {asked.key} has ended and holds again"])


async def _told(process: Process, asked: Asked, message: Reserve | Settle | Release) -> object:
    """What the account answers; None when it refuses or does not answer."""
    try:
        return await process.accounts.ref(asked.agent_id).request(message, timeout_s=ASK_S)
    except (BillingRefused, LedgerUnavailable, *_LOST):
        return None


def make_receipt(asked: Asked, charge_msat: int, now_ns: int) -> ReceiptRow:
    return ReceiptRow(
        request_id=asked.key,
        agent_id=asked.agent_id,
        correlation_id=None,
        hold_id=None,
        started_ns=now_ns,
        duration_us=0,
        model="m",
        provider="nobody",
        policy=None,
        stream=False,
        outcome="ok",
        http_status=200,
        error=None,
        prompt_tokens=None,
        completion_tokens=None,
        estimated=False,
        expected_msat=None,
        cost_msat=charge_msat,
        saved_median_msat=None,
        saved_dearest_msat=None,
    )


def draw_hold(dice: random.Random, setting: Setting) -> Event:
    amount_msat = dice.choice((0, 1, 1_000, 20_000, 10**9))
    return HoldDirectly(
        at_s=moment(dice),
        agent=dice.randrange(setting.agents),
        amount_msat=amount_msat,
        charge_msat=dice.choice((0, 1, amount_msat // 2, amount_msat, amount_msat + 5_000, amount_msat + 200_000)),
        holds_s=dice.choice((0.0, 0.5, 6.0)),
        releases=dice.random() < 0.3,
    )


@frozen
class DepositMoney:
    """Money comes in; whoever brings it repeats the deposit by the same key until told that it is there, and once
    more."""

    at_s: float
    agent: int
    amount_msat: int

    def sentence(self) -> str:
        return f"agent {self.agent} is given {self.amount_msat} msat, which is said until it is heard, and once more"

    async def happen(self, world: World, number: int) -> None:
        key, agent_id = f"deposit {number}", world.agents[self.agent]
        world.facts.deposits[key] = (agent_id, self.amount_msat)
        heard = 0
        for _ in range(ATTEMPTS):
            heard += await self._say(world, key, agent_id)
            if heard == 2:
                return
            await trio.sleep(1)

    async def _say(self, world: World, key: str, agent_id: str) -> bool:
        process = world.process
        answers: list[object] = []

        async def say() -> None:
            try:
                message = Deposit(key, self.amount_msat)
                answers.append(await process.accounts.ref(agent_id).request(message, timeout_s=ASK_S))
            except (LedgerUnavailable, *_LOST) as error:
                world.note(f"{key}: {type(error).__name__}")
            finally:
                done.set()

        done = trio.Event()
        await process.ready.wait()
        if not process.takes_clients:
            return False
        process.start_client(say)
        await done.wait()
        if not answers or process.dead:
            return False
        world.facts.promised_deposits.add(key)
        return True


def draw_deposit(dice: random.Random, setting: Setting) -> Event:
    return DepositMoney(moment(dice), dice.randrange(setting.agents), dice.choice((1, 5_000, 200_000)))


# The machine


Occasion = Literal[
    "at once",
    "change is committed",
    "call reaches a provider",
    "client gets something",
    "order leaves for a wallet",
    "wallet answers",
    "event is told",
]


@frozen
class Crash:
    """The process is killed: at once, or when something has happened so many times from now on. Of what waits for the
    disk, the first ``reached_disk`` changes are there."""

    at_s: float
    when: Occasion = "at once"
    times: int = 1
    reached_disk: int = 0

    def sentence(self) -> str:
        when = "at once" if self.when == "at once" else f"when for the {self.times}. time from now on a {self.when}"
        disk = (
            f", and {self.reached_disk} changes that waited for the disk have reached it" if self.reached_disk else ""
        )
        return f"the process is killed {when}{disk}"

    async def happen(self, world: World, number: int) -> None:
        world.crash_when(self.when, self.times, self.reached_disk)


def draw_crash(dice: random.Random, setting: Setting) -> Event:
    usual: tuple[Occasion, ...] = ("at once", "change is committed", "call reaches a provider", "client gets something")
    others: tuple[Occasion, ...] = ("order leaves for a wallet", "wallet answers", "event is told")
    occasion = dice.choice(usual if dice.random() < 0.7 else others)
    times, reached_disk = dice.choice((1, 2, 5)), dice.choice((0, 0, 1, 3))
    return Crash(round(dice.uniform(0, SPAN_S), 2), occasion, times, reached_disk)


@frozen
class Restart:
    """The process is told to stop, in order, and another one is started."""

    at_s: float
    patience_s: float

    def sentence(self) -> str:
        return f"the process is stopped, requests may go on for {self.patience_s:g} s, and it is started again"

    async def happen(self, world: World, number: int) -> None:
        await world.process.ready.wait()
        await world.restart(self.patience_s)


def draw_restart(dice: random.Random, setting: Setting) -> Event:
    return Restart(moment(dice), dice.choice((0.0, 3.0, 20.0)))


@frozen
class DiskFails:
    at_s: float
    batches: int

    def sentence(self) -> str:
        return f"the disk refuses the next {self.batches} batches"

    async def happen(self, world: World, number: int) -> None:
        world.process.disk_suffered = True
        world.process.ledger.fail_next(self.batches)


@frozen
class DiskSlow:
    at_s: float
    commit_s: float
    for_s: float

    def sentence(self) -> str:
        return f"the disk takes {self.commit_s:g} s for a batch, for {self.for_s:g} s"

    async def happen(self, world: World, number: int) -> None:
        process = world.process
        process.disk_suffered = True
        process.commit_s = self.commit_s
        await trio.sleep(self.for_s)
        process.commit_s = world.scenario.commit_s


@frozen
class DiskGone:
    """``busy``: it takes nothing; otherwise it cannot be read."""

    at_s: float
    busy: bool
    for_s: float

    def sentence(self) -> str:
        return f"the disk {'takes nothing' if self.busy else 'cannot be read'} for {self.for_s:g} s"

    async def happen(self, world: World, number: int) -> None:
        await world.process.ready.wait()  # what a start does without a disk is not to start
        ledger = world.process.ledger
        world.process.disk_suffered = True
        if self.busy:
            ledger.busy = True
        else:
            ledger.unreadable = True
        await trio.sleep(self.for_s)
        if self.busy:
            ledger.busy = False
        else:
            ledger.unreadable = False


def draw_disk(dice: random.Random, setting: Setting) -> Event:
    at_s, for_s = moment(dice), dice.choice((0.5, 3.0, 14.0))
    return dice.choice(
        (
            DiskFails(at_s, dice.choice((1, 1, 2, 6))),
            DiskSlow(at_s, dice.choice((0.01, 0.3, 2.0, 12.0)), for_s),
            DiskGone(at_s, dice.random() < 0.5, for_s),
        )
    )


BACK_S = 3_000
"""No further does the wall clock jump back at once: a retry that is due by it waits for so long."""


@frozen
class ClockJumps:
    at_s: float
    by_s: int

    def sentence(self) -> str:
        return f"the wall clock jumps by {self.by_s} s"

    async def happen(self, world: World, number: int) -> None:
        world.clock_jumps(self.by_s * NS)


def draw_jump(dice: random.Random, setting: Setting) -> Event:
    return ClockJumps(moment(dice), dice.choice((-BACK_S, -60, -7, 7, 300, 86_400)))


# The configuration


def draw_price(dice: random.Random) -> Price:
    return Price.of(dice.choice((0, 1, 10)), dice.choice((1, 2, 30)), dice.choice((0, 0, 1)))


@frozen
class PriceChanges:
    at_s: float
    provider: str
    price: Price | None = field()

    def sentence(self) -> str:
        return f"the price of {self.provider} becomes {self.price}"

    async def happen(self, world: World, number: int) -> None:
        world.price(self.provider, self.price)
        world.configuration_changed()


def draw_repricing(dice: random.Random, setting: Setting) -> Event:
    price = None if dice.random() < 0.15 else draw_price(dice)
    return PriceChanges(moment(dice), dice.choice(setting.providers), price)


@frozen
class ProviderMoves:
    """It leaves the configuration when it is there, and comes back when it is not."""

    at_s: float
    provider: str

    def sentence(self) -> str:
        return f"{self.provider} leaves the configuration, or comes back"

    async def happen(self, world: World, number: int) -> None:
        config, wanted = world.providers[self.provider]
        world.providers[self.provider] = (config, not wanted)
        world.configuration_changed()


def draw_move(dice: random.Random, setting: Setting) -> Event:
    return ProviderMoves(moment(dice), dice.choice(setting.providers))


@frozen
class LimitsChange:
    at_s: float
    limits: LimitsConfig

    def sentence(self) -> str:
        return f"the limits become {self.limits.agent} for an agent, {self.limits.total} for all"

    async def happen(self, world: World, number: int) -> None:
        world.limits = self.limits
        world.configuration_changed()


def draw_limits(dice: random.Random) -> LimitsConfig:
    return LimitsConfig(
        Limit(dice.choice((None, 30)), dice.choice((None, 4_000)), dice.choice((None, 6))),
        Limit(dice.choice((None, 12)), None, dice.choice((None, 3))),
    )


def draw_limits_change(dice: random.Random, setting: Setting) -> Event:
    return LimitsChange(moment(dice), draw_limits(dice))


KINDS: tuple[tuple[Callable[[random.Random, Setting], Event], int, int], ...] = (
    # who draws one, how many there are at least and at most
    (draw_ask, 6, 25),
    (draw_hold, 0, 3),
    (draw_deposit, 0, 3),
    (draw_crash, 0, 3),
    (draw_restart, 0, 1),
    (draw_disk, 0, 2),
    (draw_jump, 0, 2),
    (draw_repricing, 0, 3),
    (draw_move, 0, 2),
    (draw_limits_change, 0, 1),
)
