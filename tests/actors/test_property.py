"""A random tree of supervisors under random crashes, stops, cancellations and asks: what holds for every seed.

    ACTORS_SEED=123 .venv/bin/pytest tests/actors/test_property.py     # one seed again
    ACTORS_SEEDS=20000 .venv/bin/pytest tests/actors/test_property.py  # more of them, after each other

A seed decides the tree, what everybody does, and the order in which tasks run; time is virtual. So a seed that fails
fails again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import random
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import pykka
import pytest
import trio

from actors import (
    KILL,
    ActorDeadError,
    AskTimeout,
    ChildSpec,
    InboxFull,
    InboxPolicy,
    MessageDropped,
    Reply,
    Restart,
    StartChild,
    StopChild,
    Strategy,
    Supervisor,
    Terminated,
    TrioActor,
    TrioActorRef,
    TrioFuture,
    WhichChildren,
    WouldDeadlock,
)
from actors._cell import Cell
from actors._deadlines import Deadlines
from actors._inbox import Inbox
from actors._life import Life
from actors._parcel import Parcel
from actors._supervisor import _Limit
from actors._timers import Timers
from actors._watch import _Watch
from actors.testing import Rig, deterministic

SEEDS = int(os.environ.get("ACTORS_SEEDS", "1000"))
CHUNK = 100
REAL_BOUND_S = 60
VIRTUAL_BOUND_S = 10_000.0
EPSILON_S = 1e-6

Ref = TrioActorRef[Any]


class Violation(AssertionError):
    """Something that must always hold did not."""


class Boom(Exception):
    """What actors raise in here."""


class Leave(Exception):
    """How the block of the system is left by an exception."""


REFUSALS = (ActorDeadError, AskTimeout, InboxFull, MessageDropped, Boom, ExceptionGroup)
"""How an ask may end without an answer."""


@dataclass(frozen=True)
class Job:
    number: int
    sender: str
    act: str


@dataclass(frozen=True)
class Tick:
    """From a timer of one instance to itself."""

    instance: Any


@dataclass
class Story:
    """Of one instance of an actor."""

    name: str
    began: bool = False
    up: bool = False
    last_hooks: list[str] = field(default_factory=list)


@dataclass
class Starts:
    """The starts of children by one instance of a supervisor."""

    plan: Plan
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Plan:
    """A node of the tree; ``children`` is None for a worker."""

    name: str
    restart: Restart
    shutdown: Any
    worker: type[Worker] | None = None
    children: list[Plan] = field(default_factory=list)
    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = 3
    period_s: float = 5.0


class World:
    """What is done, what has been seen, and what must hold of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.system: Rig
        self.numbers = itertools.count()
        self.refs: dict[str, Ref] = {}  # every one that anybody has seen, by URN
        self.supervisors: dict[str, Ref] = {}
        self.stories: list[Story] = []
        self.starts: list[Starts] = []
        self.accepted: dict[int, Job] = {}  # told or sent, and not refused
        self.handled: list[tuple[str, Job]] = []  # by URN
        self.futures: list[tuple[Job, TrioFuture[Any]]] = []
        self.watched: set[str] = set()
        self.terminated: Counter[str] = Counter()
        self.watcher: Ref
        self.asks = 0
        self.left_in_order = False
        self.trace: list[str] = []

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def note(self, text: str) -> None:
        self.trace.append(f"{trio.current_time():.6f} {text}")

    # -- the tree

    def plan(self, name: str, depth: int) -> Plan:
        restart = self.rng.choice([Restart.PERMANENT, *Restart])
        shutdown = self.rng.choice([KILL, 0.0, 0.5, 3.0, math.inf])
        if depth == 0 or (depth < 3 and self.chance(0.6)):
            return Plan(name, restart, shutdown, worker=self.rng.choice(WORKERS))
        children = [self.plan(f"{name}.{place}", depth - 1) for place in range(self.rng.randint(1, 4))]
        strategy = self.rng.choice(list(Strategy))
        period_s = self.rng.choice([0.5, 2.0, 5.0])
        intensity = self.rng.choice([3, 10, 100] if depth == 3 else [0, 1, 3, 10, 30])
        return Plan(name, restart, shutdown, None, children, strategy, intensity, period_s)

    def make(self, plan: Plan) -> TrioActor:
        """The factory of a node."""
        if plan.worker is not None:
            return plan.worker(self, plan.name)
        starts = Starts(plan)
        self.starts.append(starts)
        return Node(self, plan, [self.spec(child, starts) for child in plan.children])

    def spec(self, plan: Plan, starts: Starts) -> ChildSpec:
        return ChildSpec(plan.name, partial(self.make_child, plan, starts), plan.restart, plan.shutdown)

    def make_child(self, plan: Plan, starts: Starts) -> TrioActor:
        starts.times[plan.name].append(trio.current_time())
        if self.chance(0.02):
            raise Boom("in the factory")
        return self.make(plan)

    # -- what clients and actors do

    def job(self, sender: str) -> Job:
        act = self.rng.choice(ACTS)
        return Job(next(self.numbers), sender, act)

    def someone(self) -> Ref:
        """Mostly one that is alive."""
        refs = list(self.refs.values())
        return self.rng.choice((not self.chance(0.1) and [ref for ref in refs if ref.is_alive()]) or refs)

    def tell(self, sender: str) -> None:
        job = self.job(sender)
        try:
            self.someone().tell(job)
        except (ActorDeadError, InboxFull):
            return
        self.accepted[job.number] = job

    async def send(self, sender: str) -> None:
        job = self.job(sender)
        with trio.move_on_after(self.rng.choice([0.0, 0.3, 5.0])):
            try:
                await self.someone().send(job)
            except (ActorDeadError, InboxFull):
                return
            self.accepted[job.number] = job

    async def ask(self, sender: str) -> None:
        """Whatever comes must come within the deadline, and an answer must be the right one."""
        job, timeout_s = self.job(sender), self.rng.choice([0.1, 1.0, 5.0])
        begun = trio.current_time()
        self.asks += 1
        try:
            answer = await self.someone().request(job, timeout_s=timeout_s)
        except REFUSALS:
            pass
        except WouldDeadlock:
            return  # it has asked itself
        else:
            if answer != job.number:
                raise Violation(f"{job} was answered with {answer!r}")
        if trio.current_time() > begun + timeout_s + EPSILON_S:
            raise Violation(f"{job} took {trio.current_time() - begun} s, with a deadline of {timeout_s} s")

    async def ask_and_leave(self, sender: str) -> None:
        with trio.move_on_after(self.rng.choice([0.0, 0.2])):
            await self.ask(sender)

    def ask_for_later(self, sender: str) -> None:
        job = self.job(sender)
        try:
            future = self.someone().ask(job, block=False)
        except InboxFull:
            return
        self.futures.append((job, future))

    async def end_someone(self) -> None:
        ref = self.someone()
        if ref.actor_urn in self.supervisors and self.chance(0.8):
            return
        match self.rng.choice(["stop", "cancel", "terminate"]):
            case "stop":
                ref.stop(block=False)
            case "cancel":
                ref.cancel()
            case "terminate":
                with trio.move_on_after(3.0):
                    await ref.terminate(grace_s=self.rng.choice([0.0, 1.0]))

    async def see_to_children(self) -> None:
        if not self.supervisors:
            return
        ref = self.rng.choice(list(self.supervisors.values()))
        try:
            infos = await ref.request(WhichChildren())
            if infos and self.chance(0.5):
                await ref.request(StopChild(self.rng.choice(infos).id))
            elif self.chance(0.7):
                plan = Plan(
                    f"extra {next(self.numbers)}", self.rng.choice(list(Restart)), 1.0, self.rng.choice(WORKERS)
                )
                await ref.request(StartChild(ChildSpec(plan.name, partial(self.make, plan), plan.restart, 1.0)))
        except REFUSALS:
            pass

    async def client(self, name: str) -> None:
        for _ in range(self.rng.randint(10, 60)):
            match self.rng.choice(ACTIONS):
                case "tell":
                    self.tell(name)
                case "send":
                    await self.send(name)
                case "ask":
                    await self.ask(name)
                case "ask and leave":
                    await self.ask_and_leave(name)
                case "ask for later":
                    self.ask_for_later(name)
                case "end":
                    await self.end_someone()
                case "children":
                    await self.see_to_children()
                case "pause":
                    await trio.sleep(self.rng.uniform(0.0, 1.0))
            await trio.sleep(self.rng.choice([0.0, 0.0, 0.05, 0.5]))

    # -- what must hold

    def check(self) -> None:
        for what in (
            self.nothing_is_left(),
            self.everyone_has_stopped(),
            self.all_asks_are_answered(),
            self.no_message_is_lost(),
            self.order_is_kept(),
            self.limits_are_kept(),
            self.ends_are_told_once(),
        ):
            for problem in what:
                raise Violation(problem)

    def nothing_is_left(self) -> Iterator[str]:
        yield from (f"{ref} is registered" for ref in pykka.ActorRegistry.get_all())
        yield from (f"{ref} is in the system" for ref in self.system.refs())
        if self.system.statistics().actors or self.system.statistics().depth:
            yield f"left: {self.system.statistics()}"

    def everyone_has_stopped(self) -> Iterator[str]:
        yield from (f"{ref} is alive" for ref in self.refs.values() if ref.is_alive())
        yield from (f"{ref} has not ended" for ref in self.refs.values() if not ref.cell.ended.settled)
        for story in self.stories:
            if len(story.last_hooks) > 1 or (story.up and not story.last_hooks):
                yield f"{story} should have had one last hook"

    def all_asks_are_answered(self) -> Iterator[str]:
        for job, future in self.futures:
            if not future.settled:
                yield f"{job} has no answer"

    def no_message_is_lost(self) -> Iterator[str]:
        seen = Counter(job.number for _, job in self.handled)
        dead = {letter.message.number for letter in self.system.letters if isinstance(letter.message, Job)}
        yield from (f"job {number} was handled {times} times" for number, times in seen.items() if times > 1)
        for number, job in self.accepted.items():
            if number not in seen and number not in dead:
                yield f"{job} was accepted, and neither handled nor a dead letter"

    def order_is_kept(self) -> Iterator[str]:
        latest: dict[tuple[str, str], int] = {}
        for urn, job in self.handled:
            if latest.get((urn, job.sender), -1) > job.number:
                yield f"{job} was handled after a later one of the same sender"
            latest[urn, job.sender] = job.number

    def limits_are_kept(self) -> Iterator[str]:
        """Seen from the factories. Under one_for_one a child is made anew at the moment that counts. Otherwise siblings
        are stopped in between, but all is done before the next that counts: so one more may fall into a period."""
        for starts in self.starts:
            plan, most = starts.plan, starts.plan.intensity + 1
            restarts = [times[1:] for times in starts.times.values()]
            if plan.strategy == Strategy.ONE_FOR_ONE:
                restarts, most = [sorted(itertools.chain.from_iterable(restarts))], plan.intensity
            for times in restarts:
                for first, last in zip(times, times[most:], strict=False):
                    if last - first < plan.period_s - EPSILON_S:
                        yield f"{most + 1} restarts in {last - first} s under {plan.name}, {plan.strategy}"

    def ends_are_told_once(self) -> Iterator[str]:
        yield from (f"the end of {urn} was told {times} times" for urn, times in self.terminated.items() if times > 1)
        if self.left_in_order:  # otherwise the watcher may have gone before others
            yield from (f"the end of {urn} was not told" for urn in self.watched - set(self.terminated))


