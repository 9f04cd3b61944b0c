"""``actors.testing``: rigs that judge, probes, virtual time, faults, and the fixtures as a new project uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pykka
import pytest
import trio

from actors import (
    ActorDeadError,
    ActorSystem,
    AskTimeout,
    ChildSpec,
    Supervisor,
    TrioActor,
    WhichChildren,
    WouldDeadlock,
)
from actors.testing import (
    Crash,
    Delay,
    Drop,
    Faults,
    InjectedCrash,
    Probe,
    RefsLeftBehind,
    Rig,
    deterministic,
    no_refs_left_behind,
    recorded_dead_letters,
    running_system,
)

ROOT = Path(__file__).parents[2]


class Touchy(TrioActor):
    """Raises what it is told to; echoes the rest."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        return message

    def double(self, number: int) -> int:
        return 2 * number


# -- a rig judges


def test_failure_of_an_actor_is_raised_at_the_end_when_it_was_not_expected() -> None:
    error = LookupError("in the actor")
    with pytest.raises(LookupError) as caught, running_system() as system:
        system.start(Touchy).tell(error)
    assert caught.value is error
    assert caught.value.__notes__[0].startswith("raised in Touchy")


def test_failures_are_raised_as_a_group_when_there_are_several() -> None:
    def test() -> None:
        with running_system() as system:
            for error in (LookupError(), KeyError()):
                system.start(Touchy).tell(error)

    with pytest.raises(ExceptionGroup, match="2 failures in actors") as caught:
        test()
    assert {type(each) for each in caught.value.exceptions} == {LookupError, KeyError}


def test_nothing_is_raised_when_the_failure_was_expected() -> None:
    with running_system() as system:
        system.expect_failure(LookupError, match="in the")
        system.start(Touchy).tell(LookupError("in the actor"))
    assert [str(failure.error) for failure in system.failures] == ["in the actor"]


@pytest.mark.parametrize("error", [ValueError("in the actor"), LookupError("elsewhere")])
def test_failure_is_raised_when_another_was_expected(error: Exception) -> None:
    def test() -> None:
        with running_system() as system:
            system.expect_failure(LookupError, match="^in the actor$")
            system.start(Touchy).tell(error)

    with pytest.raises(type(error)):
        test()


def test_only_as_many_failures_are_excused_as_were_expected() -> None:
    def test() -> None:
        with running_system() as system:
            system.expect_failure(LookupError, times=2)
            for text in ("first", "second", "third"):
                ref = system.start(Touchy)
                ref.tell(LookupError(text))
                ref.actor_stopped.wait(10)

    with pytest.raises(LookupError, match="third"):
        test()


def test_assertion_fails_when_an_expected_failure_does_not_come() -> None:
    with pytest.raises(AssertionError, match="LookupError matching 'boom'"), running_system() as system:
        system.expect_failure(LookupError, match="boom")


def test_failure_counts_when_a_supervisor_starts_the_actor_anew() -> None:
    with running_system() as system:
        system.expect_failure(LookupError)
        supervisor = system.start(Supervisor, [ChildSpec("child", Touchy)])
        child = Supervisor.refs_of(supervisor.ask(WhichChildren(), timeout=10))["child"]
        child.tell(LookupError())
        assert child.ask("alive", timeout=10) == "alive"


def test_exception_goes_to_the_asker_and_not_to_the_test_when_somebody_asked() -> None:
    with running_system() as system, pytest.raises(LookupError):
        system.start(Touchy).ask(LookupError(), timeout=10)
    assert system.failures == ()


def test_failure_while_stopping_is_raised_when_the_block_ends() -> None:
    class Clumsy(TrioActor):
        def on_stop(self) -> None:
            raise LookupError("while stopping")

    with pytest.raises(LookupError, match="while stopping"), running_system() as system:
        system.start(Clumsy)


