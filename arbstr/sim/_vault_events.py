"""What agents, operators and other cores do with the vault beside requests: events like those of ``_events``."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

import trio
from attrs import evolve, frozen

from arbstr.accounts import (
    Decided,
    Freeze,
    IssuedToken,
    MintBudget,
    MintedBudget,
    Resolve,
    RevokeBudget,
    RevokeToken,
    RotateToken,
    SetPolicy,
    Unfreeze,
)
from arbstr.edge import PayWish, Settled, Usage
from arbstr.errors import ArbstrError
from arbstr.sim._core import Core, CoreRequest, Fate
from arbstr.sim._events import BACK_S, NS, SPAN_S, Event, Setting, moment
from arbstr.sim._facts import Asked, Token, Wish
from arbstr.sim._invoices import write_invoice
from arbstr.sim._scripts import WalletScript, draw_wallet_script
from arbstr.sim._talk import ASK_S, say, say_until_heard
from arbstr.store import (
    ApprovalRow,
    ApprovalStatus,
    MemoryBooks,
    MemoryLedger,
    PaymentRow,
    PaymentState,
    derived_hold_id,
)

if TYPE_CHECKING:
    from arbstr.sim._process import Process
    from arbstr.sim._world import World

CORE_PATIENCE = 400
"""Times five seconds, until a core has told everything."""
PATIENCE_S = 30
"""Of a human who looks for something to decide."""


# Money that leaves


@frozen
class InvoiceScript:
    """What an agent is to pay. ``asks_msat`` beside what the agent says; None: the payer is to say."""

    asks_more_msat: int | None = 0
    expires_in_s: int = 3_600


@frozen
class SendMoney:
    """A payment or a withdrawal, said by so many callers so many seconds later. With a key everybody repeats until they
    are heard; without one nobody says it twice."""

    at_s: float
    agent: int
    amount_msat: int
    kind: Literal["payment", "withdrawal"]
    keyed: bool
    callers_s: tuple[float, ...]
    waits_s: float
    wallets: tuple[WalletScript, ...]
    """By rail, in the order of the setting."""
    invoice: InvoiceScript | None = None
    then_another: bool = False
    """The same key names something else afterwards."""

    def sentence(self) -> str:
        times = ", ".join(f"{wait_s:g}" for wait_s in self.callers_s)
        how = "by one key" if self.keyed else "without a key"
        wallets = "; the other wallet ".join(script.sentence() for script in self.wallets)
        to = ""
        if self.invoice is not None:
            asks = self.invoice.asks_more_msat
            what = "no amount" if asks is None else f"{asks} msat more" if asks else "as much"
            to = f" to an invoice of {what} for {self.invoice.expires_in_s} s"
        then = ", and another one by the same key" if self.then_another and self.keyed else ""
        what = f"agent {self.agent} sends a {self.kind} of {self.amount_msat} msat{to}"
        return f"{what} {how}, {times} s later{then}; the wallet {wallets}"

    async def happen(self, world: World, number: int) -> None:
        wish = self._wish(world, number, f"key {number}" if self.keyed else None)
        async with trio.open_nursery() as nursery:
            for wait_s in self.callers_s:
                nursery.start_soon(self._say, world, wish, wait_s)
        if self.keyed and self.then_another:
            other = evolve(wish, destination=f"{wish.destination}!", amount_msat=wish.amount_msat + 1, told={})
            self._know(world, evolve(other, invoice=None))
            await self._say(world, world.facts.wishes[other.destination], 0)

    def _wish(self, world: World, number: int, key: str | None) -> Wish:
        invoice, destination = None, f"payee {number}"
        if self.invoice is not None:
            made_at_s, script = world.machine.wall_ns() // NS, self.invoice
            asks = None if script.asks_more_msat is None else self.amount_msat + script.asks_more_msat
            destination = write_invoice(number, asks, made_at_s, script.expires_in_s)
            invoice = (asks, (made_at_s + script.expires_in_s) * NS)
        wish = Wish(destination, world.agents[self.agent], self.kind, self.amount_msat, key, invoice)
        self._know(world, wish)
        return wish

    def _know(self, world: World, wish: Wish) -> None:
        world.facts.wishes[wish.destination] = wish
        world.wallet_scripts[wish.destination] = dict(zip(world.scenario.rails, self.wallets, strict=False))

    async def _say(self, world: World, wish: Wish, wait_s: float) -> None:
        known: dict[str, PaymentState] = {}

        def ask(process: Process) -> Awaitable[PaymentRow]:
            wish.times += 1
            known.update(wish.told)
            if wish.kind == "withdrawal":
                return process.vault.withdraw(wish.agent_id, wish.amount_msat, wish.destination, wish.key)
            sort = "internal" if wish.invoice is None else "lightning_invoice"
            what = PayWish(wish.amount_msat, "BTC_lightning", "a purpose", sort, wish.destination)
            return process.vault.pay(wish.agent_id, what, wish.key, self.waits_s)

        await trio.sleep(wait_s)
        answer = await (say(world, ask) if wish.key is None else say_until_heard(world, ask))
        if isinstance(answer, PaymentRow):
            world.told_payment(wish, answer, known)


def draw_payment(dice: random.Random, setting: Setting) -> Event:
    invoice = None
    if dice.random() < 0.4:
        invoice = InvoiceScript(dice.choice((0, 0, 0, None, None, 1)), dice.choice((3_600, 3_600, 3_600, 2, 0)))
    keyed = dice.random() < 0.7
    return SendMoney(
        at_s=moment(dice),
        agent=dice.randrange(setting.agents),
        amount_msat=dice.choice((1, 400, 1_500, 3_000, 3_000, 8_000, 60_000, 1_500_000)),
        kind=dice.choice(("payment", "payment", "withdrawal")),
        keyed=keyed,
        callers_s=tuple(sorted(dice.choice((0.0, 0.0, 1.0, 9.0, 35.0)) for _ in range(dice.choice((1, 1, 2, 3))))),
        waits_s=dice.choice((0.0, 2.0, 30.0)),
        wallets=tuple([draw_wallet_script(dice) for _ in setting.rails]),
        invoice=invoice,
        then_another=dice.random() < 0.3,
    )


# Humans


@frozen
class Decider:
    """``at_expiry_s`` None: says it ``wait_s`` after the question was seen; else so long after it has expired."""

    verdict: Literal["approve", "deny"]
    wait_s: float = 0.0
    at_expiry_s: float | None = None

    def sentence(self) -> str:
        when = f"{self.wait_s:g} s later" if self.at_expiry_s is None else f"{self.at_expiry_s:g} s after its expiry"
        return f"one says {self.verdict} {when}"


@frozen
class HumansDecide:
    """About one of the approvals that wait then, or about the first that comes; after the wall clock has jumped to its
    expiry, or the operator has made sure of the agent."""

    at_s: float
    which: int
    deciders: tuple[Decider, ...]
    clock_jumps: bool = False
    first: Freeze | SetPolicy | None = None

    def sentence(self) -> str:
        says = ", ".join(decider.sentence() for decider in self.deciders)
        jump = ", after the clock has jumped to its expiry" if self.clock_jumps else ""
        if self.first is None:
            return f"about an approval ({self.which}){jump} {says}"
        policy = self.first if isinstance(self.first, SetPolicy) else None
        then = "frozen" if policy is None else f"given a policy: {in_words(policy)}"
        return f"about an approval ({self.which}){jump}, after its agent was {then}, {says}"

    async def happen(self, world: World, number: int) -> None:
        approval = await self._question(world)
        if approval is None:
            return
        if self.first is not None:
            action = "AGENT_FROZEN" if isinstance(self.first, Freeze) else "POLICY_UPDATED"
            await _operate(world, approval.agent_id, self.first, action)
        left_ns = approval.expires_ns - world.machine.wall_ns()
        if self.clock_jumps and left_ns >= -BACK_S * NS:
            world.clock_jumps(left_ns)
        async with trio.open_nursery() as nursery:
            for place, decider in enumerate(self.deciders):
                nursery.start_soon(self._decide, world, approval, f"human {number}.{place}", decider)

    async def _question(self, world: World) -> ApprovalRow | None:
        for _ in range(PATIENCE_S):
            pending = [row for row in world.books.approvals.values() if row.status is ApprovalStatus.PENDING]
            if pending:
                return pending[self.which % len(pending)]
            await trio.sleep(1)
        return None

    async def _decide(self, world: World, approval: ApprovalRow, name: str, decider: Decider) -> None:
        key, facts, wait_s = approval.approval_id, world.facts, decider.wait_s
        if decider.at_expiry_s is not None:
            wait_s = (approval.expires_ns - world.machine.wall_ns()) / NS + decider.at_expiry_s
        await trio.sleep(max(0.0, min(wait_s, 200.0)))
        facts.verdicts.setdefault(key, set()).add((decider.verdict, name))
        message = Resolve(key, decider.verdict, name, wait_s=5.0)
        answer = await say_until_heard(world, lambda process: process.approvals.request(message, timeout_s=ASK_S))
        world.note(f"{name} says {decider.verdict} of {key} and hears {type(answer).__name__}")
        if isinstance(answer, Decided):
            world.count(f"decided {answer.approval.status.value}")
            facts.decided.setdefault(key, []).append(name)
            if answer.payment is not None:
                world.told_payment(facts.wishes[answer.payment.destination or ""], answer.payment, {})


def draw_humans(dice: random.Random, setting: Setting) -> Event:
    deciders = tuple(
        [
            Decider(
                dice.choice(("approve", "approve", "approve", "deny")),
                dice.choice((0.0, 0.0, 0.5, 5.0)),
                dice.choice((None, None, None, None, None, -4.0, -0.2, -0.2, -0.001, 0.0, 0.001, 3.0)),
            )
            for _ in range(dice.choice((1, 1, 2, 2, 3)))
        ]
    )
    first = dice.choice((None, None, None, None, None, Freeze("to be safe"), draw_policy(dice)))
    return HumansDecide(moment(dice), dice.randrange(4), deciders, dice.random() < 0.2, first)


# The operator


def draw_policy(dice: random.Random) -> SetPolicy:
    if dice.random() < 0.04:
        return SetPolicy(0, 0)
    return SetPolicy(
        max_transaction_msat=dice.choice((None, None, 2_000, 5_000, 100_000, 1_000_000)),
        daily_limit_msat=dice.choice((None, None, 6_000, 20_000, 300_000, 5_000_000)),
        max_fee_msat=dice.choice((None, 0, 2_000)),
        approval_timeout_ms=dice.choice((None, 30_000, 30_000, 30_000, 45_000, 120_000)),
        alert_floor_msat=dice.choice((None, None, 3_000, 100_000)),
        alert_cooldown_ms=dice.choice((None, 0, 5_000, 60_000)),
        models=dice.choice(((), (), (), (), (), (), (), ("m",), ("n",))),
        max_holds=dice.choice((None, None, None, 1, 3)),
    )


def in_words(policy: SetPolicy | None) -> str:
    if policy is None:
        return "none"
    limits = f"{policy.max_transaction_msat} at once, {policy.daily_limit_msat} a day, {policy.max_holds} holds"
    asked = f"asks for {policy.approval_timeout_ms} ms, fees up to {policy.max_fee_msat}"
    alert = f"alert below {policy.alert_floor_msat} each {policy.alert_cooldown_ms} ms"
    return f"{limits}, {asked}, models {policy.models}, {alert}"


@frozen
class PolicyChanges:
    at_s: float
    agent: int
    policy: SetPolicy
    later_s: int

    def sentence(self) -> str:
        return f"the policy of agent {self.agent} becomes {in_words(self.policy)}, from {self.later_s} s later on"

    async def happen(self, world: World, number: int) -> None:
        agent_id = world.agents[self.agent]
        effective_ns = world.machine.wall_ns() + self.later_s * NS if self.later_s else None
        await _operate(world, agent_id, evolve(self.policy, effective_ns=effective_ns), "POLICY_UPDATED")


def draw_policy_change(dice: random.Random, setting: Setting) -> Event:
    return PolicyChanges(moment(dice), dice.randrange(setting.agents), draw_policy(dice), dice.choice((0, 0, 7, 20)))


async def _operate(world: World, agent_id: str, message: Any, action: str) -> Any:
    """Once; the answer when it is done."""
    answer = await say(world, lambda process: process.accounts.ask(agent_id, message))
    if answer is None or isinstance(answer, ArbstrError):
        return None
    world.done(agent_id, action)
    return answer


@frozen
class FreezeAgent:
    at_s: float
    agent: int
    for_s: float

    def sentence(self) -> str:
        return f"agent {self.agent} is frozen for {self.for_s:g} s"

    async def happen(self, world: World, number: int) -> None:
        agent_id = world.agents[self.agent]
        await _operate(world, agent_id, Freeze("to be safe"), "AGENT_FROZEN")
        await trio.sleep(self.for_s)
        await _operate(world, agent_id, Unfreeze(), "AGENT_UNFROZEN")


def draw_freeze(dice: random.Random, setting: Setting) -> Event:
    return FreezeAgent(moment(dice), dice.randrange(setting.agents), dice.choice((1.0, 8.0, 30.0)))


@frozen
class ReplayEvent:
    """The operator has an event told again."""

    at_s: float
    which: int

    def sentence(self) -> str:
        return f"an event ({self.which}) is told again"

    async def happen(self, world: World, number: int) -> None:
        events = list(world.books.outbox)
        if events:
            event_id = events[self.which % len(events)]
            await say_until_heard(world, lambda process: process.vault.replay(event_id))


def draw_replay(dice: random.Random, setting: Setting) -> Event:
    return ReplayEvent(moment(dice), dice.randrange(9))


# Budgets and tokens


@frozen
class MintBudgetOf:
    """A part of an agent's money for a token of its own, whose bearer calls another core as often as they can."""

    at_s: float
    agent: int
    amount_msat: int
    models: tuple[str, ...] = ()
    max_holds: int | None = None
    lasts_s: int | None = None
    calls: tuple[AnotherCore, ...] = ()
    ends_after_s: float | None = None
    """By the agent's word."""

    def sentence(self) -> str:
        limits = f"for {self.models}, {self.max_holds} holds, {self.lasts_s} s"
        ends = "" if self.ends_after_s is None else f", revokes it {self.ends_after_s:g} s later"
        calls = "".join(f"; with its token {call.in_words()}" for call in self.calls)
        return f"agent {self.agent} mints a budget of {self.amount_msat} msat {limits}{ends}{calls}"

    async def happen(self, world: World, number: int) -> None:
        agent_id = world.agents[self.agent]
        expires_ns = None if self.lasts_s is None else world.machine.wall_ns() + self.lasts_s * NS
        message = MintBudget(f"budget {number}", self.amount_msat, self.models, self.max_holds, expires_ns)
        answer = await _operate(world, agent_id, message, "BUDGET_MINTED")
        if not isinstance(answer, MintedBudget):
            return
        token = _learn(world, answer.token)
        async with trio.open_nursery() as nursery:
            for place, call in enumerate(self.calls):
                nursery.start_soon(call.speak, world, token, f"core {number}.{place}")
            if self.ends_after_s is not None:
                await trio.sleep(self.ends_after_s)
                await _end_budget(world, token)


