"""The process of the accounts, as its cores meet it: their messages go to the accounts, the answers back.

A core is a session: it outlives its connections, and owns the holds that were made on them. One whose connection ends
without a goodbye has ``RETURN_S`` to come back; then it is dead, and its holds are resolved (M7).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final, Protocol

import trio
from attrs import define, field

from actors import ActorDeadError, InboxFull, SystemNotRunning, TrioFuture
from arbstr.accounts._accounts import Accounts
from arbstr.accounts._link_shapes import (
    FROM_CORES,
    AnswerApproval,
    AnswerEnded,
    AnswerHeld,
    AskApproval,
    AskEnter,
    AskExtend,
    AskPage,
    AskRelease,
    AskReserve,
    AskSettle,
    AskTouch,
    Done,
    Entered,
    FileReceipt,
    Gauges,
    Goodbye,
    Hello,
    Limited,
    Page,
    ReadGauges,
    Refused,
    TellLeft,
    TellRenew,
    TellSpent,
    TokensChanged,
    Welcome,
    not_answered,
    refused,
)
from arbstr.accounts._messages import Ended, Held, Renew, Reserve
from arbstr.errors import ArbstrError, InternalError, LedgerUnavailable, Overloaded
from arbstr.link import LinkError, Peer, Reply
from arbstr.store import (
    ApprovalRow,
    DuplicateKey,
    Ledger,
    ReceiptOnly,
    ReceiptRow,
    StoreError,
    StoreUnavailable,
    TokenRow,
)

logger = logging.getLogger(__name__)

RETURN_S: Final = 3.0
"""A core that lives is back within milliseconds: it only has to notice that the connection has ended."""
PUBLISH_S: Final = 2.0
"""For every core to take a change of tokens; one that does not read its link lets nobody in either."""
GAUGES_S: Final = 2.0
MAX_PAGES: Final = 256
"""Requests over HTTP that are answered at once."""


class Answers(Protocol):
    """What the desk cannot answer by itself."""

    async def page(self, asked: AskPage) -> Page:
        """Raises ArbstrError."""
        ...

    def filed(self, receipt: ReceiptRow) -> None:
        """A request has ended. Must neither wait nor raise."""
        ...

    def limit(self, session: Session, asked: AskEnter | AskTouch) -> Entered | Limited:
        """Raises ArbstrError."""
        ...

    def place(self, session: Session, told: TellSpent | TellLeft) -> None: ...

    def forget(self, session: Session) -> None:
        """What this process had in use, is not in use any more."""
        ...


@define(eq=False)
class Session:
    """One core process. The owner of its holds (``arbstr.accounts.Owner``)."""

    worker: int
    name: str
    peer: Peer | None = None
    dead: bool = False
    breaks: int = 0
    """How often a connection of it has ended."""

    def is_alive(self) -> bool:
        return not self.dead


@define(eq=False)
class LinkDesk:
    """``accounts`` None: there are none, and only receipts are taken. Lives on the Trio thread of ``serve``."""

    accounts: Accounts | None
    ledger: Ledger
    answers: Answers
    _sessions: dict[str, Session] = field(factory=dict)
    _pages: int = 0
    _unseen: dict[object, trio.Event] = field(factory=dict)
    _nursery: trio.Nursery | None = None

    def __attrs_post_init__(self) -> None:
        if self.accounts is not None:
            self.accounts.tokens.watchers.append(self._publish)

    @property
    def sessions(self) -> list[Session]:
        """Those that live, by worker."""
        return sorted(self._sessions.values(), key=lambda session: session.worker)

    async def serve(self, listener: trio.abc.Listener[Any]) -> None:
        """Accept cores until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.serve_listeners(self.attend, [listener], handler_nursery=nursery)

    async def attend(self, stream: trio.abc.Stream) -> None:
        """One connection, until its end."""
        visit = _Visit(self)
        peer = visit.peer = Peer(stream, FROM_CORES, visit.handle)
        try:
            broken = await peer.run()
            if broken is not None:
                logger.error("worker %s does not speak as agreed: %s", visit.worker, broken)
        finally:
            session = visit.session
            if session is not None and session.peer is peer:
                session.peer = None
                self._begin_waiting(session)

    # Sessions

    def enter(self, hello: Hello, peer: Peer) -> Session:
        session = self._sessions.get(hello.session)
        if session is not None:
            self.answers.forget(session)
        else:
            session = self._sessions[hello.session] = Session(hello.worker, hello.session)
        session.peer = peer
        return session

    def _begin_waiting(self, session: Session) -> None:
        assert self._nursery is not None
        if not session.dead:
            session.breaks += 1
            self._nursery.start_soon(self._wait_for_return, session, session.breaks)

    async def _wait_for_return(self, session: Session, breaks: int) -> None:
        await trio.sleep(RETURN_S)
        if session.peer is None and session.breaks == breaks and not session.dead:
            logger.warning("worker %d has died; what it held money for is resolved", session.worker)
            self.bury(session)

    def bury(self, session: Session) -> None:
        """It is over: with a goodbye there is nothing left that it owns."""
        session.dead = True
        self._sessions.pop(session.name, None)
        self.answers.forget(session)
        if self.accounts is not None:
            self.accounts.disown(session)

    # Tokens

    def welcome(self) -> Welcome:
        return Welcome(() if self.accounts is None else self.accounts.tokens.rows())

    def _publish(self, learned: tuple[TokenRow, ...], forgotten: tuple[str, ...]) -> None:
        message = TokensChanged(learned, forgotten)
        for session in self._sessions.values():
            if session.peer is not None:
                self._tell_tokens(session.peer, message)

    def _tell_tokens(self, peer: Peer, message: TokensChanged) -> None:
        unseen = object()
        seen = self._unseen[unseen] = trio.Event()

        def done(answer: Any, error: LinkError | None) -> None:
            self._unseen.pop(unseen, None)
            seen.set()

        try:
            peer.ask(message, done)
        except LinkError as error:  # who does not take it must not go on with what it knows
            done(None, error)
            peer.abort()

    async def all_seen(self) -> None:
        """Return when every core lets nobody in any more whose token has ended, and everybody whose token has begun."""
        with trio.move_on_after(PUBLISH_S) as patience:
            for event in list(self._unseen.values()):
                await event.wait()
        if patience.cancelled_caught:
            logger.error("a worker has not taken a change of tokens within %g s", PUBLISH_S)

    # Gauges

    async def gauges(self) -> list[tuple[int, Gauges | None]]:
        """Of each worker; None of one that does not answer."""
        found: dict[int, Gauges | None] = {}
        async with trio.open_nursery() as nursery:
            for session in self.sessions:
                found[session.worker] = None
                nursery.start_soon(self._read_gauges, session, found)
        return sorted(found.items(), key=lambda item: item[0])

    async def _read_gauges(self, session: Session, found: dict[int, Gauges | None]) -> None:
        answered = trio.Event()

        def done(answer: Any, error: LinkError | None) -> None:
            if isinstance(answer, Gauges):
                found[session.worker] = answer
            answered.set()

        try:
            if session.peer is not None:
                session.peer.ask(ReadGauges(), done)
                with trio.move_on_after(GAUGES_S):
                    await answered.wait()
        except LinkError as error:
            logger.warning("worker %d has no gauges: %s", session.worker, error)

    # Pages

    def answer_page(self, asked: AskPage, reply: Reply) -> None:
        assert self._nursery is not None
        if self._pages >= MAX_PAGES:
            reply(refused(Overloaded("too many requests are being answered", retry_after_s=1)))
            return
        self._pages += 1
        self._nursery.start_soon(self._answer_page, asked, reply)

    async def _answer_page(self, asked: AskPage, reply: Reply) -> None:
        answer: Page | Refused
        try:
            answer = await self.answers.page(asked)
            await self.all_seen()
        except ArbstrError as error:
            answer = refused(error)
        except Exception:  # the rim: one request must not end all the others
            logger.exception("a request over HTTP failed unexpectedly")
            answer = refused(InternalError("something went wrong here"))
        finally:
            self._pages -= 1
        reply(answer)


