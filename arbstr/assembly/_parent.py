"""The parent of several processes: starts them, starts anew what dies, has them stop and read their configuration
together. It serves nothing itself, has no threads and no event loop, so that it can be forked at any time.

Start: the accounts, then the cores. Stop is the reverse. The listening sockets, the lock of the database and the socket
of the accounts are made here and inherited: a process in the place of one that died finds the queue of connections, and
the books, as they were left.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, evolve, field

from arbstr.assembly._accounts_process import AccountsSeed, run_accounts
from arbstr.assembly._control import FROM_CHILD, FROM_PARENT, SAY_S, Expire, Failed, Ready, Stop, Use, Used
from arbstr.assembly._core import ConfigSource, CoreSeed, run_core
from arbstr.assembly._crashes import Crashes
from arbstr.assembly._serve import announcement
from arbstr.config import Config, ConfigError, ReloadOutcome, reloaded, write_outcome
from arbstr.edge import CannotListen, Shares, addresses_of, open_listeners
from arbstr.link import FrameReader, FrameTooLong, LinkMessage, Malformed, frame
from arbstr.requests import Caller
from arbstr.store import ProcessLock, StoreError, StoreUnavailable
from arbstr.telemetry import Logs, TracingUnavailable, start_logging

logger = logging.getLogger("arbstr")

START_S: Final = 120.0
"""For a process to be ready: lists of models may take a while."""
RELOAD_S: Final = 100.0
ABORT_S: Final = 60.0
"""Beyond the grace of requests, for a core to end its books and the talk with the accounts."""
ACCOUNTS_STOP_S: Final = 60.0
BACKLOG: Final = 64
RECEIVE_BYTES: Final = 65_536
KILL_S: Final = 10.0
EXIT_CODE: Final = 1

ACCOUNTS: Final = 0
"""The place of the process of the accounts; cores have theirs from 1 on."""


class CannotStart(Exception):
    """A process was not ready; the text says why."""


def serve_together(config: Config, *, mock: bool, source: ConfigSource | None) -> int:
    """Run ``[server] workers`` cores and the accounts beside them until SIGINT or SIGTERM. Returns the exit code."""
    logs = start_logging(config.logging, worker="parent")
    logs.stop()  # its thread would not live on in what is forked
    for warning in config.warnings:
        logger.warning("%s", warning)
    try:
        with ExitStack() as stack:
            return Parent(config, mock, source, logs).run(stack)
    except (CannotListen, StoreError, TracingUnavailable, CannotStart) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the program's last word
        return EXIT_CODE


@define(eq=False)
class _Child:
    """A process, and our end of its control."""

    place: int
    pid: int
    control: socket.socket
    reader: FrameReader = field(factory=FrameReader)
    ready: Ready | None = None
    failed: str | None = None
    used: int = 0
    """The last word to use a configuration that it has answered."""
    problem: str | None = None
    told_to_stop: bool = False
    deaf: bool = False
    """Its end of the control is closed."""
    ended: bool = False

    @property
    def name(self) -> str:
        return "the process of the accounts" if self.place == ACCOUNTS else f"worker {self.place}"


class Parent:
    """``config`` is what is in use."""

    def __init__(self, config: Config, mock: bool, source: ConfigSource | None, logs: Logs) -> None:
        self.config = config
        self._mock = mock
        self._source = source
        self._logs = logs
        self._text = ""
        self._generation = 1
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}
        """Places to be filled again, and when."""
        self._crashes = Crashes()
        self._demo: tuple[str, str, str] | None = None
        self._up = False
        """Everything has been ready."""
        self._stopping = False
        self._ending = False
        self._given_up = False
        self._reload_wanted = False
        self._stop_signals = 0
        self._uses = 0
        """How often the processes have been told to use a configuration."""

    # The whole of it

    def run(self, stack: ExitStack) -> int:
        """Raises CannotListen, StoreError, CannotStart: what there was to stop has been stopped."""
        self._listeners = self._listen(stack)
        with self._signals():
            self._open(stack)
            try:
                self._start_all()
                if not self._stopping:
                    self._up = True
                    print(announcement(self._addresses, self.config, self._demo_of()), flush=True)  # noqa: T201
                    self._leave_word(ReloadOutcome(self._generation, os.getpid(), time.time_ns()))
                while not (self._stopping or self._given_up):
                    if self._reload_wanted:
                        self._reload_wanted = False
                        self._reload()
                    else:
                        self._turn(None)
            finally:
                self._stop_all()
        return EXIT_CODE if self._given_up else 0

    def _open(self, stack: ExitStack) -> None:
        """What is inherited beside the address."""
        path = self.config.database.path
        try:
            self._lock = ProcessLock(path)
        except OSError as error:
            raise StoreUnavailable(f"cannot open database {path}: {error}") from error
        stack.callback(self._lock.close)
        self._shares = Shares(self.config.server.workers)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arbstr-")))  # ours alone: mode 0700
        self._accounts_at = directory / "accounts"
        self._accounts_listener = socket.socket(socket.AF_UNIX)
        stack.callback(self._accounts_listener.close)
        try:
            self._accounts_listener.bind(str(self._accounts_at))
            self._accounts_listener.listen(BACKLOG)
        except OSError as error:
            raise CannotStart(f"the processes cannot meet at {self._accounts_at}: {error}; set TMPDIR") from error
        if self._source is not None:
            self._text = self._source.text()

    def _listen(self, stack: ExitStack) -> tuple[socket.socket, ...]:
        listeners = trio.run(open_listeners, self.config.server.listen)
        self._addresses = addresses_of(listeners)
        sockets = tuple(socket.socket(fileno=listener.socket.detach()) for listener in listeners)
        for each in sockets:
            stack.callback(each.close)
        return sockets

    def _demo_of(self) -> tuple[str, str] | None:
        return None if self._demo is None else (self._demo[0], self._demo[2])

    def _start_all(self) -> None:
        """The accounts first: nobody can be let in before it is known who has a token."""
        gc.collect()
        gc.freeze()  # pages that the collector never writes to stay shared
        self._fork(ACCOUNTS)
        self._await_ready((ACCOUNTS,))
        self._demo = ready.demo if (ready := self._children[ACCOUNTS].ready) is not None else None
        workers = range(1, self.config.server.workers + 1)
        if self._stopping:
            return
        for place in workers:
            self._fork(place)
        self._await_ready(workers)

    def _await_ready(self, places: tuple[int, ...] | range) -> None:
        def settled() -> bool:
            return self._stopping or all(self._children[place].ready for place in places) or bool(self._lost(places))

        if not self._until(settled, START_S):
            raise CannotStart(f"not every process was ready within {START_S:g} s; the log may say why")
        lost = self._lost(places)
        if lost and not self._stopping:
            raise CannotStart(lost[0].failed or f"{lost[0].name} has ended before it was ready; the log says why")

    def _lost(self, places: tuple[int, ...] | range) -> list[_Child]:
        return [child for place in places if (child := self._children[place]).ended and child.ready is None]

    # Forking

    def _fork(self, place: int) -> None:
        ours, theirs = socket.socketpair()
        self._due.pop(place, None)
        again = place in self._children
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with _blocked_signals():
            pid = os.fork()
            if not pid:
                os._exit(self._be(place, again, ours, theirs))
        theirs.close()
        ours.setblocking(False)
        self._children[place] = _Child(place, pid, ours)
        logger.info("%s is process %d", self._children[place].name, pid)

    def _be(self, place: int, again: bool, ours: socket.socket, theirs: socket.socket) -> int:
        """In the child: be that process. Returns its exit code, and raises nothing."""
        code = EXIT_CODE
        try:
            _forget_signals()
            ours.close()
            for child in self._children.values():  # or the death of the parent would go unnoticed
                child.control.close()
            self._lock.borrow()
            code = self._be_accounts(again, theirs) if place == ACCOUNTS else self._be_core(place, theirs)
        except BaseException:
            logger.exception("the process failed")
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
        return code

    def _be_accounts(self, again: bool, control: socket.socket) -> int:
        for listener in self._listeners:
            listener.close()
        return run_accounts(
            AccountsSeed(
                self.config,
                self._mock,
                again,
                self._source,
                self._lock,
                self._accounts_listener,
                self._accounts_at.parent,
                control,
            )
        )

    def _be_core(self, place: int, control: socket.socket) -> int:
        self._accounts_listener.close()
        self._lock.close()
        demo = None if self._demo is None else Caller(self._demo[0], "agent", self._demo[1])
        seed = CoreSeed(
            self.config, place, self._source, demo, self._listeners, self._shares, control, self._accounts_at
        )
        return run_core(seed)

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        self._woken, wake = socket.socketpair()
        with self._woken, wake:
            self._woken.setblocking(False)
            wake.setblocking(False)
            before = {number: signal.signal(number, self._heed) for number in _HEEDED}
            woken_before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(woken_before)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _heed(self, number: int, frame: object) -> None:
        """Only a note of it; the loop looks."""
        if number == signal.SIGHUP:
            self._reload_wanted = True
        elif number != signal.SIGCHLD:
            self._stop_signals += 1
            self._stopping = True

    # The loop

    def _until(self, done: Callable[[], bool], within_s: float) -> bool:
        """Look after everybody until ``done``; False when that takes longer."""
        end = time.monotonic() + within_s
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._turn(left)
        return True

    def _turn(self, within_s: float | None) -> None:
        """Wait until something happens, and see to it."""
        waits = [at - time.monotonic() for at in self._due.values()]
        waits += [] if within_s is None else [within_s]
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        by_descriptor = {}
        for child in self._children.values():
            if not (child.ended or child.deaf):
                poll.register(child.control, select.POLLIN)
                by_descriptor[child.control.fileno()] = child
        for descriptor, _ in poll.poll(max(0.0, min(waits)) * 1_000 if waits else None):
            if descriptor in by_descriptor:
                self._hear(by_descriptor[descriptor])
            else:
                with suppress(BlockingIOError):
                    self._woken.recv(RECEIVE_BYTES)
        self._reap()
        for place, at in list(self._due.items()):
            if at <= time.monotonic():
                self._fork(place)

    def _hear(self, child: _Child) -> None:
        try:
            data = child.control.recv(RECEIVE_BYTES)
            for payload in child.reader.feed(data):
                for _, message in FROM_CHILD.decode(payload):
                    self._take(child, message)
        except BlockingIOError:
            return
        except ConnectionError:
            child.deaf = True
            return
        except (OSError, Malformed, FrameTooLong) as error:
            logger.error("%s does not speak as agreed: %s", child.name, error)
            child.deaf = True
            self._kill(child)
            return
        if not data:
            child.deaf = True  # it ends, and is reaped when it has

    def _take(self, child: _Child, message: Any) -> None:
        match message:
            case Ready():
                child.ready = message
            case Failed(why):
                child.failed = why
            case Used(generation, problem):
                child.used, child.problem = generation, problem

    def _say(self, child: _Child, message: LinkMessage) -> None:
        """Blocks for a moment at most: who does not read is killed, and replaced."""
        if child.ended:
            return
        child.control.settimeout(SAY_S)
        try:
            child.control.sendall(frame(FROM_PARENT.encode([(0, message)])))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                logger.error("%s does not listen: %s", child.name, error)
                self._kill(child)
        finally:
            child.control.setblocking(False)

    # Ends

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if not child.ended:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self._hear(child)  # its last word
                    self._bury(child, status)

    def _bury(self, child: _Child, status: int) -> None:
        child.ended = True
        child.control.close()
        code = os.waitstatus_to_exitcode(status)
        if child.place != ACCOUNTS:
            self._shares.clear(child.place - 1)
        if child.told_to_stop:
            if code:
                logger.error("%s ended with %d", child.name, code)
            return
        logger.error("%s has ended (%s)", child.name, child.failed or _in_words(code))
        if self._is_replaced(child):
            self._replace(child.place)

    def _is_replaced(self, child: _Child) -> bool:
        """At the start one that was never ready is the end of it; at the end cores go, and need the accounts."""
        if self._ending:
            return child.place == ACCOUNTS and bool(self._cores())
        return self._up or child.ready is not None

    def _replace(self, place: int) -> None:
        wait_s = self._crashes.count(time.monotonic())
        if wait_s is None:
            logger.error("processes end faster than they can be started anew; giving up")
            self._given_up = True
        else:
            self._due[place] = time.monotonic() + wait_s

    def _cores(self) -> list[_Child]:
        """Those that live."""
        return [child for child in self._children.values() if child.place != ACCOUNTS and not child.ended]

    def _kill(self, child: _Child) -> None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    def _stop_all(self) -> None:
        """Cores first: what they owe is taken by the accounts. Every wait has an end, and then a SIGKILL."""
        if self._stop_signals:
            logger.info("told to stop: requests in flight may end")
        self._ending = True
        self._due = {place: at for place, at in self._due.items() if place == ACCOUNTS}
        for listener in self._listeners:
            listener.close()
        if self._cores() and self._children[ACCOUNTS].ended:
            self._fork(ACCOUNTS)  # also when it was given up: somebody must take what the cores owe
        for child in self._cores():
            self._tell_to_stop(child)
        expired = False

        def cores_ended() -> bool:
            nonlocal expired
            if self._stop_signals > 1 and not expired:
                expired = True
                logger.info("told again, ending the requests in flight")
                for child in self._cores():
                    self._say(child, Expire())
            return not self._cores()

        self._end_by(cores_ended, self._cores, self.config.server.shutdown_grace_s + ABORT_S)
        self._due.clear()
        accounts = [child for child in self._children.values() if child.place == ACCOUNTS and not child.ended]
        for child in accounts:
            self._tell_to_stop(child)
        self._end_by(lambda: all(each.ended for each in accounts), lambda: accounts, ACCOUNTS_STOP_S)

    def _tell_to_stop(self, child: _Child) -> None:
        child.told_to_stop = True
        self._say(child, Stop())

    def _end_by(self, ended: Callable[[], bool], who: Callable[[], list[_Child]], within_s: float) -> None:
        if not self._until(ended, within_s):
            for child in who():
                logger.error("%s did not end within %g s and is killed", child.name, within_s)
                self._kill(child)
            self._until(ended, KILL_S)

    # Reading the configuration again

    def _reload(self) -> None:
        """All of them or none. One that dies meanwhile has not taken it; the one in its place has the former."""
        logger.info("received SIGHUP, reading the configuration again")
        self._generation += 1
        outcome = self._reloaded()
        for problem in outcome.problems:
            logger.error("the configuration stays as it is: %s", problem)
        self._leave_word(outcome)

    def _reloaded(self) -> ReloadOutcome:
        if self._source is None:
            return self._outcome(("there is no configuration file to read again",))
        try:
            text = self._source.text()
            wanted = self._source.parse(text)
        except ConfigError as error:
            return self._outcome(tuple(map(str, error.problems)))
        for warning in wanted.warnings:
            logger.warning("%s", warning)
        result = reloaded(self.config, wanted)
        problems = self._have_used(text)
        if problems and not self._stopping and (undone := self._have_used(self._text)):
            logger.error("nor could the former configuration be applied again: %s", "; ".join(undone))
        if problems:
            return self._outcome(problems)
        self.config, self._text = result.config, text
        self._logs.configure(result.config.logging)
        logger.info("configuration read again, changed: %s", ", ".join(result.changed) or "nothing")
        if result.needs_restart:
            logger.warning("without effect until arbstr starts again: %s", ", ".join(result.needs_restart))
        return self._outcome((), result.changed, result.needs_restart)

    def _have_used(self, text: str) -> tuple[str, ...]:
        """Have every process use it. Returns why it could not be."""
        if not self._until(lambda: self._stopping or self._given_up or self._is_whole(), START_S):
            return ("a process that has died is not back yet; try again",)
        asked = list(self._children.values())
        self._uses += 1
        for child in asked:
            self._say(child, Use(self._uses, text))
        answered = self._until(
            lambda: self._stopping or all(each.used == self._uses or each.ended for each in asked), RELOAD_S
        )
        if self._stopping:
            return ("arbstr was told to stop meanwhile",)
        if not answered:
            return (f"not every process has said within {RELOAD_S:g} s what came of it",)
        problems = [f"{each.name} has ended meanwhile; try again" for each in asked if each.ended]
        return (*problems, *(f"it could not be applied: {each.problem}" for each in asked if each.problem is not None))

    def _is_whole(self) -> bool:
        return not self._due and all(child.ready and not child.ended for child in self._children.values())

    def _outcome(
        self, problems: tuple[str, ...], changed: tuple[str, ...] = (), needs_restart: tuple[str, ...] = ()
    ) -> ReloadOutcome:
        return ReloadOutcome(self._generation, os.getpid(), time.time_ns(), problems, changed, needs_restart)

    def _leave_word(self, outcome: ReloadOutcome) -> None:
        outcome = evolve(outcome, addresses=tuple(self._addresses))
        try:
            write_outcome(self.config.database.path, outcome)
        except OSError as error:
            logger.warning("the outcome of reading the configuration cannot be written: %s", error)


_HEEDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


def _forget_signals() -> None:
    """In a child: the terminal's signals are for the parent, SIGTERM is as it was before."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """None is lost between a fork and the child's own mind about it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)


def _in_words(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