def draw_budget(dice: random.Random, setting: Setting) -> Event:
    amount_msat = dice.choice((40, 400, 3_000, 50_000))
    parts = (amount_msat, amount_msat // 2, amount_msat // 2 + 1, amount_msat // 3)
    calls = [draw_core(dice, setting) for _ in range(dice.choice((0, 0, 2, 4)))]
    return MintBudgetOf(
        at_s=round(dice.uniform(0, SPAN_S / 3), 2),
        agent=dice.randrange(setting.agents),
        amount_msat=amount_msat,
        calls=tuple([call.of(dice.choice(parts)) for call in calls]),
        ends_after_s=dice.choice((None, None, 2.0, 9.0)),
        models=dice.choice(((), (), (), ("m",), ("n",))),
        max_holds=dice.choice((None, None, 1, 2)),
        lasts_s=dice.choice((None, None, 10, 25)),
    )


def _learn(world: World, issued: IssuedToken) -> Token:
    row = issued.row
    token = Token(issued.token, row.agent_id, row.token_id, row.budget_id)
    world.facts.tokens.append(token)
    return token


async def _end_budget(world: World, token: Token) -> None:
    assert token.budget_id is not None
    tokens = world.tokens_of(token.agent_id)
    if await _operate(world, token.agent_id, RevokeBudget(token.budget_id), "BUDGET_REVOKED"):
        world.facts.revoked.update(each.text for each in tokens if each.budget_id == token.budget_id)


@frozen
class EndToken:
    """A token is revoked, or replaced by another, or its budget is revoked."""

    at_s: float
    agent: int
    which: int
    how: Literal["revoke", "replace", "end budget"]
    grace_s: float = 0.0

    def sentence(self) -> str:
        grace = f" within {self.grace_s:g} s" if self.grace_s and self.how == "replace" else ""
        return f"of agent {self.agent}, token {self.which} ends{grace} ({self.how})"

    async def happen(self, world: World, number: int) -> None:
        agent_id = world.agents[self.agent]
        token = world.token_of(agent_id, self.which)
        if self.how == "replace":
            issued = await _operate(world, agent_id, RotateToken(token.token_id, self.grace_s), "TOKEN_ROTATED")
            if isinstance(issued, IssuedToken):
                _learn(world, issued)
                if not self.grace_s:
                    world.facts.revoked.add(token.text)
        elif self.how == "end budget":
            if token.budget_id is not None:
                await _end_budget(world, token)
        elif await _operate(world, agent_id, RevokeToken(token.token_id), "TOKEN_REVOKED"):
            world.facts.revoked.add(token.text)


def draw_token_end(dice: random.Random, setting: Setting) -> Event:
    """The agent's own token is mostly replaced: without one it does nothing more."""
    how: tuple[Literal["revoke", "replace", "end budget"], ...] = ("revoke", "replace", "replace", "end budget")
    return EndToken(
        round(dice.uniform(5, SPAN_S), 2),
        dice.randrange(setting.agents),
        dice.choice((0, dice.randrange(5))),
        dice.choice(how),
        dice.choice((0.0, 4.0, 20.0)),
    )


# Another core


@frozen
class Way:
    """How one message gets to the vault: copies arrive after so many seconds, and so many first answers are lost."""

    copies_s: tuple[float, ...] = (0.0,)
    answers_lost: int = 0

    def sentence(self) -> str:
        lost = f", {self.answers_lost} answers are lost" if self.answers_lost else ""
        return f"after {', '.join(f'{copy_s:g}' for copy_s in self.copies_s)} s{lost}"


def _draw_way(dice: random.Random) -> Way:
    copies = sorted(dice.choice((0.0, 0.0, 0.0, 0.3, 2.0, 9.0, 30.0)) for _ in range(dice.choice((1, 1, 2, 3))))
    return Way(tuple(copies), dice.choice((0, 0, 0, 1, 2)))


@frozen
class AnotherCore:
    """It holds, extends, and settles or releases over the vault's API, in the name of an agent that has called it.

    It repeats what it does not hear an answer to. Copies of its messages come late, after what it has said since.
    """

    at_s: float
    agent: int
    token: int
    amount_msat: int
    charge_msat: int
    extends_to_msat: int | None
    extends_after_s: float
    holds_s: float
    releases: bool
    model: str
    reserve: Way
    extend: Way
    end: Way

    def sentence(self) -> str:
        return f"with token {self.token} of agent {self.agent} {self.in_words()}"

    def in_words(self) -> str:
        more = ""
        if self.extends_to_msat is not None:
            more = f", {self.extends_after_s:g} s later {self.extends_to_msat} ({self.extend.sentence()})"
        end = "releases" if self.releases else f"settles with {self.charge_msat}"
        hold = f"another core holds {self.amount_msat} msat for {self.model} ({self.reserve.sentence()}){more}"
        return f"{hold} and {end} {self.holds_s:g} s later ({self.end.sentence()})"

    def of(self, amount_msat: int) -> AnotherCore:
        """The same of another amount."""
        extends = None if self.extends_to_msat is None else amount_msat + 1
        return evolve(self, amount_msat=amount_msat, charge_msat=amount_msat // 2, extends_to_msat=extends)

    async def happen(self, world: World, number: int) -> None:
        await self.speak(world, world.token_of(world.agents[self.agent], self.token), f"core {number}")

    async def speak(self, world: World, token: Token, name: str) -> None:
        asked = Asked(
            key=derived_hold_id("reserve", token.agent_id, name),
            agent_id=token.agent_id,
            at_s=trio.current_time(),
            process=0,
            direct=True,
            remote=True,
            token=token,
        )
        world.ask(asked)
        async with trio.open_nursery() as nursery:
            post = _Post(world, asked, nursery)
            if await post.send(self.reserve, lambda p: self._reserve(world, p, asked, name)) is None:
                return
            if self.extends_to_msat is not None:
                await trio.sleep(self.extends_after_s)
                await post.send(self.extend, lambda p: self._extend(world, p, asked))
            await trio.sleep(self.holds_s)
            await post.send(self.end, lambda p: self._end(world, p, asked, self.charge_msat))
            other = evolve(self, releases=False)
            await say(world, lambda p: other._end(world, p, asked, self.charge_msat + 1))

    async def _reserve(self, world: World, process: Process, asked: Asked, name: str) -> object:
        assert asked.token is not None
        token, sent_ns = asked.token, world.machine.wall_ns()
        world.presented(token, process.vault.holder_of(token.text))
        held = await process.vault.reserve(token.text, self.amount_msat, name, self.model)
        if not process.dead:
            self._promise(world, asked, held.amount_msat, sent_ns)
            if held.reservation_id != asked.key:
                world.wrong([f"M5: {name} was to hold as {asked.key} and holds as {held.reservation_id}"])
        return held

    async def _extend(self, world: World, process: Process, asked: Asked) -> object:
        sent_ns = world.machine.wall_ns()
        held = await process.vault.extend(asked.key, self.extends_to_msat or 0)
        if not process.dead:
            self._promise(world, asked, held.amount_msat, sent_ns)
        return held

    def _promise(self, world: World, asked: Asked, amount_msat: int, sent_ns: int) -> None:
        at_ns = min(sent_ns, world.machine.wall_ns())
        hold = world.books.holds.get(world.books.hold_ids.get(asked.key, ""))
        if hold is not None and hold.lease_ns >= at_ns + world.memory.reservation_lease_ns:
            asked.sign_of_life_ns = at_ns
        else:  # as long as it may be lost in a crash
            world.signs.append((asked, at_ns))
            asked.sign_of_life_ns = min(asked.sign_of_life_ns, at_ns)
        promised = world.facts.promised_holds
        promised[asked.key] = max(amount_msat, promised.get(asked.key, 0))

    async def _end(self, world: World, process: Process, asked: Asked, charge_msat: int) -> object:
        """True is what a release comes to."""
        if self.releases:
            await process.vault.release(asked.key, "it is not needed")
            charged_msat, ended = 0, object()
        else:
            ended = await process.vault.settle(asked.key, charge_msat, Usage(1, 2, "somebody", 3))
            assert isinstance(ended, Settled)
            charged_msat = ended.charged_msat
            if charged_msat != charge_msat:
                world.wrong([f"M3: {asked.key} was to end with {charge_msat} msat and ends with {charged_msat}"])
        if not process.dead:
            world.promise_end(asked, charged_msat)
        return ended


@frozen
class _Post:
    """The way between a core and the vault."""

    world: World
    asked: Asked
    nursery: trio.Nursery

    async def send(self, way: Way, message: Callable[[Process], Awaitable[object]]) -> object | None:
        """The first answer that arrives; None when the vault refuses, or nothing is ever heard."""
        lost = way.answers_lost
        answers: list[Any] = []
        for _ in range(4):
            heard = trio.Event()

            async def carry(copy_s: float, heard: trio.Event = heard) -> None:
                nonlocal lost
                await trio.sleep(copy_s)
                answer = await say(self.world, message)
                if answer is not None:
                    if lost > 0:
                        lost -= 1
                        return
                    answers.append(answer)
                    heard.set()

            for copy_s in way.copies_s:
                self.nursery.start_soon(carry, copy_s)
            with trio.move_on_after(12):
                await heard.wait()
            if answers:
                return None if isinstance(answers[0], ArbstrError) else answers[0]
        return None


def draw_core(dice: random.Random, setting: Setting) -> AnotherCore:
    amount_msat = dice.choice((0, 1, 300, 2_000, 20_000))
    return AnotherCore(
        at_s=moment(dice),
        agent=dice.randrange(setting.agents),
        token=dice.choice((0, 0, dice.randrange(4))),
        amount_msat=amount_msat,
        charge_msat=dice.choice((0, 1, amount_msat // 2, amount_msat, amount_msat + 700)),
        extends_to_msat=dice.choice((None, amount_msat // 2, amount_msat + 500, amount_msat + 500)),
        extends_after_s=dice.choice((0.0, 2.0, 4.0, 12.0)),
        holds_s=dice.choice((0.0, 1.0, 8.0, 25.0)),
        releases=dice.random() < 0.3,
        model=dice.choice("mmmn"),
        reserve=_draw_way(dice),
        extend=_draw_way(dice),
        end=_draw_way(dice),
    )


@frozen
class OurCore:
    """A core of ours in a process of its own, with the vault as its bank; it may be killed, and starts anew."""

    at_s: float
    agent: int
    token: int
    requests: tuple[CoreRequest, ...]
    fates: tuple[Fate, ...]
    """Of its calls to the vault, over and over; in the end all arrive."""
    crashes_s: tuple[float, ...]
    killed_when_told: bool = False
    """As soon as the first client hears what it costs."""

    def sentence(self) -> str:
        what = "; one that ".join(request.sentence() for request in self.requests)
        kills = "".join(f", is killed after {crash_s:g} s" for crash_s in self.crashes_s)
        kills += ", is killed when a client is told" if self.killed_when_told else ""
        who = f"a core of its own serves agent {self.agent} with token {self.token}"
        return f"{who}{kills}; its calls {', '.join(self.fates)}: a request that {what}"

    async def happen(self, world: World, number: int) -> None:
        token = world.token_of(world.agents[self.agent], self.token)
        cores = [Core(world, token, self.fates, MemoryLedger(MemoryBooks()))]
        async with trio.open_nursery() as lives:
            lives.start_soon(cores[0].run)
            async with trio.open_nursery() as nursery:
                for request in self.requests:
                    nursery.start_soon(self._serve, cores, request)
                for crash_s in self.crashes_s:
                    nursery.start_soon(self._crash, world, cores, lives, crash_s)
                if self.killed_when_told:
                    with trio.move_on_after(SPAN_S):
                        await cores[0].told.wait()
                        await self._crash(world, cores, lives, 0)
            await self._end(world, cores[-1])

    async def _serve(self, cores: list[Core], request: CoreRequest) -> None:
        await trio.sleep(request.begins_s)
        core = await self._living(cores)
        core.front.start_soon(core.serve, request)

    async def _crash(self, world: World, cores: list[Core], lives: trio.Nursery, crash_s: float) -> None:
        await trio.sleep(crash_s)
        core = await self._living(cores)
        world.count("crashes of cores")
        world.note("a core is killed")
        cores.append(core.crash())
        lives.start_soon(cores[-1].run)

    async def _living(self, cores: list[Core]) -> Core:
        core = None
        while core is not cores[-1]:
            core = cores[-1]
            await core.ready.wait()
        return core

    async def _end(self, world: World, core: Core) -> None:
        await trio.sleep(max((request.lives_s for request in self.requests), default=0.0))
        core.may_end = True
        for _ in range(CORE_PATIENCE):
            if core.is_settled:
                break
            await trio.sleep(5)
        else:
            world.wrong([f"M6: a core has not told the vault in time what it owes: {core.backlog}"])
        core.ended.set()
        await core.gone.wait()
        core.judge()


def draw_our_core(dice: random.Random, setting: Setting) -> Event:
    fates: tuple[Fate, ...] = ("arrives", "late", "lost", "unheard", "hangs", "twice", "refused")
    return OurCore(
        at_s=moment(dice),
        agent=dice.randrange(setting.agents),
        token=dice.choice((0, 0, dice.randrange(4))),
        requests=tuple([_draw_core_request(dice) for _ in range(dice.choice((1, 2, 4)))]),
        fates=("arrives", *[dice.choice(("arrives", "arrives", "arrives", *fates)) for _ in range(5)]),
        crashes_s=tuple(sorted(round(dice.uniform(0.1, 25), 1) for _ in range(dice.choice((0, 0, 1, 2))))),
        killed_when_told=dice.random() < 0.4,
    )


def _draw_core_request(dice: random.Random) -> CoreRequest:
    amount_msat = dice.choice((0, 1, 300, 2_000))
    return CoreRequest(
        begins_s=dice.choice((0.0, 0.0, 2.0, 9.0)),
        amount_msat=amount_msat,
        extends_to_msat=dice.choice((None, None, amount_msat + 500)),
        lives_s=dice.choice((0.0, 1.0, 12.0, 30.0)),
        charge_msat=dice.choice((0, 1, amount_msat, amount_msat + 90)),
        releases=dice.random() < 0.25,
    )


KINDS: tuple[tuple[Callable[[random.Random, Setting], Event], int, int], ...] = (
    (draw_payment, 1, 6),
    (draw_humans, 1, 4),
    (draw_policy_change, 0, 2),
    (draw_freeze, 0, 2),
    (draw_budget, 0, 2),
    (draw_token_end, 0, 2),
    (draw_core, 0, 3),
    (draw_replay, 0, 1),
    (draw_our_core, 0, 1),
)