def test_what_the_block_raises_goes_first_when_an_actor_has_failed_too() -> None:
    def test() -> None:
        with running_system() as system:
            system.start(Touchy).tell(LookupError("an actor's"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        test()
    assert 'LookupError("an actor\'s")' in caught.value.__notes__[0]


async def test_rig_judges_when_it_runs_in_the_trio_run_of_a_test() -> None:
    async with Rig.run() as system:
        system.expect_failure(LookupError)
        system.start(Touchy).tell(LookupError())
    system.judge()
    async with Rig.run() as system:
        system.start(Touchy).tell(LookupError("async"))
    with pytest.raises(LookupError, match="async"):
        system.judge()
    system.judge()  # raised once


async def test_blocking_calls_are_refused_when_made_on_the_trio_thread() -> None:
    async with Rig.run() as system:
        probe = Probe(system)
        for call in (system.stop_all_blocking, probe.expect, probe.expect_nothing):
            with pytest.raises(WouldDeadlock, match=r"await|virtual"):
                call()


# -- nothing is left behind


def test_refs_left_behind_are_named_and_cleared_away_when_a_block_ends() -> None:
    with pytest.raises(RefsLeftBehind, match="ThreadingActor") as caught, no_refs_left_behind():
        ref = pykka.ThreadingActor.start()
    assert caught.value.refs == [ref]
    assert pykka.ActorRegistry.get_all() == []
    ref.actor_stopped.wait(10)


def test_refs_are_cleared_away_as_well_when_the_block_raises() -> None:
    refs: list[pykka.ActorRef[Any]] = []

    def test() -> None:
        with no_refs_left_behind():
            refs.append(pykka.ThreadingActor.start())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        test()
    assert pykka.ActorRegistry.get_all() == []
    assert refs[0].actor_stopped.wait(10)


def test_stopping_gives_up_when_a_handler_blocks_the_thread() -> None:
    blocked, release = threading.Event(), threading.Event()

    class Blocking(TrioActor):
        def on_receive(self, message: Any) -> None:
            blocked.set()
            release.wait(10)

    with running_system() as system:
        system.start(Blocking).tell("block")
        blocked.wait(10)
        with pytest.raises(TimeoutError, match="blocks the thread"):
            system.stop_all_blocking(grace_s=0, timeout_s=0.01)
        release.set()
        system.stop_all_blocking()
        assert system.refs() == []
    system.stop_all_blocking()  # the run is over


def test_refs_from_before_are_left_alone_when_a_block_ends() -> None:
    with running_system() as system:
        ref = system.start(Touchy)
        with running_system() as inner:
            assert inner.refs() == []
        assert ref.is_alive()


# -- probes


def test_probe_returns_messages_in_order_when_a_thread_expects_them() -> None:
    with running_system() as system:
        probe = Probe(system)
        for message in (1, "two", 3.0):
            probe.ref.tell(message)
        assert probe.expect(int) == 1
        assert probe.expect((str, bytes)) == "two"
        assert probe.expect(where=lambda message: message == 3.0) == 3.0
        assert probe.messages == (1, "two", 3.0)
        probe.expect_nothing(within_s=0.001)


def test_probe_says_what_came_instead_when_it_is_not_what_was_expected() -> None:
    with running_system() as system:
        probe = Probe(system)
        probe.ref.tell("something")
        with pytest.raises(AssertionError, match="expected int, but got 'something'"):
            probe.expect(int)
        with pytest.raises(AssertionError, match="not the one"):
            probe.expect(str, where=str.isdigit)
        with pytest.raises(AssertionError, match="expected nothing, but got 'something'"):
            probe.expect_nothing()
        assert probe.expect(str) == "something"  # a failed look takes nothing
        with pytest.raises(AssertionError, match=r"int or str, but nothing came within 0\.001 s"):
            probe.expect((int, str), timeout_s=0.001)


def test_probe_wakes_a_thread_when_a_message_comes_later() -> None:
    with running_system() as system:
        probe = Probe(system)
        timer = threading.Timer(0.01, probe.ref.tell, ("late",))
        timer.start()
        assert probe.expect(str, timeout_s=10) == "late"
        timer.join()


async def test_probe_wakes_a_task_when_a_message_comes_later(autojump_clock: Any) -> None:
    async with Rig.run() as system:
        probe = Probe(system)
        with pytest.raises(AssertionError, match="nothing came within 3 s"):
            await probe.receive(str, timeout_s=3)
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        async with trio.open_nursery() as nursery:

            async def tell_later() -> None:
                await trio.sleep(1)
                probe.ref.tell("late")

            nursery.start_soon(tell_later)
            assert await probe.receive(str, timeout_s=2) == "late"
        probe.ref.tell("again")
        with pytest.raises(AssertionError, match="expected int, but got 'again'"):
            await probe.receive(int)


def test_probe_answers_as_it_is_told_when_asked() -> None:
    with running_system() as system:
        probe = Probe(system)
        assert probe.ref.ask("anything", timeout=10) is None
        probe.reply_with(7)
        assert probe.ref.ask("anything", timeout=10) == 7
        probe.reply_with(str.upper)
        assert probe.ref.ask("anything", timeout=10) == "ANYTHING"
        probe.reply_with(LookupError("no"))
        with pytest.raises(LookupError):
            probe.ref.ask("anything", timeout=10)
        probe.ref.tell("and lives on")
        assert len(probe.messages) >= 4


def test_askers_wait_until_the_probe_answers_when_it_holds_replies() -> None:
    with running_system() as system:
        probe = Probe(system, reply=Probe.HOLD)
        first, second = probe.ref.ask(1, block=False), probe.ref.ask(2, block=False)
        probe.ref.tell("nobody waits for an answer to this")
        for _ in range(3):
            probe.expect()
        probe.answer("one")
        probe.answer(LookupError("two"))
        assert first.get(timeout=10) == "one"
        with pytest.raises(LookupError, match="two"):
            second.get(timeout=10)
        with pytest.raises(LookupError, match="nobody waits"):
            probe.answer()


def test_probe_fails_when_a_test_never_takes_what_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.testing._probe.LIMIT", 2)
    with running_system() as system:
        system.expect_failure(OverflowError)
        probe = Probe(system)
        for number in range(3):
            probe.ref.tell(number)


def test_dead_letters_are_recorded_when_a_message_finds_nobody() -> None:
    with running_system() as system, recorded_dead_letters(system) as letters:
        ref = system.start(Touchy)
        ref.stop(timeout=10)
        with pytest.raises(ActorDeadError):
            ref.tell("anyone?")
        assert [(letter.message, letter.reason) for letter in letters] == [("anyone?", "dead")]


# -- a seed decides


def _order_of(seed: int) -> list[tuple[str, int]]:
    """What tasks and actors do to each other, in the order in which it happens."""
    seen: list[tuple[str, int]] = []

    class Noting(TrioActor):
        async def on_receive(self, message: tuple[str, int]) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(message)

    async def worker(name: str, ref: Any) -> None:
        for number in range(5):
            await trio.sleep(1)
            await ref.request((name, number))

    async def main() -> None:
        async with ActorSystem.run() as system:
            refs = [system.start(Noting) for _ in range(3)]
            async with trio.open_nursery() as nursery:
                for place, name in enumerate("abcdef"):
                    nursery.start_soon(worker, name, refs[place % 3])

    deterministic(seed)(main)()
    return seen


def test_run_is_the_same_when_the_seed_is_the_same() -> None:
    runs = [_order_of(7) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


def test_run_is_another_when_the_seed_is_another() -> None:
    assert len({tuple(_order_of(seed)) for seed in range(10)}) > 5


def test_scheduler_is_as_before_when_a_seeded_run_ends() -> None:
    scheduler: Any = trio._core._run
    before = (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate())
    _order_of(1)

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        deterministic(2)(fail)()
    assert (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()) == before


@deterministic(1)
async def test_hours_pass_at_once_when_time_is_virtual() -> None:
    started = trio.current_time()
    await trio.sleep(3600)
    assert trio.current_time() - started == pytest.approx(3600)


def test_arguments_and_result_pass_when_a_function_runs_deterministically() -> None:
    async def add(left: int, *, right: int) -> int:
        await trio.lowlevel.checkpoint()
        return left + right

    assert deterministic(1)(add)(2, right=3) == 5


# -- faults


def _run(faults: Faults, body: Callable[[Rig, Any], Awaitable[None]], *, wrapped: bool) -> None:
    async def main() -> None:
        async with Rig.run(grace_s=0) as system:
            if wrapped:
                await body(system, system.start(faults.wrap(Touchy)))
            else:
                with faults.installed(system):
                    await body(system, system.start(Touchy))
        system.judge()

    deterministic(1)(main)()


@pytest.mark.parametrize("wrapped", [True, False])
def test_asker_gets_actor_dead_error_and_the_actor_fails_when_a_fault_takes_it_down(wrapped: bool) -> None:
    async def body(system: Rig, ref: Any) -> None:
        system.expect_failure(InjectedCrash, match="seed 5")
        assert await ref.request("first") == "first"
        with pytest.raises(ActorDeadError, match="taken down"):
            await ref.request("second")
        await ref.wait_stopped()

    _run(Faults(5, Crash(of=str, nth=2)), body, wrapped=wrapped)


@pytest.mark.parametrize("wrapped", [True, False])
def test_asker_waits_in_vain_when_a_fault_drops_the_message(wrapped: bool) -> None:
    async def body(system: Rig, ref: Any) -> None:
        with pytest.raises(AskTimeout):
            await ref.request("lost", timeout_s=3)
        assert await ref.request(2) == 2

    _run(Faults(1, Drop(of=str)), body, wrapped=wrapped)


@pytest.mark.parametrize("wrapped", [True, False])
def test_message_is_handled_later_when_a_fault_delays_it(wrapped: bool) -> None:
    async def body(system: Rig, ref: Any) -> None:
        started = trio.current_time()
        assert await ref.request("late") == "late"
        assert await ref.proxy().double(4) == 8
        assert 4 <= trio.current_time() - started <= 6

    _run(Faults(1, Delay(least_s=2, most_s=3)), body, wrapped=wrapped)


def test_only_calls_of_that_name_are_met_when_a_fault_names_a_method() -> None:
    async def body(system: Rig, ref: Any) -> None:
        system.expect_failure(ZeroDivisionError)
        assert await ref.request("double") == "double"
        with pytest.raises(ActorDeadError):
            await ref.proxy().double(4)

    _run(Faults(1, Crash(of="double", error=ZeroDivisionError)), body, wrapped=True)


def _struck(seed: int) -> list[int]:
    lost: list[int] = []

    async def body(system: Rig, ref: Any) -> None:
        for number in range(20):
            try:
                await ref.request(number)
            except AskTimeout:
                lost.append(number)

    _run(Faults(seed, Drop(of=lambda message: message != 0, chance=0.3)), body, wrapped=True)
    return lost


def test_same_messages_are_struck_when_the_seed_is_the_same() -> None:
    assert _struck(1) == _struck(1)
    assert 0 not in _struck(1)
    assert len({tuple(_struck(seed)) for seed in range(5)}) == 5


def test_other_systems_are_spared_when_faults_are_installed_in_one() -> None:
    with running_system() as system, running_system() as other:
        faults = Faults(1, Drop())
        with faults.installed(system):
            assert other.start(Touchy).ask("passes", timeout=10) == "passes"
            with pytest.raises(AskTimeout):
                system.start(Touchy).ask("lost", timeout=0.5)  # long enough for it to be begun with
            with pytest.raises(RuntimeError, match="already"), Faults(2).installed(system):
                pass
        assert system.start(Touchy).ask("passes", timeout=10) == "passes"
        assert list(faults.struck.values()) == [1]
    assert "_handle_receive" not in vars(TrioActor)


def test_wrapped_class_reads_as_the_class_itself() -> None:
    assert repr(Faults(1).wrap(Touchy)) == repr(Touchy)


def test_pytest_is_not_needed_when_the_helpers_are_imported() -> None:
    code = "import sys; sys.modules['pytest'] = None; import actors.testing"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# -- the fixtures, in a project that has nothing else

SUITE = """
import pykka, pytest, trio
from actors import TrioActor, TrioActorRef

class Touchy(TrioActor):
    def on_receive(self, message):
        if isinstance(message, Exception):
            raise message
        return message

def test_ask(actor_system):
    assert Touchy.start().ask("hello", timeout=10) == "hello"

def test_unexpected(actor_system):
    Touchy.start().tell(LookupError("boom"))

def test_expected(actor_system):
    actor_system.expect_failure(LookupError)
    Touchy.start().tell(LookupError("boom"))

def test_missing(actor_system):
    actor_system.expect_failure(LookupError)

def test_own_error_first(actor_system):
    Touchy.start().tell(LookupError("boom"))
    assert False, "the test's own"

@pytest.mark.trio
async def test_trio_ask(trio_actor_system):
    assert await Touchy.start().request("hello") == "hello"

@pytest.mark.trio
async def test_trio_unexpected(trio_actor_system):
    Touchy.start().tell(LookupError("boom"))

def test_letters(actor_system):
    ref = Touchy.start()
    ref.stop()
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("late")
    assert [letter.message for letter in actor_system.letters] == ["late"]

@pytest.mark.trio
async def test_trio_letters(trio_actor_system):
    ref = Touchy.start()
    await ref.terminate()
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("late")
    assert [letter.message for letter in trio_actor_system.letters] == ["late"]

def test_leaves_a_ref():
    pykka.ThreadingActor.start()

def test_finds_no_ref():
    assert pykka.ActorRegistry.get_all() == []

@pytest.mark.xfail(raises=LookupError, strict=True)
def test_xfail(actor_system):
    Touchy.start().tell(LookupError("boom"))

def test_interrupted(actor_system):
    actor_system.start(Touchy).tell(Touchy)
"""

REPORTER = """
import json, pathlib
pytest_plugins = ["actors.testing.pytest_plugin"]
seen = {}
def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        seen[f"{report.location[2]} {report.when}"] = [report.outcome, report.longreprtext if report.failed else ""]
def pytest_sessionfinish():
    pathlib.Path("seen.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Outcome of each test of the little project, by name and phase."""
    project = tmp_path_factory.mktemp("project")
    (project / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (project / "conftest.py").write_text(REPORTER)
    (project / "test_project.py").write_text(SUITE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=project, env=environment, capture_output=True, timeout=120, check=False)
    found: dict[str, list[str]] = json.loads((project / "seen.json").read_text())
    return found


@pytest.mark.parametrize(
    "name", ["ask", "expected", "trio_ask", "letters", "trio_letters", "leaves_a_ref", "finds_no_ref", "interrupted"]
)
def test_fixture_lets_a_test_pass_when_nothing_goes_wrong(seen: dict[str, list[str]], name: str) -> None:
    assert seen[f"test_{name} call"] == ["passed", ""]


@pytest.mark.parametrize("name", ["unexpected", "missing", "own_error_first", "trio_unexpected"])
def test_fixture_fails_the_test_itself_when_an_actor_does_what_was_not_expected(
    seen: dict[str, list[str]], name: str
) -> None:
    assert seen[f"test_{name} call"][0] == "failed"
    assert f"test_{name} teardown" not in seen


def test_failure_of_an_actor_counts_as_the_tests_own_when_it_is_expected_to_fail(seen: dict[str, list[str]]) -> None:
    assert seen["test_xfail call"][0] == "skipped"
    assert "test_xfail teardown" not in seen


def test_failure_of_an_actor_is_noted_when_the_test_fails_by_itself(seen: dict[str, list[str]]) -> None:
    outcome, text = seen["test_own_error_first call"]
    assert outcome == "failed"
    assert "the test's own" in text
    assert "LookupError('boom')" in text


def test_error_is_reported_when_a_test_leaves_an_actor_behind(seen: dict[str, list[str]]) -> None:
    outcome, text = seen["test_leaves_a_ref teardown"]
    assert outcome == "failed"
    assert "RefsLeftBehind" in text
    assert [name for name in seen if "teardown" in name] == ["test_leaves_a_ref teardown"]