@define(eq=False)
class _Visit:
    """One connection of a core."""

    desk: LinkDesk
    peer: Peer | None = None
    session: Session | None = None

    @property
    def worker(self) -> str:
        return "without a name" if self.session is None else str(self.session.worker)

    def handle(self, message: Any, reply: Reply | None) -> None:
        if isinstance(message, Hello) and reply is not None and self.peer is not None:
            self.session = self.desk.enter(message, self.peer)
            reply(self.desk.welcome())
        elif self.session is None:
            logger.error("%s before a hello", type(message).__name__)
            if self.peer is not None:
                self.peer.abort()
        elif isinstance(message, TellRenew):
            self._renew(message)
        elif isinstance(message, TellSpent | TellLeft):
            self.desk.answers.place(self.session, message)
        elif isinstance(message, Goodbye):
            self.desk.bury(self.session)
        elif reply is not None:
            try:
                self._answer(message, reply, self.session)
            except Exception:  # the rim: one message must not end everything, nor be repeated for ever
                logger.exception("%s of worker %s failed unexpectedly", type(message).__name__, self.worker)
                reply(refused(InternalError("the accounts failed at this message")))

    def _renew(self, message: TellRenew) -> None:
        if self.desk.accounts is not None:
            try:
                renew = Renew(message.key, message.evidence_msat, owner=self.session)
                self.desk.accounts.ref(message.agent_id).tell(renew)
            except (ActorDeadError, InboxFull, SystemNotRunning) as error:
                logger.warning("hold %s was not renewed: %s", message.key, error)

    def _answer(self, message: Any, reply: Reply, session: Session) -> None:
        if isinstance(message, FileReceipt):
            self._file(message.receipt, reply)
        elif isinstance(message, AskPage):
            self.desk.answer_page(message, reply)
        elif isinstance(message, AskEnter | AskTouch):
            self._limit(message, reply, session)
        elif self.desk.accounts is None:
            reply(refused(LedgerUnavailable("there are no accounts here")))
        elif isinstance(message, AskReserve):
            self._ask(message.agent_id, _reserve(message, session), reply)
        elif isinstance(message, AskExtend | AskApproval):
            self._ask(message.agent_id, message.message, reply)
        elif isinstance(message, AskSettle | AskRelease):
            receipt = message.message.receipt
            if receipt is not None:
                self.desk.answers.filed(receipt)
            self._ask(message.agent_id, message.message, reply)

    def _limit(self, message: AskEnter | AskTouch, reply: Reply, session: Session) -> None:
        try:
            reply(self.desk.answers.limit(session, message))
        except ArbstrError as error:
            reply(refused(error))

    def _ask(self, agent_id: str, message: Any, reply: Reply) -> None:
        assert self.desk.accounts is not None
        try:
            future = self.desk.accounts.ref(agent_id).ask(message, block=False)
        except (InboxFull, SystemNotRunning) as error:
            reply(refused(not_answered(error)))
        else:
            future.then_call(partial(_pass_on, reply))

    def _file(self, receipt: ReceiptRow, reply: Reply) -> None:
        def filed(_: object, error: StoreError | None) -> None:
            if error is None or isinstance(error, DuplicateKey):
                reply(Done(), lazily=True)
            elif isinstance(error, StoreUnavailable):
                reply(refused(LedgerUnavailable(str(error))))
            else:
                logger.error("receipt of request %s is lost: %s", receipt.request_id, error)
                reply(Done())

        self.desk.answers.filed(receipt)
        try:
            self.desk.ledger.submit(ReceiptOnly(receipt), filed)
        except StoreUnavailable as error:
            filed(None, error)


def _reserve(message: AskReserve, session: Session) -> Reserve:
    return Reserve(
        message.key,
        message.amount_msat,
        message.model,
        message.provider,
        message.correlation_id,
        session,
        message.budget_id,
        approval_id=message.approval_id,
    )


def _pass_on(reply: Reply, future: TrioFuture[Any]) -> None:
    try:
        answer = future.result()
    except ArbstrError as error:
        reply(refused(error))
    except Exception as error:  # an actor that died: whether it had done it, nobody knows
        reply(refused(not_answered(error)))
    else:
        reply(_answer(answer))


def _answer(answer: Held | Ended | ApprovalRow) -> AnswerHeld | AnswerEnded | AnswerApproval:
    if isinstance(answer, Held):
        return AnswerHeld(answer)
    return AnswerEnded(answer) if isinstance(answer, Ended) else AnswerApproval(answer)
