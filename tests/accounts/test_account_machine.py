"""One account in any order of operations, faults, crashes and times: the books stay right and no limit is passed.

Two judges that share nothing with the account. ``Watched`` looks at every commit that holds money and recomputes from
the committed rows whether it was allowed at its time. ``expected`` says what a request that comes alone must be told.
"""

import queue
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import ActorDeadError, ActorSystem
from arbstr.accounts import (
    Accounts,
    Balance,
    Deposit,
    Ended,
    Extend,
    Freeze,
    Held,
    MintBudget,
    MintedBudget,
    Release,
    Renew,
    Reserve,
    RevokeBudget,
    SetPolicy,
    Settle,
    Unfreeze,
)
from arbstr.errors import BillingRefused, InvalidRequest, LedgerUnavailable, NotFound
from arbstr.store import (
    DAY_NS,
    AccountChange,
    BudgetRow,
    HoldRow,
    HoldState,
    MemoryLedger,
    PolicyRow,
    StoreUnavailable,
    new_agent,
)
from tests.accounts.bank import make_receipt

LEASE_S = 3_600.0
KEYS = st.sampled_from([f"r{number}" for number in range(12)])
AMOUNTS = st.sampled_from([0, 1, 20, 49, 50, 51, 80, 100, 120])
MODELS = st.sampled_from("mmmn")
LIMITS = st.sampled_from([None, None, 0, 50, 100, 250])
MAX_STEPS = 2_000
"""Until everybody is answered. Each repeated deposit has all that were decided after it decided anew, one per step."""


class Watched(MemoryLedger):
    """Refuses to believe a commit that holds more than is allowed."""

    def _do(self, job: Any, failure: Any) -> tuple[Any, Any]:
        answer = super()._do(job, failure)
        change = getattr(job, "change", None)
        if isinstance(change, AccountChange) and answer == (None, None):
            self._judge(change)
        return answer

    def _judge(self, change: AccountChange) -> None:
        hold = change.hold
        if hold is None or hold.state is not HoldState.OPEN:
            return
        row, now, agent_id = self._books.holds[hold.hold_id], change.at_ns, change.after.agent_id
        assert change.after.debt_msat == 0
        assert self._books.agents[agent_id].frozen_ns is None, "held for a frozen agent"
        held = [each for each in self._books.holds.values() if each.state is HoldState.OPEN]
        policy = self.policy(agent_id, now)
        if policy.set_by_operator:
            limits = (policy.max_transaction_msat, policy.daily_limit_msat)
            assert limits != (0, 0)
            assert limits[0] is None or row.amount_msat <= limits[0]
            assert limits[1] is None or self.day_spend(now) <= limits[1]
            if isinstance(hold, HoldRow):
                assert not policy.models or row.model in policy.models
                assert policy.max_holds is None or len(held) <= policy.max_holds
        if row.budget_id is not None:
            budget = self._books.budgets[row.budget_id]
            of_it = [each for each in held if each.budget_id == row.budget_id]
            assert budget.revoked_ns is None
            assert budget.expires_ns is None or budget.expires_ns > now
            assert budget.spent_msat + sum(each.amount_msat for each in of_it) <= budget.amount_msat
            if isinstance(hold, HoldRow):
                assert not budget.models or row.model in budget.models
                assert budget.max_holds is None or len(of_it) <= budget.max_holds

    def policy(self, agent_id: str, now: int) -> PolicyRow:
        return max(
            (row for row in self._books.policies[agent_id] if row.effective_ns <= now), key=lambda row: row.version
        )

    def day_spend(self, now: int) -> int:
        return sum(
            row.amount_msat if row.state is HoldState.OPEN else row.charged_msat or 0
            for row in self._books.holds.values()
            if row.state is HoldState.OPEN or (row.ended_ns or 0) > now - DAY_NS
        )

    def expected(self, agent_id: str, message: Reserve, now: int) -> tuple[int, str] | None:
        """What a request must be told when nothing else is going on; None: that it holds."""
        books = self._books
        account, policy = books.accounts[agent_id], self.policy(agent_id, now)
        held = [each for each in books.holds.values() if each.state is HoldState.OPEN]
        if message.key in books.hold_ids:
            row = books.holds[books.hold_ids[message.key]]
            same = row.state is HoldState.OPEN and row.budget_id == message.budget_id
            return None if same else (409, "key_used")
        refusals: list[tuple[bool, int, str]] = [(books.agents[agent_id].frozen_ns is not None, 403, "frozen")]
        if policy.set_by_operator:
            maximum, daily = policy.max_transaction_msat, policy.daily_limit_msat
            refusals += [
                (maximum == 0 == daily, 403, "deny_all_policy"),
                (bool(policy.models) and message.model not in policy.models, 403, "model_not_allowed"),
                (maximum is not None and message.amount_msat > maximum, 403, "exceeds_max_transaction"),
                (
                    daily is not None and self.day_spend(now) + message.amount_msat > daily,
                    403,
                    "exceeds_daily_limit",
                ),
                (policy.max_holds is not None and len(held) >= policy.max_holds, 429, "too_many_holds"),
            ]
        if message.budget_id is not None:
            budget = books.budgets[message.budget_id]
            of_it = [each for each in held if each.budget_id == message.budget_id]
            left = budget.amount_msat - budget.spent_msat - sum(each.amount_msat for each in of_it)
            ended = budget.revoked_ns is not None or (budget.expires_ns is not None and budget.expires_ns <= now)
            refusals += [
                (ended, 403, "budget_ended"),
                (bool(budget.models) and message.model not in budget.models, 403, "model_not_allowed"),
                (message.amount_msat > max(0, left), 402, "budget_exhausted"),
                (budget.max_holds is not None and len(of_it) >= budget.max_holds, 429, "too_many_holds"),
            ]
        refusals += [
            (account.debt_msat > 0, 402, "outstanding_debt"),
            (message.amount_msat > account.available_msat, 402, "insufficient_balance"),
        ]
        return next(((status, reason) for applies, status, reason in refusals if applies), None)

    def crash(self, committed: int = 0) -> "Watched":
        return Watched(super().crash(committed)._books, max_batch=self._max_batch)

    def hold(self, key: str) -> HoldRow | None:
        return self._books.holds.get(self._books.hold_ids.get(key, ""))


