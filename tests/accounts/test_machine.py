"""The table of a payment's states, by its properties: paid once at most, and its hold ends once."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from arbstr.accounts._machine import (
    AFTER_CRASH,
    FINAL,
    HOLDING,
    MAY_BE_SENT,
    AfterCrash,
    Money,
    Needs,
    after_answer,
    step,
)
from arbstr.store import PaymentState
from arbstr.wallets import Result, WalletState

S = PaymentState
ALL = list(S)


def walks() -> list[list[PaymentState]]:
    """All ways from nothing to an end, with at most one fallback."""
    ends, open_ = [], [[state] for state in ALL if step(None, state) is not None]
    while open_:
        walk = open_.pop()
        if walk[-1] in FINAL:
            ends.append(walk)
        elif walk.count(S.SENDING) <= 2:
            open_ += [[*walk, state] for state in ALL if step(walk[-1], state) is not None]
    return ends


def test_every_way_to_an_end_moves_the_money_as_its_end_says() -> None:
    assert len(walks()) > 8
    for walk in walks():
        moves = [step(a, b) for a, b in itertools.pairwise([None, *walk])]
        money = [move.money for move in moves if move is not None]
        assert len(money) == len(walk)
        ends = [m for m in money if m in (Money.CHARGE, Money.RELEASE)]
        assert money.count(Money.HOLD) == len(ends) == (walk[-1] is not S.DENIED)
        assert (Money.CHARGE in money) == (walk[-1] is S.SUCCEEDED)
        assert money[0] is (Money.NONE if walk == [S.DENIED] else Money.HOLD)


def test_only_the_wallet_ends_what_may_have_been_sent() -> None:
    for before, after in itertools.product(MAY_BE_SENT, ALL):
        move = step(before, after)
        if move is not None and (after in FINAL or after is S.SENDING):
            assert move.needs is Needs.WALLET


def test_nothing_follows_an_end_and_money_is_held_everywhere_else() -> None:
    assert not any(step(end, state) for end in FINAL for state in ALL)
    assert set(ALL) == FINAL | HOLDING
    assert set(AFTER_CRASH) == set(ALL)


def test_a_crash_releases_only_what_was_never_sent() -> None:
    for state, what in AFTER_CRASH.items():
        assert (what is AfterCrash.LOOK_UP) == (state in MAY_BE_SENT)
        assert (what is AfterCrash.NOTHING) == (state in FINAL)


answers = st.none() | st.sampled_from(WalletState).map(Result)


@given(st.sampled_from(sorted(MAY_BE_SENT)), answers, st.none() | st.just("cashu"))
def test_every_answer_leads_along_the_table(before: PaymentState, answer: Result | None, fallback: str | None) -> None:
    after = after_answer(before, answer, fallback)
    if after is None:
        assert before is S.UNKNOWN
        return
    move = step(before, after.state)
    assert move is not None
    definite = answer is not None and answer.state.definite
    assert (move.needs is Needs.WALLET) == definite
    assert (after.state is S.SENDING) == (after.rail is not None)
    if after.rail is not None:
        assert before is S.SENDING
        assert answer is not None
        assert answer.state is WalletState.FAILED


@given(st.lists(answers, max_size=20))
def test_a_payment_is_tried_on_two_rails_at_most_and_never_after_doubt(given_answers: list[Result | None]) -> None:
    state, rails, doubted = S.SENDING, ["lightning"], False
    for answer in given_answers:
        fallback = "cashu" if rails == ["lightning"] else None
        after = after_answer(state, answer, fallback)
        if after is None:
            continue
        state = after.state
        doubted = doubted or state is S.UNKNOWN
        if after.rail is not None:
            assert not doubted
            rails.append(after.rail)
        if state in FINAL:
            break
    assert len(rails) <= 2
