"""Supervision: the order of starts and stops, who is started anew, what survives, and when it is given up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pykka
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import (
    KILL,
    ActorDeadError,
    ActorSystem,
    ChildInfo,
    ChildSpec,
    Reply,
    Restart,
    RestartLimitReached,
    StartChild,
    StopChild,
    Strategy,
    Supervisor,
    SystemNotRunning,
    Terminated,
    TrioActor,
    TrioActorRef,
    WhichChildren,
)

ALL, ONE, REST = Strategy.ONE_FOR_ALL, Strategy.ONE_FOR_ONE, Strategy.REST_FOR_ONE


class Child(TrioActor):
    """Writes its life down: ``+a`` up, ``-a`` stopped, ``!a`` failed, ``xa`` failed to start.

    A message that is an exception is raised, a callable is called with the actor.
    """

    def __init__(self, name: str, log: list[Any], bad_starts: list[int] | None = None) -> None:
        super().__init__()
        self.name = name
        self.log = log
        self.bad_starts = [] if bad_starts is None else bad_starts

    async def on_start(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.bad_starts and not self.bad_starts.pop(0):
            self.log.append(f"x{self.name}")
            raise LookupError(f"{self.name} has no luck")
        self.log.append(f"+{self.name}")

    async def on_stop(self) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(f"-{self.name}")

    async def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(f"!{self.name}")

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        if callable(message):
            return message(self)
        self.log.append(message)
        return message


class Loud(Supervisor):
    """A supervisor that writes its own life down as a ``Child`` does."""

    def __init__(self, name: str, log: list[Any], *children: ChildSpec, **options: Any) -> None:
        super().__init__(children, **options)
        self.name = name
        self.log = log

    def on_start(self) -> None:
        self.log.append(f"+{self.name}")

    def on_stop(self) -> None:
        self.log.append(f"-{self.name}")

    def on_failure(self, exception_type: Any, exception_value: BaseException | None, traceback: Any) -> None:
        self.log.append(f"!{self.name}")

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message(self) if callable(message) else message


@pytest.fixture
def log() -> list[Any]:
    return []


def _spec(name: str, log: list[Any], *bad_starts: int, **options: Any) -> ChildSpec:
    """``bad_starts``: 0 for a start that fails, 1 for one that does not; later ones do not fail."""
    left = list(bad_starts)
    return ChildSpec(name, lambda: Child(name, log, left), **options)


async def _refs(tree: TrioActorRef[Any]) -> dict[str, Any]:
    return Supervisor.refs_of(await tree.request(WhichChildren()))


async def _names(tree: TrioActorRef[Any]) -> list[str]:
    return list(await _refs(tree))


async def _restarts(tree: TrioActorRef[Any]) -> dict[str, int]:
    return {child.id: child.restarts for child in await tree.request(WhichChildren())}


async def _fail() -> None:
    raise LookupError("in a task")


async def _fail_later() -> None:
    await trio.lowlevel.checkpoint()
    raise LookupError("in an async handler")


async def _forever() -> None:
    await trio.sleep_forever()


def _told(ref: Any) -> None:
    ref.tell(LookupError("told"))


def _told_async(ref: Any) -> None:
    ref.tell(lambda _: _fail_later())


def _task(ref: Any) -> None:
    ref.tell(lambda actor: actor.spawn(_fail) and None)


def _cancelled(ref: Any) -> None:
    ref.cancel()


def _cancelled_at_work(ref: Any) -> None:
    ref.tell(lambda _: _forever())
    ref.tell(lambda _: None)
    ref.cancel()


CRASHES = [_told, _told_async, _task, _cancelled, _cancelled_at_work]


def _last_words(crash: Callable[[Any], None]) -> str:
    return "-" if crash in (_cancelled, _cancelled_at_work) else "!"


# -- the order of starts and stops


async def test_children_start_in_order_and_stop_in_reverse_when_all_is_well(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, *(_spec(name, log) for name in "abc"))
        await tree.terminate()
        assert log == ["+tree", "+a", "+b", "+c", "-c", "-b", "-a", "-tree"]
        assert system.refs() == []


async def test_next_child_is_not_made_when_the_one_before_is_still_starting(log: list[Any]) -> None:
    gate = trio.Event()

    class Slow(Child):
        async def on_start(self) -> None:
            await gate.wait()
            await super().on_start()

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: Slow("a", log)), _spec("b", log)])
        await wait_all_tasks_blocked()
        assert len(system.refs()) == 2
        gate.set()
        assert await _names(tree) == ["a", "b"]
        assert log == ["+a", "+b"]


async def test_queued_messages_are_handled_first_when_a_child_is_stopped(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log)])
        (await _refs(tree))["a"].tell("queued")
        await tree.terminate()
    assert log == ["+a", "queued", "-a"]


async def test_children_stop_once_and_last_started_first_when_the_system_ends(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        system.start(Child, "first", log)
        tree = system.start(Loud, "tree", log, _spec("a", log), _spec("b", log))
        await _refs(tree)
        system.start(Child, "last", log)
        await wait_all_tasks_blocked()
        log.clear()
    assert log == ["-last", "-b", "-a", "-tree", "-first"]
    assert pykka.ActorRegistry.get_all() == []


@pytest.mark.parametrize("leave", ["cancelled", "raising"])
async def test_children_stop_once_and_last_started_first_when_the_system_is_left_in_a_hurry(
    leave: str, log: list[Any]
) -> None:
    with trio.CancelScope() as scope:
        try:
            async with ActorSystem.run() as system:
                system.start(Child, "first", log)
                tree = system.start(Loud, "tree", log, _spec("a", log), _spec("b", log))
                await _refs(tree)
                system.start(Child, "last", log)
                await wait_all_tasks_blocked()
                log.clear()
                if leave == "raising":
                    raise LookupError
                scope.cancel()
                await trio.sleep_forever()
        except LookupError:
            pass
    assert log == ["-last", "-b", "-a", "-tree", "-first"]
    assert pykka.ActorRegistry.get_all() == []


async def test_stop_all_stops_trees_too_and_the_system_goes_on_when_called(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        system.start(Loud, "tree", log, _spec("a", log), _spec("b", log))
        await system.stop_all()
        assert log == ["+tree", "+a", "+b", "-b", "-a", "-tree"]
        assert system.refs() == []


async def test_trees_stop_from_the_leaves_when_they_are_nested(log: list[Any]) -> None:
    def inner() -> Loud:
        return Loud("inner", log, _spec("b", log), _spec("c", log))

    async with ActorSystem.run() as system:
        tree = system.start(Loud, "outer", log, _spec("a", log), ChildSpec("inner", inner), _spec("d", log))
        assert await _names(tree) == ["a", "inner", "d"]
        await tree.terminate()
    assert log == [*("+outer", "+a", "+inner", "+b", "+c", "+d"), *("-d", "-c", "-b", "-inner", "-a", "-outer")]


# -- each strategy with each kind of crash


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(ONE, "+b"), (ALL, "-c -a +a +b +c"), (REST, "-c +b +c")],
)
async def test_those_that_the_strategy_names_are_started_anew_when_a_child_crashes(
    strategy: Strategy, expected: str, crash: Callable[[Any], None], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec(name, log) for name in "abc"], strategy=strategy)
        refs = await _refs(tree)
        log.clear()
        crash(refs["b"])
        await wait_all_tasks_blocked()
        assert log == [f"{_last_words(crash)}b", *expected.split()]
        assert await _refs(tree) == refs
        for name, ref in refs.items():
            assert ref.is_alive()
            assert await ref.request(name) == name


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (ONE, "!b xb xb +b"),
        (ALL, "!b -c -a +a xb -a +a xb -a +a +b +c"),
        (REST, "!b -c xb xb +b +c"),
    ],
)
async def test_starting_anew_is_repeated_when_on_start_fails(strategy: Strategy, expected: str, log: list[Any]) -> None:
    specs = [_spec("a", log), _spec("b", log, 1, 0, 0, 1), _spec("c", log)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs, strategy=strategy)
        refs = await _refs(tree)
        log.clear()
        _told(refs["b"])
        await wait_all_tasks_blocked()
        assert log == expected.split()
        assert await _refs(tree) == refs


@pytest.mark.parametrize(
    ("strategy", "expected"), [(ONE, "+a xb +b +c"), (ALL, "+a xb -a +a +b +c"), (REST, "+a xb +b +c")]
)
async def test_first_start_is_repeated_when_on_start_fails(strategy: Strategy, expected: str, log: list[Any]) -> None:
    specs = [_spec("a", log), _spec("b", log, 0), _spec("c", log)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs, strategy=strategy)
        assert await _names(tree) == ["a", "b", "c"]
        assert log == expected.split()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (ONE, ["!a !c +a +c"]),
        (ALL, ["!a !c -b +a +b +c"]),
        (REST, ["!a !c -b +a +b +c", "!a !c +c -c -b +a +b +c"]),  # by who is heard of first
    ],
)
async def test_children_are_started_anew_together_when_two_crash_at_once(
    strategy: Strategy, expected: list[str], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec(name, log) for name in "abc"], strategy=strategy)
        refs = await _refs(tree)
        log.clear()
        _told(refs["a"])
        _told(refs["c"])
        await wait_all_tasks_blocked()
        assert sorted(log) in [sorted(each.split()) for each in expected]
        assert sum((await _restarts(tree)).values()) == len([each for each in log if each[0] == "+"])


async def test_plain_words_are_taken_when_a_tree_is_read_from_a_file(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        spec = _spec("a", log, restart="temporary")
        tree = system.start(Supervisor, [spec, _spec("b", log)], strategy="one_for_all")  # type: ignore[arg-type]  # str
        _told((await _refs(tree))["b"])
        await wait_all_tasks_blocked()
        assert log == ["+a", "+b", "!b", "-a", "+b"]


# -- permanent, transient, temporary


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("restart", Restart)
async def test_child_is_started_anew_unless_temporary_when_it_crashes(
    restart: Restart, crash: Callable[[Any], None], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log, restart=restart)])
        ref = (await _refs(tree))["a"]
        crash(ref)
        await wait_all_tasks_blocked()
        again = restart != Restart.TEMPORARY
        assert log == ["+a", f"{_last_words(crash)}a", *(["+a"] if again else [])]
        assert await _names(tree) == (["a"] if again else [])
        assert ref.is_alive() is again
        assert (ref in pykka.ActorRegistry.get_all()) is again


@pytest.mark.parametrize("by", ["ref", "itself", "terminate"])
@pytest.mark.parametrize("restart", Restart)
async def test_child_is_started_anew_only_if_permanent_when_it_is_stopped(
    restart: Restart, by: str, log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log, restart=restart)])
        ref = (await _refs(tree))["a"]
        if by == "ref":
            assert await ref.stop(block=False) is True
        elif by == "itself":
            ref.tell(lambda actor: actor.stop())
        else:
            await ref.terminate()
        await wait_all_tasks_blocked()
        again = restart == Restart.PERMANENT
        assert log == ["+a", "-a", *(["+a"] if again else [])]
        assert await _names(tree) == (["a"] if again else [])
        assert ref.is_alive() is again


@pytest.mark.parametrize("restart", Restart)
async def test_child_is_started_anew_unless_temporary_when_a_sibling_crashes(restart: Restart, log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log, restart=restart), _spec("b", log)], strategy=ALL)
        refs = await _refs(tree)
        log.clear()
        _told(refs["b"])
        await wait_all_tasks_blocked()
        again = restart != Restart.TEMPORARY
        assert log == ["!b", "-a", *(["+a"] if again else []), "+b"]
        assert refs["a"].is_alive() is again
        assert await _names(tree) == (["a", "b"] if again else ["b"])


async def test_siblings_are_left_alone_when_a_child_ends_that_is_not_started_anew(log: list[Any]) -> None:
    specs = [_spec("a", log, restart=Restart.TRANSIENT), _spec("b", log, restart=Restart.TEMPORARY), _spec("c", log)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs, strategy=ALL, intensity=0)
        refs = await _refs(tree)
        _told(refs["b"])
        refs["a"].stop(block=False)
        await wait_all_tasks_blocked()
        assert sorted(log[3:]) == ["!b", "-a"]
        assert await _names(tree) == ["c"]


async def test_others_are_started_when_the_start_of_a_temporary_child_fails(log: list[Any]) -> None:
    specs = [_spec("a", log, 0, restart=Restart.TEMPORARY), _spec("b", log)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs, intensity=0)
        assert await _names(tree) == ["b"]
        assert log == ["xa", "+b"]


# -- what survives


async def test_messages_behind_the_crash_are_handled_in_order_when_a_child_is_started_anew(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [_spec("a", log)])))["a"]
        ref.tell("before")
        _told(ref)
        asked = [ref.ask(number, block=False) for number in range(3)]
        assert [await each for each in asked] == [0, 1, 2]
    assert log == ["+a", "before", "!a", "+a", 0, 1, 2, "-a"]


async def test_ref_urn_registry_and_proxies_stay_when_a_child_is_started_anew(log: list[Any]) -> None:
    class Counter(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

        def on_receive(self, message: Any) -> Any:
            raise message

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", Counter)])
        ref = (await _refs(tree))["a"]
        urn, proxy, before = ref.actor_urn, ref.proxy(), system.refs()
        assert [await proxy.add(), await proxy.add()] == [1, 2]
        _told(ref)
        assert await proxy.add() == 1  # another instance
        assert await ref.proxy().n == 1
        assert pykka.ActorRegistry.get_by_urn(urn) is ref
        assert system.refs() == before
        assert (await _refs(tree))["a"] is ref
        assert await proxy.actor_urn == urn
        assert await _restarts(tree) == {"a": 1}
        assert ref.statistics().restarts == 1


async def test_instance_has_the_same_ref_in_its_constructor_when_it_is_started_anew(log: list[Any]) -> None:
    refs: list[Any] = []

    class Introduced(Child):
        def __init__(self) -> None:
            super().__init__("a", log)
            refs.append((self.actor_ref, self.actor_urn, self.actor_ref.proxy()))
            self.actor_ref.tell("early")

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", Introduced)])
        ref = (await _refs(tree))["a"]
        _told(ref)
        ref.tell("behind the crash")
        await wait_all_tasks_blocked()
        assert [each[:2] for each in refs] == [(ref, ref.actor_urn)] * 2
        assert await refs[1][2].name == "a"
    assert log[:6] == ["+a", "early", "!a", "+a", "behind the crash", "early"]


async def test_only_the_instance_itself_takes_over_when_its_constructor_starts_and_makes_others(
    log: list[Any],
) -> None:
    class Parent(Child):
        def __init__(self) -> None:
            self.helper = Child.start("helper", log)  # before super().__init__(), on purpose
            super().__init__("a", log)
            self.tree = Supervisor.start([_spec("grandchild", log)])

    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [ChildSpec("a", Parent)])))["a"]
        _told(ref)
        assert await ref.request("alive") == "alive"
        helper, tree = await ref.request(lambda actor: (actor.helper, actor.tree))
        assert await helper.request("helping") == "helping"
        assert helper is not ref
        assert await _names(tree) == ["grandchild"]
        _told((await _refs(tree))["grandchild"])
        assert await (await _refs(tree))["grandchild"].request("too") == "too"


async def test_waiting_senders_keep_their_turn_when_a_full_child_is_started_anew(log: list[Any]) -> None:
    class Small(Child):
        inbox_capacity = 2

    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [ChildSpec("a", lambda: Small("a", log))])))["a"]
        ref.tell(lambda _: _fail_later())
        ref.tell(0)
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(ref.send, number)
                await trio.lowlevel.checkpoint()
            await nursery.start(_sent_from_a_thread, ref)
        await wait_all_tasks_blocked()
        assert "!a" in log
        assert sorted(each for each in log if isinstance(each, int)) == [0, 1, 2, 3, 4, 5, 99]


async def _sent_from_a_thread(ref: Any, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.to_thread.run_sync(ref.tell, 99)


async def test_stop_behind_the_crash_stops_the_next_instance_when_a_transient_child_crashes(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log, restart=Restart.TRANSIENT)])
        ref = (await _refs(tree))["a"]
        _told(ref)
        assert await ref.stop(block=False) is True
        await ref.wait_stopped()
    assert log == ["+a", "!a", "+a", "-a"]


async def test_tasks_of_the_old_instance_have_ended_when_the_next_is_made(log: list[Any]) -> None:
    async def work(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"task of {name} ended")

    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [_spec("a", log)])))["a"]
        await ref.request(lambda actor: actor.spawn(work, "the first") and None)
        await wait_all_tasks_blocked()
        _told(ref)
        await wait_all_tasks_blocked()
        assert log == ["+a", "task of the first ended", "!a", "+a"]


async def test_old_instance_can_do_no_harm_when_somebody_still_calls_it(log: list[Any]) -> None:
    old: list[Child] = []
    async with ActorSystem.run() as system:
        other = system.start(Child, "other", log)
        ref = (await _refs(system.start(Supervisor, [_spec("a", log)])))["a"]
        await ref.request(lambda actor: old.append(actor))
        _told(ref)
        await ref.request(lambda actor: old.append(actor))
        assert old[0] is not old[1]
        for call in (
            lambda: old[0].spawn(_fail),
            lambda: old[0].send_after(0, LookupError()),
            lambda: old[0].send_every(1, LookupError()),
            lambda: old[0].watch(other),
        ):
            with pytest.raises(ActorDeadError):
                call()
        with pytest.raises(RuntimeError):
            old[0].take_reply()
        await wait_all_tasks_blocked()
        assert log == ["+other", "+a", "!a", "+a"]


# -- askers


async def test_asker_gets_the_exception_and_nobody_is_restarted_when_a_handler_raises(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [_spec("a", log)])))["a"]
        with pytest.raises(LookupError, match="mine"):
            await ref.request(LookupError("mine"))
        await wait_all_tasks_blocked()
        assert log == ["+a"]


async def test_askers_of_the_old_instance_are_refused_when_it_has_taken_their_replies(log: list[Any]) -> None:
    replies: list[Reply] = []
    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [_spec("a", log)])))["a"]
        kept = ref.ask(lambda actor: replies.append(actor.take_reply()), block=False)
        _told(ref)
        with pytest.raises(ActorDeadError, match="before it answered"):
            await kept
        replies[0].set("too late, and harmless")
        assert await ref.request("alive") == "alive"


async def test_asker_is_refused_when_the_instance_dies_with_the_question_in_hand(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = (await _refs(system.start(Supervisor, [_spec("a", log)])))["a"]
        for end in (ref.cancel, lambda: _task(ref)):
            in_hand, behind = ref.ask(lambda _: _forever(), block=False), ref.ask("behind", block=False)
            await wait_all_tasks_blocked()
            if end == ref.cancel:
                end()
            else:
                ref.cell.life.spawn(_fail, (), None)
            with pytest.raises(ActorDeadError, match="while handling"):
                await in_hand
            assert await behind == "behind"


async def test_queued_askers_are_refused_when_the_supervisor_gives_up(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log)], intensity=0)
        ref = (await _refs(tree))["a"]
        _told(ref)
        asked = [ref.ask(number, block=False) for number in range(3)]
        stop = ref.stop(block=False)
        for each in asked:
            with pytest.raises(ActorDeadError, match="before handling"):
                await each
        assert await stop is True
        await tree.wait_stopped()
        assert not ref.is_alive()
        assert ref not in pykka.ActorRegistry.get_all()
        with pytest.raises(ActorDeadError):
            ref.tell("late")


async def test_queued_askers_are_refused_when_the_supervisor_stops_while_a_child_is_down(
    log: list[Any], autojump_clock: Any
) -> None:
    specs = [_spec("a", log), ChildSpec("b", lambda: Stuck("b", log), shutdown=1)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs, strategy=ALL)
        refs = await _refs(tree)
        refs["b"].tell("stuck")
        await wait_all_tasks_blocked()
        _told(refs["a"])  # and now the supervisor waits a second for b
        asked = refs["a"].ask("behind the crash", block=False)
        await trio.sleep(0.5)
        assert refs["a"].is_alive()
        tree.cancel()
        with pytest.raises(ActorDeadError):
            await asked
        await tree.wait_stopped()
        assert log == ["+a", "+b", "!a", "-b"]


class Stuck(Child):
    """Handles its first message for ever."""

    async def on_receive(self, message: Any) -> Any:
        await trio.sleep_forever()


# -- how often


async def test_supervisor_stops_the_others_and_fails_when_a_child_crashes_too_often(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log), _spec("b", log), intensity=2)
        refs = await _refs(tree)
        for _ in range(3):
            assert tree.is_alive()
            _told(refs["a"])
            await wait_all_tasks_blocked()
        assert log == ["+tree", "+a", "+b", "!a", "+a", "!a", "+a", "!a", "-b", "!tree"]
        assert system.refs() == []
        assert pykka.ActorRegistry.get_all() == []


async def test_failure_of_the_supervisor_says_who_and_why_when_it_gives_up(log: list[Any]) -> None:
    class Watcher(TrioActor):
        def on_receive(self, message: Any) -> None:
            if isinstance(message, Terminated):
                log.append(message)
            else:
                self.watch(message)

    error = LookupError("why")
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", [])], intensity=0, period_s=60)
        await system.start(Watcher).request(tree)
        (await _refs(tree))["a"].tell(error)
        await wait_all_tasks_blocked()
        (terminated,) = log
        limit = terminated.error
        assert isinstance(limit, RestartLimitReached)
        assert (limit.child, limit.intensity, limit.period_s) == ("a", 0, 60)
        assert limit.__cause__ is error


async def test_limit_counts_a_sliding_window_when_time_passes(log: list[Any], autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log)], intensity=2, period_s=10)
        ref = (await _refs(tree))["a"]
        started = trio.current_time()
        for at in (0, 6, 10, 16, 20, 26):  # two in any ten seconds
            await trio.sleep_until(started + at)
            _told(ref)
            await wait_all_tasks_blocked()
            assert tree.is_alive()
        await trio.sleep_until(started + 29.9)
        _told(ref)  # the third since 20
        await wait_all_tasks_blocked()
        assert not tree.is_alive()
        assert log.count("!a") == 7


async def test_limit_is_for_all_children_together_when_several_crash(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec(name, log) for name in "abc"], intensity=2)
        refs = await _refs(tree)
        for name in "abc":
            _told(refs[name])
            await wait_all_tasks_blocked()
        assert not tree.is_alive()


async def test_one_crash_counts_once_when_the_strategy_starts_all_anew(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec(name, log) for name in "abcdef"], strategy=ALL, intensity=1)
        refs = await _refs(tree)
        _told(refs["c"])
        await wait_all_tasks_blocked()
        assert tree.is_alive()
        _told(refs["d"])
        await wait_all_tasks_blocked()
        assert not tree.is_alive()


@pytest.mark.parametrize("strategy", Strategy)
async def test_supervisor_fails_when_a_first_start_fails_too_often(strategy: Strategy, log: list[Any]) -> None:
    specs = [_spec("a", log), _spec("b", log, 0, 0, 0, 0), _spec("c", log)]
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, *specs, strategy=strategy, intensity=2)
        with pytest.raises(ActorDeadError):
            await tree.request(WhichChildren())
        await tree.wait_stopped()
        assert log.count("xb") == 3
        assert log[-2:] == ["-a", "!tree"]
        assert "+c" not in log
        assert system.refs() == []


async def test_supervisor_fails_when_starting_anew_fails_too_often(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log, 1, 0, 0, 0, 0), intensity=3)
        ref = (await _refs(tree))["a"]
        _told(ref)
        asked = ref.ask("behind", block=False)
        with pytest.raises(ActorDeadError):
            await asked
        await tree.wait_stopped()
        assert log == ["+tree", "+a", "!a", "xa", "xa", "xa", "!tree"]


# -- factories


async def test_making_a_child_is_repeated_when_its_constructor_fails(log: list[Any]) -> None:
    made: list[Any] = []

    def make() -> Child:
        made.append(None)
        if len(made) in (1, 3):
            raise LookupError("in the factory")
        return Child("a", log)

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", make)])
        ref = (await _refs(tree))["a"]
        _told(ref)
        assert await ref.request("alive") == "alive"
        assert len(made) == 4
        assert log == ["+a", "!a", "+a", "alive"]


async def test_old_instance_still_stands_for_the_child_when_its_next_constructor_fails(log: list[Any]) -> None:
    class Fragile(Child):
        broken = False

        def __init__(self) -> None:
            super().__init__("a", log)
            if self.broken:
                raise LookupError("in the constructor, after taking over")

    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, ChildSpec("a", Fragile), intensity=2)
        ref = (await _refs(tree))["a"]
        Fragile.broken = True
        _told(ref)
        asked = ref.ask("behind", block=False)
        with pytest.raises(ActorDeadError):
            await asked
        await tree.wait_stopped()
        assert not ref.is_alive()
        assert log == ["+tree", "+a", "!a", "!tree"]


async def test_strangers_are_left_alone_when_a_factory_returns_one_that_lives_already(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        stranger = system.start(Child, "stranger", log)
        for factory in (stranger._actor_weakref, lambda: None, lambda: "no actor"):
            tree = system.start(Supervisor, [ChildSpec("a", factory)])
            await tree.wait_stopped()
            other = system.start(Supervisor)
            with pytest.raises(TypeError):
                await other.request(StartChild(ChildSpec("a", factory)))
        assert await stranger.request("alive") == "alive"


@pytest.mark.parametrize("kind", ["the same", "nothing", "another's", "made on the side"])
async def test_supervisor_gives_up_when_a_factory_makes_no_new_actor(kind: str, log: list[Any]) -> None:
    first: list[Any] = []

    def make() -> Any:
        if not first:
            first.append(Child("a", log))
            return first[0]
        if kind == "another's":
            return Child.start("b", log)._actor_weakref()
        if kind == "made on the side":
            Child("b", log)
            return Child("c", log)
        return first[0] if kind == "the same" else None

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", make)], intensity=1)
        ref = (await _refs(tree))["a"]
        _told(ref)
        await tree.wait_stopped()
        assert not ref.is_alive()
        assert "-a" not in log


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Supervisor([ChildSpec("a", TrioActor), ChildSpec("a", TrioActor)]), "already"),
        (lambda: Supervisor(intensity=-1), "-1"),
        (lambda: Supervisor(period_s=0), "above zero"),
        (lambda: Supervisor(strategy="some_for_some"), "some_for_some"),
        (lambda: ChildSpec("a", TrioActor, shutdown=-1), "-1"),
        (lambda: ChildSpec("a", TrioActor, shutdown=math.nan), "nan"),
        (lambda: ChildSpec("a", TrioActor, restart="always"), "always"),
    ],
)
async def test_plan_is_refused_when_it_makes_no_sense(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


# -- escalation


async def test_supervisor_is_started_anew_by_its_own_when_it_gives_up(log: list[Any]) -> None:
    def inner() -> Loud:
        return Loud("inner", log, _spec("b", log), _spec("c", log), intensity=0)

    async with ActorSystem.run() as system:
        outer = system.start(Loud, "outer", log, _spec("a", log), ChildSpec("inner", inner), _spec("d", log))
        refs = await _refs(outer)
        children = await _refs(refs["inner"])
        log.clear()
        _told(children["b"])
        await wait_all_tasks_blocked()
        assert log == ["!b", "-c", "!inner", "+inner", "+b", "+c"]
        assert await _refs(outer) == refs
        again = await _refs(refs["inner"])
        assert list(again) == ["b", "c"]
        assert not any(ref.is_alive() for ref in children.values())
        assert all(ref.is_alive() for ref in again.values())


async def test_every_level_gives_up_in_turn_when_nothing_helps(log: list[Any]) -> None:
    starts = [1, *[0] * 100]  # the first succeeds

    def bottom() -> Loud:
        return Loud("bottom", log, ChildSpec("a", lambda: Child("a", log, starts)), intensity=1)

    def middle() -> Loud:
        return Loud("middle", log, ChildSpec("bottom", bottom), intensity=1)

    async with ActorSystem.run() as system:
        top = system.start(Loud, "top", log, ChildSpec("middle", middle), intensity=1)
        middle_ref = (await _refs(top))["middle"]
        bottom_ref = (await _refs(middle_ref))["bottom"]
        _told((await _refs(bottom_ref))["a"])
        await top.wait_stopped()
        assert log[-1] == "!top"
        assert log.count("!middle") == 2
        assert log.count("!bottom") == 4
        assert log.count("xa") == 7  # one instance of a crashes, then two starts fail per bottom but the first
        assert system.refs() == []
        assert pykka.ActorRegistry.get_all() == []


async def test_whole_tree_is_started_anew_when_a_supervisor_fails_by_itself(log: list[Any]) -> None:
    def inner() -> Loud:
        return Loud("inner", log, _spec("a", log), _spec("b", log))

    async with ActorSystem.run() as system:
        outer = system.start(Supervisor, [ChildSpec("inner", inner)])
        ref = (await _refs(outer))["inner"]
        log.clear()
        _told(ref)
        await wait_all_tasks_blocked()
        assert log == ["-b", "-a", "!inner", "+inner", "+a", "+b"]
        log.clear()
        ref.cancel()
        await wait_all_tasks_blocked()
        assert log == ["-b", "-a", "-inner", "+inner", "+a", "+b"]
        log.clear()
        await ref.terminate()
        await wait_all_tasks_blocked()
        assert log == ["-b", "-a", "-inner", "+inner", "+a", "+b"]


async def test_other_actors_live_on_when_a_top_supervisor_gives_up(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        bystander = system.start(Child, "bystander", log)
        tree = system.start(Supervisor, [_spec("a", log)], intensity=0)
        _told((await _refs(tree))["a"])
        await tree.wait_stopped()
        assert await bystander.request("alive") == "alive"


# -- stopping within a time


async def test_child_is_cancelled_when_it_does_not_stop_in_its_time(log: list[Any], autojump_clock: Any) -> None:
    specs = [_spec("a", log), ChildSpec("b", lambda: Stuck("b", log), shutdown=2.5)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs)
        ref = (await _refs(tree))["b"]
        asked = ref.ask("stuck", block=False)
        await wait_all_tasks_blocked()
        started = trio.current_time()
        assert await tree.stop(block=False) is True
        assert trio.current_time() - started == pytest.approx(2.5)
        with pytest.raises(ActorDeadError, match="while handling"):
            await asked
    assert log == ["+a", "+b", "-b", "-a"]


async def test_child_is_cancelled_at_once_when_its_shutdown_is_to_kill(log: list[Any], autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: Stuck("a", log), shutdown=KILL)])
        ref = (await _refs(tree))["a"]
        ref.tell("stuck")
        behind = ref.ask("behind", block=False)
        started = trio.current_time()
        await tree.stop(block=False)
        assert trio.current_time() == started
        with pytest.raises(ActorDeadError, match="before handling"):
            await behind
    assert log == ["+a", "-a"]


async def test_child_has_all_the_time_it_needs_when_its_shutdown_is_unbounded(
    log: list[Any], autojump_clock: Any
) -> None:
    class Slow(Child):
        async def on_receive(self, message: Any) -> None:
            await trio.sleep(message)

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: Slow("a", log), shutdown=math.inf)])
        asked = (await _refs(tree))["a"].ask(1_000, block=False)
        await tree.stop(block=False)
        assert await asked is None


@pytest.mark.parametrize("shutdown", [0.0, 2.0, KILL])
async def test_next_instance_is_not_stopped_when_the_one_before_had_to_be_cancelled(
    shutdown: Any, log: list[Any], autojump_clock: Any
) -> None:
    class StuckOnce(Child):
        async def on_receive(self, message: Any) -> Any:
            if message == "stuck":
                await trio.sleep_forever()
            return super().on_receive(message)

    specs = [ChildSpec("a", lambda: StuckOnce("a", log), shutdown=shutdown), _spec("b", log)]
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, specs, strategy=ALL)
        refs = await _refs(tree)
        refs["a"].tell("stuck")
        refs["a"].tell("behind")
        await wait_all_tasks_blocked()
        _told(refs["b"])
        assert await refs["b"].request("up") == "up"
        await trio.sleep(10)
        assert log[:5] == ["+a", "+b", "!b", "-a", "+a"]
        assert sorted(log[5:]) == ["+b", "behind", "up"]
        assert await _restarts(tree) == {"a": 1, "b": 1}


async def test_children_are_cancelled_in_reverse_when_the_time_of_their_supervisor_is_up(
    log: list[Any], autojump_clock: Any
) -> None:
    def inner() -> Loud:
        return Loud("inner", log, *(ChildSpec(name, lambda name=name: Stuck(name, log)) for name in "abc"))

    async with ActorSystem.run() as system:
        outer = system.start(Supervisor, [ChildSpec("inner", inner, shutdown=7)])
        refs = await _refs((await _refs(outer))["inner"])
        for ref in refs.values():
            ref.tell("stuck")
        await wait_all_tasks_blocked()
        log.clear()
        started = trio.current_time()
        await outer.stop(block=False)
        assert trio.current_time() - started == pytest.approx(7)  # 5 for c, 2 of 5 for b
        assert log == ["-c", "-b", "-a", "-inner"]


async def test_grace_bounds_the_whole_exit_when_no_child_stops_by_itself(log: list[Any], autojump_clock: Any) -> None:
    def inner() -> Loud:
        return Loud("inner", log, ChildSpec("b", lambda: Stuck("b", log), shutdown=math.inf))

    async with ActorSystem.run(grace_s=3) as system:
        specs = [ChildSpec("a", lambda: Stuck("a", log)), ChildSpec("inner", inner, shutdown=math.inf)]
        tree = system.start(Loud, "tree", log, *specs)
        refs = await _refs(tree)
        for ref in (refs["a"], (await _refs(refs["inner"]))["b"]):
            ref.tell("stuck")
        await wait_all_tasks_blocked()
        log.clear()
        started = trio.current_time()
    assert trio.current_time() - started == pytest.approx(3)
    assert log == ["-b", "-inner", "-a", "-tree"]


async def test_cancelling_is_bounded_when_the_last_hooks_of_many_children_are_slow(
    log: list[Any], autojump_clock: Any
) -> None:
    class SlowToStop(TrioActor):
        async def on_stop(self) -> None:
            await trio.sleep_forever()

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec(str(number), SlowToStop) for number in range(50)])
        await _refs(tree)
        started = trio.current_time()
        tree.cancel()
        await tree.wait_stopped()
        assert trio.current_time() - started == pytest.approx(2 * 5)  # one by one for 5 s, then the others together
        assert system.refs() == []


async def test_supervisor_ends_when_it_is_cancelled_while_a_child_never_starts(log: list[Any]) -> None:
    class NeverUp(Child):
        async def on_start(self) -> None:
            await trio.sleep_forever()

    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log), ChildSpec("b", lambda: NeverUp("b", log)))
        asked = tree.ask(WhichChildren(), block=False)
        await wait_all_tasks_blocked()
        tree.cancel()
        await tree.wait_stopped()
        with pytest.raises(ActorDeadError):
            await asked
        assert log == ["+tree", "+a", "-a", "-tree"]


async def test_terminate_returns_when_the_instance_has_stopped_though_it_is_started_anew(
    log: list[Any], autojump_clock: Any
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: Stuck("a", log))])
        ref = (await _refs(tree))["a"]
        ref.tell("stuck")
        await wait_all_tasks_blocked()
        started = trio.current_time()
        await ref.terminate(grace_s=2)
        assert trio.current_time() - started == pytest.approx(2)
        await wait_all_tasks_blocked()
        assert log == ["+a", "-a", "+a", "-a", "+a"]  # cancelled, and then the stop that was still queued
        assert ref.is_alive()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("first", [0, 1])
async def test_nobody_is_started_anew_and_the_block_raises_when_on_start_raises_more_than_a_failure(
    first: int, error: BaseException, log: list[Any]
) -> None:
    starts: list[None] = []

    class Touchy(Child):
        def on_start(self) -> None:  # type: ignore[override]  # it is async elsewhere
            starts.append(None)
            if len(starts) > first:
                raise error

    async def program() -> None:
        async with ActorSystem.run() as system:
            tree = system.start(Supervisor, [_spec("a", log), ChildSpec("b", lambda: Touchy("b", log))], strategy=ALL)
            if first:
                _told((await _refs(tree))["b"])
            await trio.sleep_forever()

    with pytest.raises(type(error)):
        await program()
    assert len(starts) == first + 1
    assert pykka.ActorRegistry.get_all() == []


async def test_other_tasks_run_when_a_factory_fails_all_the_time(log: list[Any]) -> None:
    def broken() -> Child:
        log.append(None)
        raise LookupError

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", broken)], intensity=10**9, period_s=math.inf)
        while len(log) < 10:
            await trio.lowlevel.checkpoint()
        await tree.terminate(grace_s=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_nobody_is_started_anew_and_the_block_raises_when_a_child_raises_more_than_a_failure(
    error: BaseException, log: list[Any]
) -> None:
    async def program() -> None:
        async with ActorSystem.run() as system:
            tree = system.start(Loud, "tree", log, _spec("a", log), _spec("b", log), strategy=ALL)
            (await _refs(tree))["a"].tell(error)
            await trio.sleep_forever()

    with pytest.raises(type(error)):
        await program()
    assert log == ["+tree", "+a", "+b", "-a", "-b", "-tree"]
    assert pykka.ActorRegistry.get_all() == []


# -- children that come and go


async def test_child_is_supervised_like_the_others_when_it_is_started_later(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log), strategy=REST)
        ref = await tree.request(StartChild(_spec("b", log)))
        assert log == ["+tree", "+a", "+b"]
        assert await ref.request("hello") == "hello"
        _told((await _refs(tree))["a"])
        await wait_all_tasks_blocked()
        assert log[4:] == ["!a", "-b", "+a", "+b"]
        await tree.terminate()
        assert log[8:] == ["-b", "-a", "-tree"]


async def test_asker_gets_the_error_and_there_is_no_child_when_its_start_fails(log: list[Any]) -> None:
    def broken() -> Child:
        raise KeyError("in the factory")

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec("a", log)], intensity=0)
        with pytest.raises(LookupError, match="no luck"):
            await tree.request(StartChild(_spec("b", log, 0, 0)))
        with pytest.raises(KeyError):
            await tree.request(StartChild(ChildSpec("b", broken)))
        with pytest.raises(ValueError, match="already"):
            await tree.request(StartChild(_spec("a", log)))
        tree.tell(StartChild(_spec("a", log)))
        tree.tell(StartChild(ChildSpec("b", broken)))
        assert await _names(tree) == ["a"]
        assert len(system.refs()) == 2
        await tree.request(StartChild(_spec("b", log)))
        assert log == ["+a", "xb", "+b"]


async def test_asker_is_refused_when_the_child_is_cancelled_before_it_is_up(log: list[Any]) -> None:
    class NeverUp(Child):
        async def on_start(self) -> None:
            await trio.sleep_forever()

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor)
        asked = tree.ask(StartChild(ChildSpec("a", lambda: NeverUp("a", log))), block=False)
        await wait_all_tasks_blocked()
        system.refs()[-1].cancel()
        with pytest.raises(ActorDeadError):
            await asked
        assert await _names(tree) == []
        assert len(system.refs()) == 1


async def test_child_stops_for_good_whatever_its_kind_when_its_supervisor_is_asked_to(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [_spec(name, log, restart=name) for name in Restart], strategy=ALL)
        refs = await _refs(tree)
        for name, ref in refs.items():
            assert await tree.request(StopChild(name)) is True
            assert not ref.is_alive()
            assert await tree.request(StopChild(name)) is False
        assert await _names(tree) == []
        assert [each for each in log if each[0] == "-"] == [f"-{name}" for name in Restart]
        again = await tree.request(StartChild(_spec("permanent", log)))
        assert again is not refs["permanent"]


async def test_child_that_is_down_is_gone_when_its_supervisor_is_asked_to_stop_it(
    log: list[Any], autojump_clock: Any
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log))
        ref = (await _refs(tree))["a"]
        stop = tree.ask(lambda _: _stop_in_the_same_breath(ref), block=False)
        gone = tree.ask(StopChild("a"), block=False)  # before the supervisor hears of the crash
        await stop
        asked = ref.ask("behind the crash", block=False)
        assert await gone is True
        with pytest.raises(ActorDeadError):
            await asked
        await wait_all_tasks_blocked()
        assert log == ["+tree", "+a", "!a"]


async def _stop_in_the_same_breath(ref: Any) -> None:
    _told(ref)
    await trio.sleep(1)


async def test_infos_say_who_is_there_when_asked(log: list[Any], autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log), _spec("b", log, restart=Restart.TRANSIENT))
        refs = await _refs(tree)
        down = tree.ask(lambda _: _stop_in_the_same_breath(refs["a"]), block=False)
        infos = tree.ask(WhichChildren(), block=False)
        await down
        assert await infos == (
            ChildInfo("a", refs["a"], Restart.PERMANENT, 0, running=False),
            ChildInfo("b", refs["b"], Restart.TRANSIENT, 0, running=True),
        )
        assert (await tree.request(WhichChildren()))[0] == ChildInfo("a", refs["a"], Restart.PERMANENT, 1, running=True)


async def test_starting_is_refused_when_the_system_is_closing(log: list[Any]) -> None:
    answers: list[Any] = []

    class Late(Child):
        def __init__(self, tree: Any) -> None:
            super().__init__("late", log)
            self.tree = tree

        async def on_stop(self) -> None:
            try:
                await self.tree.request(StartChild(_spec("b", log)))
            except SystemNotRunning as error:
                answers.append(error)
            _told((await _refs(self.tree))["a"])  # but a tree that is still needed is kept up
            answers.append(await (await _refs(self.tree))["a"].request("alive"))

    async with ActorSystem.run() as system:
        system.start(Late, system.start(Supervisor, [_spec("a", log)]))
    assert len(answers) == 2
    assert log == ["+late", "+a", "!a", "+a", "alive", "-a"] or log == ["+a", "+late", "!a", "+a", "alive", "-a"]


async def test_supervisor_understands_what_a_subclass_adds_when_it_is_told(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Loud, "tree", log, _spec("a", log))
        assert await tree.request("mine") == "mine"
        with pytest.raises(LookupError):
            await tree.request(LookupError())
        assert await _names(tree) == ["a"]


# -- threads


def test_tree_is_used_like_any_actor_when_there_is_no_trio_in_sight(log: list[Any]) -> None:
    with ActorSystem.in_thread() as system:
        tree = system.start(Supervisor, [_spec("a", log), _spec("b", log)])
        refs = Supervisor.refs_of(tree.ask(WhichChildren(), timeout=10))
        proxy = refs["a"].proxy()
        for crash in (_told, _cancelled):
            crash(refs["a"])
            assert refs["a"].ask("alive", timeout=10) == "alive"
        assert proxy.name.get(timeout=10) == "a"
        more = tree.ask(StartChild(_spec("c", log)), timeout=10)
        assert more.ask("alive", timeout=10) == "alive"
        assert tree.ask(StopChild("c"), timeout=10) is True
        assert not more.is_alive()
        assert refs["b"].stop(timeout=10) is True  # permanent: another one takes over
        assert refs["b"].ask("alive", timeout=10) == "alive"
    assert pykka.ActorRegistry.get_all() == []
    assert log[-2:] == ["-b", "-a"]


def test_every_ask_is_answered_when_threads_ask_a_child_that_crashes_all_the_time() -> None:
    class Flaky(TrioActor):
        inbox_capacity = 16

        def __init__(self) -> None:
            super().__init__()
            self.handled = 0

        def on_receive(self, message: int) -> int:
            self.handled += 1
            if message < 0:
                raise LookupError
            return message

    answered: list[int] = []

    def ask(ref: Any, first: int) -> None:
        for number in range(first, first + 200):
            if number % 10 == 0:
                ref.tell(-1)
            assert ref.ask(number, timeout=30) == number
            answered.append(number)

    with ActorSystem.in_thread() as system:
        tree = system.start(Supervisor, [ChildSpec("a", Flaky)], intensity=1_000)
        ref = Supervisor.refs_of(tree.ask(WhichChildren(), timeout=10))["a"]
        threads = [threading.Thread(target=ask, args=(ref, first)) for first in (1, 1_001, 2_001, 3_001)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ref.statistics().restarts == 80
    assert len(answered) == 800


# -- nothing is left


async def test_instances_are_freed_when_others_have_taken_over(log: list[Any]) -> None:
    import gc
    import weakref

    alive: weakref.WeakSet[Child] = weakref.WeakSet()

    def make() -> Child:
        child = Child("a", log)
        alive.add(child)
        return child

    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", make)], intensity=100)
        ref = (await _refs(tree))["a"]
        gc.disable()
        try:
            for _ in range(10):
                ref.cancel()
                await ref.request("alive")
            await wait_all_tasks_blocked()
            assert len(alive) == 1
        finally:
            gc.enable()


async def test_supervisor_goes_on_when_thousands_of_crashes_were_seen_to(log: list[Any], autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: Child("a", []))], intensity=10, period_s=1)
        ref = (await _refs(tree))["a"]
        for _ in range(200):
            for _ in range(10):
                _told(ref)
                await ref.request("alive")
            await trio.sleep(1)
        assert await _restarts(tree) == {"a": 2_000}