class Run:
    """A Trio run in steps, for a test that is not async: ``do`` returns when all that can happen has happened."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.outcome: Any = None
        self._command: Callable[[], None] | None = None
        self._idle = False
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self.calls.put,
            done_callback=self._over,
            host_uses_signal_set_wakeup_fd=True,
            clock=self.clock,
        )
        self._pump(lambda: self._idle)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self.nursery, ActorSystem.run() as self.system:
            while True:
                self._wake = trio.Event()
                self._idle = True
                await self._wake.wait()
                if self._command is None:
                    return
                self._command()
                await wait_all_tasks_blocked()

    def _over(self, outcome: Any) -> None:
        self.outcome = outcome

    def _pump(self, until: Callable[[], bool]) -> None:
        while not until():
            if self.outcome is not None:
                self.outcome.unwrap()
                raise AssertionError("the run has ended")
            self.calls.get(timeout=20)()

    def do(self, command: Callable[[], None], later_s: float = 0.0) -> None:
        failures: list[AssertionError] = []

        def run() -> None:
            self.clock.jump(later_s)
            try:
                command()
            except AssertionError as failure:  # the run goes on, so that it can be ended
                failures.append(failure)

        self._command, self._idle = run, False
        self._token.run_sync_soon(self._wake.set)
        self._pump(lambda: self._idle)
        for failure in failures:
            raise failure

    def end(self) -> None:
        if self.outcome is not None:
            return
        self._command = None
        self._token.run_sync_soon(self._wake.set)
        while self.outcome is None:
            try:
                self.calls.get(timeout=0.01)()
            except queue.Empty:
                self._token.run_sync_soon(self.clock.jump, 10.0)


class AccountMachine(RuleBasedStateMachine):
    """What comes of messages is judged when they are answered; what is on disk, whenever it is written."""

    @initialize(deposit=st.sampled_from([0, 150, 400, 1_000]), batch=st.sampled_from([1, 2, 100]))
    def begin(self, deposit: int, batch: int) -> None:
        self.now = 20 * DAY_NS
        self.clock = patch("time.time_ns", lambda: self.now)
        self.clock.start()
        self.waiting: list[Any] = []
        self.deposits = 0
        self.budgets: list[str] = []
        self.ledger = Watched(max_batch=batch)
        agent, change = new_agent("agent")
        self.agent_id = agent.agent_id
        self.ledger.commit_now(change)
        self.ledger.at_once = False
        self.run = Run()
        self.accounts = self._accounts()
        if deposit:
            self._send(Deposit("first", deposit))
            self._finish()

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        try:
            if self.run.outcome is None:
                self._finish()
                self._check_books()
        finally:
            self.ledger.crash()
            self.run.end()
            self.clock.stop()

    def _accounts(self) -> Accounts:
        return Accounts(self.run.system, self.ledger, [], hold_lease_s=LEASE_S, idle_s=0.0)

    # Messages

    def _send(self, message: Any) -> Any:
        entry = [message, None, self._of_nothing(message)]

        async def wait(future: Any) -> None:
            try:
                entry[1] = await future
            except Exception as error:
                entry[1] = error

        def send() -> None:
            future = self.accounts.ref(self.agent_id).ask(message, block=False)
            self.run.nursery.start_soon(wait, future)

        self.waiting.append(entry)
        self.run.do(send)
        self._hear()
        return entry

    def _hear(self) -> None:
        for message, answer, of_nothing in self.waiting:
            if answer is not None and not (of_nothing and answer == Ended(message.key, 0, 0, 0)):
                self._judge(message, answer)
        self.waiting = [entry for entry in self.waiting if entry[1] is None]

    def _of_nothing(self, message: Any) -> bool:
        """A release of what nobody has asked for yet. Whoever asks afterwards may have it when this is answered."""
        asked = [entry[0].key for entry in self.waiting if isinstance(entry[0], Reserve)]
        return isinstance(message, Release) and self.ledger.hold(message.key) is None and message.key not in asked

    def _judge(self, message: Any, answer: Any) -> None:
        """What somebody was told is on disk."""
        row = self.ledger.hold(getattr(message, "key", ""))
        match answer:
            case Held():
                assert row is not None
                assert row.state is not HoldState.OPEN or row.amount_msat >= answer.amount_msat
            case Ended():
                assert row is None or row.charged_msat == answer.charged_msat
                assert row is not None or answer.charged_msat == 0
            case PolicyRow():
                assert answer in self.ledger._books.policies[self.agent_id]
            case MintedBudget():
                self.budgets.append(answer.budget.budget_id)
                assert answer.budget.budget_id in self.ledger._books.budgets
            case BudgetRow():
                assert self.ledger._books.budgets[answer.budget_id].revoked_ns is not None
            case Exception():
                known = BillingRefused | LedgerUnavailable | NotFound | ActorDeadError
                expired = isinstance(message, MintBudget) and isinstance(answer, InvalidRequest)
                assert expired or isinstance(answer, known), (message, answer)
                if isinstance(message, Settle | Release):
                    assert not isinstance(answer, LedgerUnavailable), "an end was given up"
            case _ if isinstance(message, Deposit):
                assert f"deposit:{message.key}" in self.ledger._books.transactions

    def _write(self, later_s: float = 0.0) -> None:
        self.run.do(lambda: self.ledger.step() and None, later_s)
        self._hear()

    def _finish(self) -> None:
        """When the disk works, everybody is answered."""
        self.ledger.busy = self.ledger.unreadable = False
        self.ledger._failures.clear()
        for _ in range(MAX_STEPS):
            if not self.waiting and not self.ledger.waiting:
                return
            self._write(later_s=3.0)
        raise AssertionError(f"never answered: {self.waiting}")

    def _budget(self, number: int) -> str | None:
        return self.budgets[number % len(self.budgets)] if self.budgets and number else None

    @rule(key=KEYS, amount=AMOUNTS, model=MODELS, budget=st.integers(0, 3))
    def reserve(self, key: str, amount: int, model: str, budget: int) -> None:
        self._send(Reserve(key, amount, model, "p", budget_id=self._budget(budget)))

    @rule(key=KEYS, amount=AMOUNTS, model=MODELS, budget=st.integers(0, 3))
    def reserve_alone(self, key: str, amount: int, model: str, budget: int) -> None:
        # What an account that was killed had begun may be written after another has read the books. Nothing can be
        # granted on those, but refusals may be out of date until the next commit, so there is one.
        self._finish()
        self.deposits += 1
        self._send(Deposit(f"d{self.deposits}", 1))
        self._finish()
        message = Reserve(key, amount, model, "p", budget_id=self._budget(budget))
        expected = self.ledger.expected(self.agent_id, message, self.now)
        entry = self._send(message)
        self._finish()
        told = entry[1]
        if expected == (409, "key_used"):  # an account that was started since sees the policy first
            assert isinstance(told, BillingRefused), told
            return
        assert expected == ((told.status, told.reason) if isinstance(told, BillingRefused) else None), told
        assert isinstance(told, BillingRefused | Held), told

    @rule(key=KEYS, to=AMOUNTS)
    def extend(self, key: str, to: int) -> None:
        self._send(Extend(key, to, "q"))

    @rule(key=KEYS, evidence=AMOUNTS)
    def renew(self, key: str, evidence: int) -> None:
        self.run.do(lambda: self.accounts.ref(self.agent_id).tell(Renew(key, evidence)))

    @rule(key=KEYS, charge=AMOUNTS)
    def settle(self, key: str, charge: int) -> None:
        self._send(Settle(key, charge, make_receipt(key)))

    @rule(key=KEYS)
    def release(self, key: str) -> None:
        self._send(Release(key, "x", None))

    @rule(amount=st.sampled_from([1, 100, 500]), repeated=st.booleans())
    def deposit(self, amount: int, repeated: bool) -> None:
        self.deposits += not repeated
        self._send(Deposit(f"d{self.deposits}", amount))

    @rule()
    def look(self) -> None:
        self._send(Balance())

    # The operator

    @rule(
        limits=st.tuples(LIMITS, LIMITS),
        models=st.sampled_from([(), (), ("m",)]),
        max_holds=st.sampled_from([None, None, 0, 2]),
        later=st.sampled_from([0, 0, 1_800]),
    )
    def set_policy(
        self, limits: tuple[int | None, int | None], models: tuple[str, ...], max_holds: int | None, later: int
    ) -> None:
        effective = self.now + later * 10**9
        self._send(SetPolicy(*limits, models=models, max_holds=max_holds, effective_ns=effective))

    @rule(frozen=st.booleans())
    def freeze(self, frozen: bool) -> None:
        self._send(Freeze() if frozen else Unfreeze())

    @rule(
        amount=st.sampled_from([50, 100, 200]),
        models=st.sampled_from([(), (), ("m",)]),
        max_holds=st.sampled_from([None, None, 1]),
        lasts_s=st.sampled_from([None, None, 1_800]),
    )
    def mint(self, amount: int, models: tuple[str, ...], max_holds: int | None, lasts_s: int | None) -> None:
        expires = None if lasts_s is None else self.now + lasts_s * 10**9
        self._send(MintBudget("b", amount, models, max_holds, expires))

    @precondition(lambda self: self.budgets)
    @rule(number=st.integers(1, 3))
    def revoke(self, number: int) -> None:
        self._send(RevokeBudget(self._budget(number) or ""))

    # The world

    @rule()
    def write(self) -> None:
        self._write()

    @rule()
    def write_all(self) -> None:
        self._finish()

    @rule()
    def fail(self) -> None:
        self.ledger.fail_next(error=StoreUnavailable("broken, says the machine"))

    @rule(busy=st.booleans(), unreadable=st.booleans())
    def block(self, busy: bool, unreadable: bool) -> None:
        self.ledger.busy, self.ledger.unreadable = busy, unreadable

    @rule(seconds=st.sampled_from([1, 1_799, 1_800, 3_700, 40_000, 86_400]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * 10**9
        self.run.do(lambda: None, later_s=float(seconds))
        self._hear()

    @rule()
    def sweep(self) -> None:
        self.run.do(self.accounts.sweep)
        self._hear()

    @rule()
    def kill(self) -> None:
        self.run.do(lambda: self.accounts.ref(self.agent_id).cancel())
        self.run.do(lambda: None, later_s=10.0)
        self._hear()

    @rule(committed=st.integers(0, 5))
    def crash(self, committed: int) -> None:
        """The process ends; whoever waited is gone with it."""
        old, self.ledger = self.accounts, self.ledger.crash(committed)
        self.ledger.at_once = False
        self.waiting = []
        self.budgets = list(self.ledger._books.budgets)
        self.accounts = self._accounts()
        self.run.do(lambda: old.ref(self.agent_id).cancel())
        self.run.do(lambda: None, later_s=10.0)
        self._check_books()

    @invariant()
    def balances_are_sound(self) -> None:
        if not hasattr(self, "run"):
            return
        account = self.ledger._books.accounts[self.agent_id]
        held = [row for row in self.ledger._books.holds.values() if row.state is HoldState.OPEN]
        assert min(account.available_msat, account.held_msat, account.spent_msat, account.debt_msat) >= 0
        assert account.held_msat == sum(row.amount_msat for row in held)
        assert account.available_msat + account.held_msat + account.spent_msat == account.deposited_msat

    def _check_books(self) -> None:
        assert self.ledger.check().problems == ()


TestAccount = AccountMachine.TestCase
TestAccount.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
