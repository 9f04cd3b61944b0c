"""What a core process and the process of the accounts say to each other, and which of it either side takes.

The messages of an account's owner travel as they are (``_messages``), but for what only means something in one process:
whose a hold is, is told by the connection that a message comes on.
"""

from __future__ import annotations

from typing import Any, Final

from arbstr import errors
from arbstr.accounts._messages import Ended, Extend, Held, Release, Settle
from arbstr.accounts._payment_messages import RequestApproval
from arbstr.errors import ArbstrError, InternalError, NotAnswered
from arbstr.link import Codec, LinkMessage
from arbstr.store import ApprovalRow, ReceiptRow, TokenRow

Headers = tuple[tuple[bytes, bytes], ...]
Sample = tuple[str, dict[str, str], float]


class Client(LinkMessage, frozen=True, array_like=True):
    """Whose use counts, as far as limits look at it."""

    agent_id: str | None
    role: str
    name: str
    client: str


# By a core


class Hello(LinkMessage, frozen=True, array_like=True, tag=1):
    """The first message. ``session`` is the same for all connections of one process. Answer: ``Welcome``."""

    worker: int
    session: str


class Goodbye(LinkMessage, frozen=True, array_like=True, tag=2):
    """A tell: this process ends, and owes nothing."""


class AskReserve(LinkMessage, frozen=True, array_like=True, tag=3):
    """Answer: ``AnswerHeld``."""

    agent_id: str
    key: str
    amount_msat: int
    model: str
    provider: str
    correlation_id: str | None
    budget_id: str | None
    approval_id: str | None


class AskApproval(LinkMessage, frozen=True, array_like=True, tag=14):
    """Answer: ``AnswerApproval``."""

    agent_id: str
    message: RequestApproval


class AskExtend(LinkMessage, frozen=True, array_like=True, tag=4):
    """Answer: ``AnswerHeld``."""

    agent_id: str
    message: Extend


class AskSettle(LinkMessage, frozen=True, array_like=True, tag=5):
    """Answer: ``AnswerEnded``."""

    agent_id: str
    message: Settle


class AskRelease(LinkMessage, frozen=True, array_like=True, tag=6):
    """Answer: ``AnswerEnded``."""

    agent_id: str
    message: Release


class TellRenew(LinkMessage, frozen=True, array_like=True, tag=7):
    agent_id: str
    key: str
    evidence_msat: int


class FileReceipt(LinkMessage, frozen=True, array_like=True, tag=8):
    """Answer: ``Done``, also when it was filed before."""

    receipt: ReceiptRow


class AskPage(LinkMessage, frozen=True, array_like=True, tag=9):
    """A request over HTTP that the process of the accounts is to answer. Answer: ``Page``."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    peer: str


class AskEnter(LinkMessage, frozen=True, array_like=True, tag=10):
    """A request to a model wants in, under the limits of all workers together. ``number`` is the core's own name for
    its place. Answer: ``Entered`` or ``Limited``.
    """

    number: int
    client: Client
    models: tuple[str, ...]
    tokens: int


class AskTouch(LinkMessage, frozen=True, array_like=True, tag=11):
    """A call that is for no model. Answer: ``Entered`` or ``Limited``."""

    client: Client


class TellSpent(LinkMessage, frozen=True, array_like=True, tag=12):
    number: int
    tokens: int


class TellLeft(LinkMessage, frozen=True, array_like=True, tag=13):
    """Also of a place that was never given."""

    number: int


# By the process of the accounts


class TokensChanged(LinkMessage, frozen=True, array_like=True, tag=20):
    """Answer: ``Done``, when nobody is let in with what was forgotten any more."""

    learned: tuple[TokenRow, ...]
    forgotten: tuple[str, ...]


class ReadGauges(LinkMessage, frozen=True, array_like=True, tag=21):
    """Answer: ``Gauges``."""


# Answers


class Welcome(LinkMessage, frozen=True, array_like=True, tag=40):
    tokens: tuple[TokenRow, ...]


class AnswerHeld(LinkMessage, frozen=True, array_like=True, tag=41):
    held: Held


class AnswerEnded(LinkMessage, frozen=True, array_like=True, tag=42):
    ended: Ended


class AnswerApproval(LinkMessage, frozen=True, array_like=True, tag=49):
    approval: ApprovalRow


class Done(LinkMessage, frozen=True, array_like=True, tag=43):
    pass


class Page(LinkMessage, frozen=True, array_like=True, tag=44):
    status: int
    headers: Headers
    body: bytes


class GaugeFamily(LinkMessage, frozen=True, array_like=True):
    """A metric as it is at one moment, in one process. ``kind`` is ``gauge`` or ``counter``."""

    name: str
    help: str
    kind: str
    samples: tuple[Sample, ...]


class Gauges(LinkMessage, frozen=True, array_like=True, tag=45):
    families: tuple[GaugeFamily, ...]


class Entered(LinkMessage, frozen=True, array_like=True, tag=47):
    headers: Headers


class Limited(LinkMessage, frozen=True, array_like=True, tag=48):
    """A RateLimited."""

    message: str
    retry_after_s: float
    headers: Headers
    details: dict[str, int | str]


class Refused(LinkMessage, frozen=True, array_like=True, tag=46):
    """An ArbstrError."""

    kind: str
    message: str
    reason: str
    status: int
    param: str | None
    retry_after_s: float | None
    details: dict[str, int | str]


FROM_CORES: Final = Codec(
    Hello
    | Goodbye
    | AskReserve
    | AskApproval
    | AskExtend
    | AskSettle
    | AskRelease
    | TellRenew
    | FileReceipt
    | AskPage
    | AskEnter
    | AskTouch
    | TellSpent
    | TellLeft
    | Done
    | Gauges
)
"""What the process of the accounts takes."""
FROM_ACCOUNTS: Final = Codec(
    Welcome
    | AnswerHeld
    | AnswerEnded
    | AnswerApproval
    | Done
    | Page
    | Refused
    | Entered
    | Limited
    | TokensChanged
    | ReadGauges
)
"""What a core takes."""

_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        errors.InvalidRequest,
        errors.AuthenticationFailed,
        errors.NotFound,
        errors.PermissionRefused,
        errors.BillingRefused,
        errors.ApprovalNeeded,
        errors.LedgerUnavailable,
        errors.NotAnswered,
        errors.Overloaded,
        errors.ShuttingDown,
        errors.InternalError,
    )
}
"""Those that are made of nothing but what every ArbstrError has."""


def refused(error: ArbstrError) -> Refused:
    kind = type(error).__name__
    return Refused(
        kind if kind in _KINDS else InternalError.__name__,
        error.message,
        error.reason,
        error.status,
        error.param,
        error.retry_after_s,
        error.details,
    )


def error_of(answer: Refused) -> ArbstrError:
    kind: Any = _KINDS.get(answer.kind, InternalError)
    error: ArbstrError = kind(
        answer.message,
        reason=answer.reason,
        status=answer.status,
        param=answer.param,
        retry_after_s=answer.retry_after_s,
        details=answer.details,
    )
    return error


def not_answered(why: object) -> NotAnswered:
    return NotAnswered(f"the account did not answer: {why}", retry_after_s=1)