# -- the actors


class Living(TrioActor):
    """Writes its life down."""

    shutdown_timeout_s = 1.0

    def begin(self, world: World, name: str) -> None:
        self.world = world
        self.story = Story(name)
        world.stories.append(self.story)

    def on_start(self) -> Any:
        self.story.began = True
        self.world.note(f"start {self.story.name}")
        self.world.refs[self.actor_urn] = self.actor_ref
        if self.world.chance(0.3):
            return self.start_slowly()
        return self.started()

    async def start_slowly(self) -> None:
        await trio.sleep(self.world.rng.uniform(0.0, 0.5))
        self.started()

    def started(self) -> None:
        if self.world.chance(0.04):
            raise Boom("in on_start")
        self.story.up = True

    def on_stop(self) -> Any:
        return self.last_hook("on_stop")

    def on_failure(self, *_: Any) -> Any:
        return self.last_hook("on_failure")

    def last_hook(self, name: str) -> Any:
        self.world.note(f"{name} {self.story.name}")
        self.story.last_hooks.append(name)
        if self.world.chance(0.1):
            raise Boom(f"in {name}")
        return self.linger() if self.world.chance(0.3) else None

    async def linger(self) -> None:
        await trio.sleep(self.world.rng.choice([0.0, 0.3, 5.0]))


