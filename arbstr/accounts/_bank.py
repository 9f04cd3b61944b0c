"""What a request needs of accounts, and nothing else: whose a token is, and messages to the account that pays.

``Accounts`` is a bank in this process. One in another process is spoken to with the same messages (``Reserve``,
``Extend``, ``Renew``, ``Settle``, ``Release``); who asks cannot tell the difference, but for the time it takes. A human
is asked (``RequestApproval``) in this process only.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from attrs import field, frozen

from arbstr.accounts._messages import Extend, Release, Renew, Reserve, Settle
from arbstr.accounts._payment_messages import RequestApproval
from arbstr.secrets import Secret

Asked = Reserve | Extend | Settle | Release | RequestApproval
Told = Renew | Settle | Release


@frozen
class Holder:
    """Whose a token is. One with a ``budget_id`` spends from that budget only."""

    agent_id: str
    name: str
    """Of the agent."""
    budget_id: str | None = None
    token: Secret | None = field(default=None, eq=False, repr=False)
    """The token itself, where the bank needs it to reserve; never written anywhere."""
    proven: bool = True
    """False: nobody here has heard of the token, and only reserving with it will tell whether it is anybody's."""


class Bank(Protocol):
    """Where requests have their money."""

    def holder_of(self, token: str) -> Holder | None:
        """Whose bearer token this is; None: nobody's. Waits for nothing."""
        ...

    def request(self, holder: Holder, message: Asked) -> Coroutine[Any, Any, Any]:
        """Ask the holder's account: ``Held`` for Reserve and Extend, ``Ended`` for Settle and Release, all durable.

        Raises what the account refuses with (``_messages``); LedgerUnavailable when nothing came of it; and
        NotAnswered when no answer came within the bank's deadline, or the caller was cancelled: it may have been done
        all the same, so the hold is to be released by its key, and an end is to be told again.
        """
        ...

    def tell(self, holder: Holder, message: Told) -> None:
        """The same without an answer: what is taken is done, however long that takes. Raises NotAnswered when it is
        not taken."""
        ...
