"""The rules as properties: whatever is asked in whatever order, M2 holds and nothing is lost or invented."""

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from arbstr.accounts import _rules as rules
from arbstr.errors import BillingRefused
from arbstr.store import AccountRow, LedgerAccount

AMOUNTS = st.one_of(st.integers(0, 50), st.integers(0, 10**6), st.integers(0, rules.MAX_MSAT))
START = AccountRow("ag")


def assert_sound(before: AccountRow, move: rules.Move) -> None:
    after, posted = move.after, dict.fromkeys(LedgerAccount, 0)
    for posting in move.postings:
        assert posting.amount_msat != 0
        posted[posting.ledger] += posting.amount_msat
    assert len({posting.ledger for posting in move.postings}) == len(move.postings)
    assert sum(posted.values()) == 0
    assert after.version == before.version + 1
    assert after.available_msat + after.held_msat + after.spent_msat == after.deposited_msat - after.withdrawn_msat
    assert min(after.available_msat, after.held_msat, after.spent_msat, after.debt_msat) >= 0
    assert posted[LedgerAccount.AVAILABLE] == after.available_msat - before.available_msat
    assert posted[LedgerAccount.HELD] == after.held_msat - before.held_msat
    assert posted[LedgerAccount.SPENT] == after.spent_msat - before.spent_msat
    assert posted[LedgerAccount.DEBT] == before.debt_msat - after.debt_msat
    assert posted[LedgerAccount.ARREARS] == after.debt_msat - before.debt_msat
    assert posted[LedgerAccount.WORLD] == before.deposited_msat - after.deposited_msat


@define
class Life:
    """An account with everything that happened to it."""

    account: AccountRow = START
    holds: list[int] = field(factory=list)
    charged: int = 0

    def apply(self, what: str, amount: int) -> None:
        try:
            move = self._move(what, amount)
        except (BillingRefused, ValueError):
            return
        if move is not None:
            assert_sound(self.account, move)
            self.account = move.after

    def _move(self, what: str, amount: int) -> rules.Move | None:
        if what == "deposit":
            return rules.deposit(self.account, amount)
        if what == "reserve":
            move = rules.reserve(self.account, amount)
            self.holds.append(amount)
            return move
        if not self.holds:
            return None
        held = self.holds.pop(0)
        self.charged += amount
        return rules.settle(self.account, held, amount)


@given(st.lists(st.tuples(st.sampled_from(["deposit", "reserve", "settle"]), AMOUNTS), max_size=30))
def test_the_books_balance_whatever_happens(operations: list[tuple[str, int]]) -> None:
    life = Life()
    for what, amount in operations:
        life.apply(what, amount)
    assert life.account.held_msat == sum(life.holds)
    assert life.charged == life.account.spent_msat + life.account.debt_msat


@given(debt=st.integers(1, 1000), amount=st.integers(1, 2000))
def test_a_deposit_pays_the_debt_first(debt: int, amount: int) -> None:
    account = rules.settle(START, 0, debt).after
    after = rules.deposit(account, amount).after
    assert after.debt_msat == max(0, debt - amount)
    assert after.available_msat == max(0, amount - debt)


@given(held=st.integers(0, 100), more=st.integers(0, 100), charge=st.integers(0, 300))
def test_a_charge_takes_the_hold_first_then_what_is_available_and_the_rest_is_debt(
    held: int, more: int, charge: int
) -> None:
    account = rules.reserve(rules.deposit(START, held + more + 1).after, held).after
    after = rules.settle(account, held, charge).after
    assert after.held_msat == 0
    assert after.spent_msat == min(charge, held + more + 1)
    assert after.debt_msat == charge - after.spent_msat


def test_a_hold_is_refused_when_more_is_asked_than_there_is() -> None:
    account = rules.deposit(START, 100).after
    with pytest.raises(BillingRefused, match=r"up to 0\.101 sats and 0\.1 sats are available") as refusal:
        rules.reserve(account, 101)
    assert refusal.value.status == 402
    assert refusal.value.details == {"available_msat": 100, "requested_msat": 101}
    assert rules.reserve(account, 100).after.available_msat == 0


def test_a_hold_is_refused_when_a_debt_is_open_even_for_nothing() -> None:
    account = rules.settle(START, 0, 5).after
    with pytest.raises(BillingRefused) as refusal:
        rules.reserve(account, 0)
    assert refusal.value.reason == "outstanding_debt"


@pytest.mark.parametrize("amount", [0, -1, rules.MAX_MSAT + 1, 10**30])
def test_a_deposit_is_refused_when_it_is_absurd(amount: int) -> None:
    with pytest.raises(ValueError, match="msat"):
        rules.deposit(START, amount)


def test_deposits_together_stay_below_all_there_is() -> None:
    account = rules.deposit(START, rules.MAX_MSAT).after
    with pytest.raises(ValueError, match="in all"):
        rules.deposit(account, 1)


@pytest.mark.parametrize("charge", [-1, rules.MAX_MSAT + 1, 10**30])
def test_a_charge_is_refused_when_it_is_absurd(charge: int) -> None:
    with pytest.raises(ValueError, match="charge"):
        rules.settle(START, 0, charge)


def test_a_hold_is_refused_when_it_is_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        rules.reserve(START, -1)


@pytest.mark.parametrize(("amount", "owed"), [(1, 5), (0, -1), (0, rules.MAX_MSAT + 1)])
def test_what_is_owed_is_refused_when_it_could_not_be_charged_afterwards(amount: int, owed: int) -> None:
    with pytest.raises(ValueError, match="got"):
        rules.owe(AccountRow("a"), amount, owed)