class Worker(Living):
    """Does what a job says."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self.begin(world, name)

    def started(self) -> None:
        super().started()
        if self.world.chance(0.2):
            self.send_every(self.world.rng.uniform(0.1, 1.0), Tick(self))

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Tick):
            if message.instance is not self:
                raise Violation("a timer has outlived its actor")
            return None
        assert isinstance(message, Job)
        self.world.note(f"{self.story.name} {message}")
        self.world.handled.append((self.actor_urn, message))
        return getattr(self, f"do_{message.act}")(message)

    def do_answer(self, job: Job) -> int:
        return job.number

    async def do_answer_slowly(self, job: Job) -> int:
        await trio.sleep(self.world.rng.choice([0.0, 0.1, 2.0]))
        return job.number

    def do_fail(self, job: Job) -> None:
        raise Boom(f"job {job.number}")

    async def do_fail_slowly(self, job: Job) -> None:
        await trio.sleep(self.world.rng.uniform(0.0, 0.2))
        raise ExceptionGroup("several", [Boom(f"job {job.number}")])

    def do_answer_later(self, job: Job) -> None:
        self.spawn(self.answer, self.take_reply(), job)

    async def answer(self, reply: Any, job: Job) -> None:
        await trio.sleep(self.world.rng.uniform(0.0, 1.0))
        reply.set(job.number)

    def do_never_answer(self, job: Job) -> None:
        self.take_reply()

    def do_fail_in_a_task(self, job: Job) -> int:
        self.spawn(self.fail_later)
        return job.number

    async def fail_later(self) -> None:
        await trio.sleep(self.world.rng.uniform(0.0, 0.5))
        raise Boom("in a task")

    def do_tell(self, job: Job) -> int:
        self.world.tell(self.story.name)
        return job.number

    async def do_ask(self, job: Job) -> int:
        await self.world.ask(self.story.name)
        return job.number

    def do_stop(self, job: Job) -> int:
        self.stop()
        return job.number


class Node(Worker, Supervisor):
    """Seldom does what would end it, for then all below it ends."""

    def __init__(self, world: World, plan: Plan, specs: list[ChildSpec]) -> None:
        Supervisor.__init__(self, specs, strategy=plan.strategy, intensity=plan.intensity, period_s=plan.period_s)
        self.begin(world, plan.name)

    def started(self) -> None:
        super().started()
        self.world.supervisors[self.actor_urn] = self.actor_ref

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Job) and message.act in FATAL and self.world.chance(0.95):
            message = dataclasses.replace(message, act="answer")
        return super().on_receive(message)


FATAL = {"fail", "fail_slowly", "fail_in_a_task", "stop"}
ACTS = [name.removeprefix("do_") for name in vars(Worker) if name.startswith("do_")]
ACTS += ["answer"] * 10 + ["answer_slowly"] * 3
ACTIONS = ["tell"] * 5 + ["send"] * 3 + ["ask"] * 4 + ["ask for later"] * 4
ACTIONS += ["ask and leave", "end", "children", "children", "pause", "pause"]


def _worker(capacity: int, burst: int, policy: InboxPolicy) -> type[Worker]:
    names = {"inbox_capacity": capacity, "burst": burst, "inbox_policy": policy}
    return type(f"Worker{capacity}{burst}{policy}", (Worker,), names)


WORKERS = [_worker(*each) for each in itertools.product((1, 3, 50), (1, 4), InboxPolicy)]


class Watcher(TrioActor):
    """The first to start and the last to stop: it is told of every end."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Terminated):
            self.world.terminated[message.ref.actor_urn] += 1
        elif message.actor_urn not in self.world.watched:  # a second watch, after the end, is told of it again
            self.watch(message)
            self.world.watched.add(message.actor_urn)


