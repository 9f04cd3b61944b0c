"""A scope that is entered late: by itself, without an actor. What it means for actors is in ``test_cancel``."""

from __future__ import annotations

import math

import pytest
import trio
from trio.lowlevel import checkpoint

from actors._late_scope import LateScope


async def test_trio_knows_of_no_scope_when_it_has_not_been_entered() -> None:
    scope = LateScope()
    with scope:
        scope.cancel()
        assert scope.cancelled
        assert trio.current_effective_deadline() == math.inf
        await checkpoint()


async def test_work_is_cancelled_when_the_scope_has_been_entered() -> None:
    scope = LateScope()
    async with trio.open_nursery() as nursery:
        with scope:
            scope.enter()
            nursery.start_soon(_cancel, scope)
            await trio.sleep_forever()
    assert scope.cancelled


async def test_work_is_cancelled_at_once_when_the_scope_is_entered_after_the_cancellation() -> None:
    scope = LateScope()
    went_on = False
    with scope:
        scope.cancel()
        scope.enter()
        await checkpoint()
        went_on = True
    assert not went_on


async def test_work_is_cancelled_when_that_came_before_the_block() -> None:
    scope = LateScope()
    scope.cancel()
    went_on = False
    with scope:
        assert scope.cancelled
        scope.enter()
        await checkpoint()
        went_on = True
    assert not went_on


async def test_nothing_changes_when_a_scope_is_entered_once_more() -> None:
    scope = LateScope()
    with trio.move_on_after(60):
        outside = trio.current_effective_deadline()
        with scope:
            scope.enter()
            scope.enter()
        assert trio.current_effective_deadline() == outside
        await checkpoint()


@pytest.mark.parametrize("entered", [False, True])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_error_comes_out_as_it_is_when_the_work_raises(entered: bool, cancelled: bool) -> None:
    def work() -> None:
        with scope:
            if entered:
                scope.enter()
            if cancelled:
                scope.cancel()
            raise error

    scope, error = LateScope(), LookupError("of the work")
    with pytest.raises(LookupError) as caught:
        work()
    assert caught.value is error


@pytest.mark.parametrize("entered", [False, True])
async def test_cancellation_goes_through_when_it_comes_from_outside(entered: bool) -> None:
    scope = LateScope()
    with trio.CancelScope() as outer:
        with scope:
            if entered:
                scope.enter()
            outer.cancel()
            await checkpoint()
        raise AssertionError("the outer cancellation was swallowed")
    assert outer.cancelled_caught
    assert not scope.cancelled


async def test_only_its_own_cancellation_is_taken_out_when_the_work_raises_a_group() -> None:
    async def work() -> None:
        with scope:
            scope.enter()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_and_raise, scope, error)
                await trio.sleep_forever()

    scope, error = LateScope(), LookupError("of the work")
    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert caught.value.exceptions == (error,)


async def _cancel(scope: LateScope) -> None:
    scope.cancel()


async def _cancel_and_raise(scope: LateScope, error: Exception) -> None:
    scope.cancel()
    raise error
