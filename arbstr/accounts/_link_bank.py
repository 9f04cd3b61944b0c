"""Accounts in another process of the same program: a ``Bank`` over a link, and the way of receipts.

Ends of holds and receipts are owed: they wait here while the process of the accounts is away, and are repeated until
they are answered. Repeats are harmless (M3). A hold is asked for once: without an answer it may be there or not, and
the release that follows says that it is not wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from uuid import uuid4

import trio

from actors import ActorSystem, AskTimeout, TrioFuture
from arbstr.accounts._bank import Asked, Holder, Told
from arbstr.accounts._link_shapes import (
    FROM_ACCOUNTS,
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
    error_of,
    not_answered,
)
from arbstr.accounts._messages import Ended, Extend, Held, Release, Renew, Reserve, Settle
from arbstr.accounts._payment_messages import RequestApproval
from arbstr.accounts._tokens import TokenTable
from arbstr.errors import LedgerUnavailable, NotAnswered
from arbstr.link import Link, LinkError, LinkLost, Reply
from arbstr.store import ApprovalRow, ReceiptRow

logger = logging.getLogger(__name__)

ASK_DEADLINE_S: Final = 10.0
"""For an answer of the account, which waits for the disk."""
DRAIN_S: Final = 10.0
"""At the end of the process, for what is owed to be answered."""

_AGAIN: Final = frozenset((LedgerUnavailable.__name__, NotAnswered.__name__))
"""Refusals of what is owed that say nothing about it."""


class Watched(Protocol):
    """What the process of the accounts reads of this one."""

    def gauges(self) -> Gauges: ...


class LinkBank:
    """Lives on the Trio thread of ``run``; ``run`` starts when the accounts have answered for the first time.

    ``connect`` makes a connection to the process of the accounts, and raises OSError while there is none.
    """

    def __init__(self, worker: int, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        self.tokens = TokenTable()
        self.watched: Watched | None = None
        self._hello = Hello(worker, uuid4().hex)
        self._link = Link(connect, FROM_ACCOUNTS, self)
        self._system: ActorSystem | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._link.run(task_status=task_status)

    def use(self, system: ActorSystem) -> None:
        """Whose timer the deadlines of asks are on."""
        self._system = system

    async def aclose(self) -> bool:
        """Wait until nothing is owed, say so, and let ``run`` return. False: something is owed still."""
        drained = await self._link.drain(DRAIN_S)
        if self._link.is_up and drained:
            self._link.tell(Goodbye())
        self._link.close_soon()
        return drained

    @property
    def is_up(self) -> bool:
        return self._link.is_up

    @property
    def waiting(self) -> int:
        """Ends of holds, and receipts, that the accounts have not confirmed."""
        return self._link.waiting

    # The bank

    def holder_of(self, token: str) -> Holder | None:
        return self.tokens.holder_of(token)

    async def request(self, holder: Holder, message: Asked) -> Any:
        """See ``Bank``. When it is cancelled, an end is owed all the same."""
        future: TrioFuture[Any] = TrioFuture()
        try:
            if isinstance(message, Settle | Release):
                self._owe(holder, message, future)
            else:
                self._link.ask(_asking(holder, message), lambda answer, error: _settle(future, answer, error))
        except LinkError as error:
            if isinstance(message, Settle | Release):
                raise not_answered(error) from error
            raise LedgerUnavailable(f"the accounts cannot be reached: {error}", retry_after_s=1) from error
        answer = await self._answer(future)
        if isinstance(answer, Refused):
            raise error_of(answer)
        return _content(answer)

    async def _answer(self, future: TrioFuture[Any]) -> Any:
        assert self._system is not None
        try:
            return await future.answer_by(self._system.deadlines, ASK_DEADLINE_S)
        except (AskTimeout, LinkError) as error:
            raise not_answered(error) from error

    def _owe(self, holder: Holder, message: Settle | Release, future: TrioFuture[Any] | None) -> None:
        done = None if future is None else lambda answer, error: _settle(future, answer, error)
        self._link.owe(message.key, _asking(holder, message), done)

    def tell(self, holder: Holder, message: Told) -> None:
        try:
            if isinstance(message, Renew):
                self._link.tell(TellRenew(holder.agent_id, message.key, message.evidence_msat))
            else:
                self._owe(holder, message, None)
        except LinkError as error:
            if isinstance(message, Renew) and isinstance(error, LinkLost):
                return  # it is told again in a few seconds
            raise not_answered(error) from error

    # Receipts and pages

    def file(self, receipt: ReceiptRow, done: Callable[[], None] | None = None) -> None:
        """Have a receipt filed; ``done`` when it is on disk. It may take a moment longer, and shares its way. Raises
        LinkFull."""
        self._link.owe(
            f"receipt:{receipt.request_id}",
            FileReceipt(receipt),
            None if done is None else lambda answer, error: done(),
            lazily=True,
        )

    async def page(self, asked: AskPage, within_s: float) -> Page:
        """The answer of the other process to a request over HTTP. Raises LedgerUnavailable, NotAnswered."""
        answer = await self._ask(asked, within_s)
        assert isinstance(answer, Page)
        return answer

    # Limits

    async def enter(self, asked: AskEnter | AskTouch) -> Entered | Limited:
        """Count a request with those of all workers. Raises LedgerUnavailable, NotAnswered, and PermissionRefused."""
        answer = await self._ask(asked, ASK_DEADLINE_S)
        assert isinstance(answer, Entered | Limited)
        return answer

    def place(self, told: TellSpent | TellLeft) -> None:
        """What is not told because the accounts are away need not be: they have forgotten the place as well."""
        try:
            self._link.tell(told)
        except LinkLost:
            pass
        except LinkError as error:
            logger.error("a limit is not told of an end: %s", error)

    async def _ask(self, asked: Any, within_s: float) -> Any:
        future: TrioFuture[Any] = TrioFuture()
        try:
            self._link.ask(asked, lambda answer, error: _settle(future, answer, error))
        except LinkError as error:
            raise LedgerUnavailable(f"the accounts cannot be reached: {error}", retry_after_s=1) from error
        assert self._system is not None
        try:
            answer = await future.answer_by(self._system.deadlines, within_s)
        except (AskTimeout, LinkError) as error:
            raise not_answered(error) from error
        if isinstance(answer, Refused):
            raise error_of(answer)
        return answer

    # What the link asks (``arbstr.link.Talk``)

    def hello(self) -> Hello:
        return self._hello

    def welcomed(self, answer: Any) -> None:
        if isinstance(answer, Welcome):
            self.tokens.replace(answer.tokens)

    def handle(self, message: Any, reply: Reply | None) -> None:
        if isinstance(message, TokensChanged):
            self.tokens.change(message.learned, message.forgotten)
            self.tokens.forget_expired()
            if reply is not None:
                reply(Done())
        elif isinstance(message, ReadGauges) and reply is not None:
            reply(Gauges(()) if self.watched is None else self.watched.gauges())
        else:
            logger.error("the accounts say %s, which is no word of theirs", type(message).__name__)

    def is_final(self, answer: Any) -> bool:
        return not (isinstance(answer, Refused) and answer.kind in _AGAIN)


def _asking(holder: Holder, message: Asked) -> AskReserve | AskApproval | AskExtend | AskSettle | AskRelease:
    agent_id = holder.agent_id
    match message:
        case Reserve():
            return AskReserve(
                agent_id,
                message.key,
                message.amount_msat,
                message.model,
                message.provider,
                message.correlation_id,
                message.budget_id,
                message.approval_id,
            )
        case RequestApproval():
            return AskApproval(agent_id, message)
        case Extend():
            return AskExtend(agent_id, message)
        case Settle():
            return AskSettle(agent_id, message)
        case Release():
            return AskRelease(agent_id, message)


def _content(answer: Any) -> Held | Ended | ApprovalRow:
    if isinstance(answer, AnswerHeld):
        return answer.held
    if isinstance(answer, AnswerEnded):
        return answer.ended
    if isinstance(answer, AnswerApproval):
        return answer.approval
    raise NotAnswered(f"the accounts answered with {type(answer).__name__}", retry_after_s=1)


def _settle(future: TrioFuture[Any], answer: Any, error: LinkError | None) -> None:
    if error is None:
        future.settle(answer, None)
    else:
        future.settle(None, (type(error), error, None))