# -- a run


async def scenario(seed: int) -> World:
    world = World(seed)
    exit = world.rng.choice(["in order", "in order", "cancelled", "raising"])
    grace_s = world.rng.choice([0.0, 1.0, 100.0])
    with trio.fail_after(VIRTUAL_BOUND_S), trio.CancelScope() as scope:
        try:
            async with Rig.run(grace_s=grace_s) as world.system:
                await _live(world)
                if exit == "cancelled":
                    scope.cancel()
                if exit == "raising":
                    raise Leave
                left_at = trio.current_time()
        except Leave:
            pass
        else:
            world.left_in_order = exit == "in order" and trio.current_time() - left_at < grace_s - 0.01
    for failure in world.system.failures:
        if isinstance(failure.error, Violation):
            raise failure.error
    world.check()
    return world


async def _live(world: World) -> None:
    system = world.system
    watcher = world.watcher = system.start(Watcher, world)
    for number in range(world.rng.randint(1, 3)):
        ref = system.start(world.rng.choice(WORKERS), world, f"loner {number}")
        world.refs[ref.actor_urn] = ref
        watcher.tell(ref)
    system.start(partial(world.make, world.plan("root", 3)))
    async with trio.open_nursery() as nursery:
        for number in range(world.rng.randint(2, 6)):
            nursery.start_soon(world.client, f"client {number}")
        if world.chance(0.2):
            await trio.sleep(world.rng.uniform(0.0, 5.0))
            nursery.cancel_scope.cancel()
    for ref in list(world.refs.values()):
        await watcher.request(ref)  # answered: what is told of the dead is queued before a stop can be


@contextmanager
def _real_time_bound(seed: int) -> Iterator[None]:
    """Virtual time does not end a wait that nothing can end."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"seed {seed} hangs")

    outer = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, REAL_BOUND_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer)


def run(seed: int) -> World:
    """Raises Violation. Whatever happens, nothing is left for the next run."""
    try:
        with _real_time_bound(seed):
            return deterministic(seed)(scenario)(seed)
    finally:
        for ref in pykka.ActorRegistry.get_all():
            pykka.ActorRegistry.unregister(ref)


def _violations(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _violations(each)]
    return [error]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(60, logger="pykka")  # a seed has dozens of tracebacks, all by intent


# -- deliberate mistakes, to see that they are found


def _forgets_queued_askers(patch: pytest.MonkeyPatch) -> None:
    refuse = Cell.refuse

    def forgetful(cell: Cell, envelope: Any, when: str) -> None:
        if not when.startswith("before"):
            refuse(cell, envelope, when)

    patch.setattr(Cell, "refuse", forgetful)


def _forgets_the_asker_of_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reply, "revoke", lambda reply, error: None)


def _starts_anew_without_a_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_Limit, "allows", lambda limit, now: True)


def _loses_the_queue_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    revive = Cell.revive

    def careless(cell: Cell, make: Any) -> Any:
        while not cell.inbox.empty():
            cell.inbox.get()
        return revive(cell, make)

    patch.setattr(Cell, "revive", careless)


def _handles_the_latest_first(patch: pytest.MonkeyPatch) -> None:
    take = Inbox.take

    def impatient(inbox: Inbox) -> Any:
        inbox._queue.reverse()
        try:
            return take(inbox)
        finally:
            inbox._queue.reverse()

    patch.setattr(Inbox, "take", impatient)


def _leaves_refs_in_the_registry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cell, "mark_stopped", lambda cell: cell.stopped.set())


def _forgets_the_last_hook(patch: pytest.MonkeyPatch) -> None:
    async def forgetful(life: Life) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Life, "_last_hook", forgetful)


def _lets_timers_outlive_a_restart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Timers, "cancel_all", lambda timers: None)


def _tells_an_end_twice(patch: pytest.MonkeyPatch) -> None:
    notify = _Watch.notify

    def insistent(watch: Any, exit: Any) -> None:
        notify(watch, exit)
        with contextlib.suppress(ActorDeadError):
            watch._inbox.push(Parcel(lambda: Terminated(watch._ref, exit.reason), passes_bound=True))

    patch.setattr(_Watch, "notify", insistent)


def _tells_no_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_Watch, "notify", lambda watch, exit: None)


def _lets_asks_be_late(patch: pytest.MonkeyPatch) -> None:
    add = Deadlines.add
    patch.setattr(Deadlines, "add", lambda deadlines, at, waker: add(deadlines, at + 0.5, waker))


MISTAKES = {
    _forgets_queued_askers: "has no answer",
    _forgets_the_asker_of_a_crash: "has no answer",
    _starts_anew_without_a_limit: r"restarts in .* under",
    _loses_the_queue_at_a_restart: "has no answer|neither handled nor a dead letter",
    _handles_the_latest_first: "after a later one",
    _leaves_refs_in_the_registry: "is registered",
    _forgets_the_last_hook: "one last hook",
    _lets_timers_outlive_a_restart: "outlived",
    _tells_an_end_twice: "was told 2 times",
    _tells_no_end: "was not told",
    _lets_asks_be_late: "with a deadline of",
}
SEEDS_TO_FIND_A_MISTAKE = 300


# -- the tests


def _chunks() -> list[range]:
    if "ACTORS_SEED" in os.environ:
        seed = int(os.environ["ACTORS_SEED"])
        return [range(seed, seed + 1)]
    return [range(first, min(first + CHUNK, SEEDS)) for first in range(0, SEEDS, CHUNK)]


@pytest.mark.parametrize("seeds", _chunks(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_everything_holds_when_a_tree_is_driven_at_random(seeds: range) -> None:
    for seed in seeds:
        try:
            run(seed)
        except BaseException as error:
            again = f"ACTORS_SEED={seed} .venv/bin/pytest {os.path.relpath(__file__)}"
            pytest.fail(f"seed {seed}: {_violations(error)}\n  again: {again}", pytrace=True)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__.strip("_"))
def test_mistake_is_found_when_the_package_makes_it(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    for seed in range(SEEDS_TO_FIND_A_MISTAKE):
        try:
            run(seed)
        except BaseException as error:
            found = [str(each) for each in _violations(error) if isinstance(each, Violation)]
            if any(re.search(MISTAKES[mistake], each) for each in found):
                return
    pytest.fail(f"not found with {SEEDS_TO_FIND_A_MISTAKE} seeds")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_things_happen_when_the_seed_is_the_same(seed: int) -> None:
    assert run(seed).trace == run(seed).trace


def test_much_happens_when_many_seeds_are_run() -> None:
    """Otherwise that everything holds says little."""
    worlds = [run(seed) for seed in range(60)]
    reasons = Counter(letter.reason for world in worlds for letter in world.system.letters)
    happened = {
        "restarts": sum(world.system.statistics().restarts for world in worlds),
        "handled": sum(len(world.handled) for world in worlds),
        "asked for later": sum(len(world.futures) for world in worlds),
        "asked": sum(world.asks for world in worlds),
        "ends told": sum(len(world.terminated) for world in worlds),
    }
    assert happened.pop("restarts") > 150
    assert all(number > 600 for number in happened.values()), happened
    assert all(reasons[reason] > 20 for reason in ("dead", "stopped", "dropped", "abandoned")), reasons
