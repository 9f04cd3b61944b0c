"""What is said to a vault in another process, ours or the predecessor's: reserve, extend, settle, release over HTTP.

Contracts: core, section 12; vault, sections 10 and 19. Talks to an httpx transport directly. Knows nothing of what is
kept where; every call ends within its time, and every error says whether something may have been done. What the vault
says goes into the log; a client hears our own words, since a vault's address or token is nobody's business.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import trio
from attrs import define, field, frozen

from arbstr import wire
from arbstr.errors import AuthenticationFailed, BillingRefused, LedgerUnavailable, NotAnswered
from arbstr.secrets import Secret
from arbstr.store import RemoteHoldRow
from arbstr.units import format_sats

logger = logging.getLogger(__name__)

CALL_S: Final = 5.0
"""For one call, repeats of it included (contract: core, section 12)."""
REPEAT_S: Final = 0.1
MAX_ANSWER_BYTES: Final = 64 << 10
MAX_TEXT: Final = 200
"""Characters of a name or token that our vault takes."""
MAX_ID: Final = 200
MAX_AMOUNT_MSAT: Final = (1 << 53) - 1
"""The largest that a vault reads (contract: vault, section 5)."""

_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
_UNTOUCHED = frozenset(("overloaded", "shutting_down", "rate_limited"))
"""Codes of a 503 after which our vault has done nothing."""


@frozen
class Granted:
    """A hold at the vault. Only ours says whose it is and how long it keeps it without a sign of life."""

    reservation_id: str
    agent_id: str | None
    lease_s: float | None


class CannotExtend(Exception):
    """The vault has no such route: the predecessor's."""


class WillNotEnd(Exception):
    """The vault says for sure that this hold is not there, or has ended otherwise: asking again will not help."""


class NotTold(Exception):
    """The vault has not taken the end of a hold. ``down`` when it would not take that of another either."""

    def __init__(self, what: str, *, down: bool) -> None:
        super().__init__(what)
        self.down = down


@frozen
class _Reply:
    status: int
    body: Mapping[str, Any]
    retry_after_s: float | None

    @property
    def error(self) -> Mapping[str, Any]:
        """Of a vault's own refusal; empty when it is the framework's, or somebody else's."""
        found = self.body.get("error")
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> str:
        return _word(self.error.get("code"))

    @property
    def reason(self) -> str:
        return _word(self.error.get("reason")) or self.code


@define(eq=False)
class VaultClient:
    """``url`` is the vault's, without a path of its own. The transport is the caller's to close."""

    url: str
    token: Secret
    transport: httpx.AsyncBaseTransport
    call_s: float = CALL_S
    is_ours: bool | None = None
    """It knows our additions: a repeated reserve gives the same hold, a hold can grow. None: not known yet."""
    _headers: dict[str, str] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._headers = {"content-type": "application/json", "x-internal-token": self.token.reveal()}

    async def reserve(self, agent_token: Secret, amount_msat: int, key: str, model: str) -> Granted:
        """Have an amount set aside, in the name of the request ``key``; an amount of 0 is not possible.

        An answer that is lost is asked for again within the time, where the vault knows the hold by its key. Raises
        BillingRefused, AuthenticationFailed, LedgerUnavailable when nothing came of it, NotAnswered when it may have.
        """
        if amount_msat > MAX_AMOUNT_MSAT:  # the vault would call it malformed, and our configuration be suspected
            raise BillingRefused(
                f"Insufficient balance: this request may cost up to {format_sats(amount_msat)} sats, which no account "
                "can hold; lower max_tokens",
                reason="insufficient_balance",
            )
        body = {
            "agent_token": agent_token.reveal(),
            "amount_msats": amount_msat,
            "correlation_id": key,
            "model": model[:MAX_TEXT],
        }
        return self._granted(await self._until_answered("reserve", body))

    async def extend(self, reservation_id: str, to_msat: int) -> int:
        """Have a hold grow, or live on; what it holds now. Raises CannotExtend, and what ``reserve`` does."""
        if self.is_ours is False:
            raise CannotExtend
        reply = await self._until_answered("extend", {"reservation_id": reservation_id, "amount_msats": to_msat})
        if reply.status == 404 and not reply.code:
            self.is_ours = False
            raise CannotExtend
        if reply.status != 200:
            raise self._refusal(reply)
        self.is_ours = True
        held = reply.body.get("amount_msats")
        return held if isinstance(held, int) else to_msat

    async def tell_end(self, hold: RemoteHoldRow) -> None:
        """Settle or release a hold, once more if need be: both are the same when repeated (M3).

        Returns when the vault has taken it. Raises WillNotEnd or NotTold.
        """
        settles = bool(hold.charge_msat)
        path, body = ("settle", settle_body(hold)) if settles else ("release", release_body(hold))
        try:
            with trio.fail_after(self.call_s):
                reply = await self._post(path, body)
        except trio.TooSlowError:
            raise NotTold("no answer in time", down=True) from None
        except LedgerUnavailable as error:
            raise NotTold(error.message, down=True) from None
        if reply.status == 200 and (reply.body.get("settled") is True or not settles):
            return
        if reply.code and reply.status in (404, 409):
            raise WillNotEnd(f"status {reply.status}, {reply.reason}")
        if reply.status == 401:
            self._say_refused()
        at_fault = reply.status < 500 and reply.status not in (401, 404, 429)
        raise NotTold(f"status {reply.status} {reply.reason}".rstrip(), down=not at_fault)

    async def look(self) -> bool:
        """Find out which vault it is, and whether it lets us in: ours has a route more. False when it did not say."""
        try:
            with trio.fail_after(self.call_s):
                reply = await self._post("extend", {})
        except (trio.TooSlowError, LedgerUnavailable) as error:
            logger.warning("the vault at %s is not there yet: %s", self._shown(), error or "no answer in time")
            return False
        if reply.status == 401:
            self._say_refused()
        elif reply.status == 404 and not reply.code:
            self.is_ours = False
        elif reply.status == 400:
            self.is_ours = True
        return reply.status in (400, 404)

    # Calls

    async def _until_answered(self, path: str, body: Mapping[str, object]) -> _Reply:
        """Ask, and again while no answer comes and a repeat is harmless, for as long as a call may take."""
        unsure = False
        with trio.move_on_after(self.call_s):
            while True:
                try:
                    reply = await self._post(path, body)
                    if reply.status < 500 or reply.code in _UNTOUCHED:
                        return reply
                except NotAnswered:
                    unsure = True
                except LedgerUnavailable:
                    if not unsure:  # it never reached the vault
                        raise
                else:
                    unsure = True
                    logger.warning("the vault answered %s with status %d %s", path, reply.status, reply.reason)
                if self.is_ours is None:
                    await self.look()
                if not self.is_ours:
                    break
                await trio.sleep(REPEAT_S)
        raise NotAnswered("the accounts are unavailable at present; nothing was bought", retry_after_s=1)

    async def _post(self, path: str, body: Mapping[str, object]) -> _Reply:
        """One call. Raises LedgerUnavailable when it was never sent, NotAnswered when no answer came."""
        url = f"{self.url}/internal/{path}"
        try:
            request = httpx.Request("POST", url, headers=self._headers, content=wire.dumps(body))
            response = await self.transport.handle_async_request(request)
            try:
                content = await _read(response.stream)
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            logger.warning("the vault at %s cannot be reached: %s", self._shown(), type(error).__name__)
            raise LedgerUnavailable("the accounts are unavailable at present", retry_after_s=1) from None
        except httpx.TransportError as error:
            logger.warning("the vault at %s gave no answer to %s: %s", self._shown(), path, type(error).__name__)
            raise NotAnswered("the accounts did not answer", retry_after_s=1) from None
        return _Reply(response.status_code, _parsed(content), _retry_after_s(response.headers.get("retry-after")))

    def _shown(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    # Answers

    def _granted(self, reply: _Reply) -> Granted:
        if not 200 <= reply.status < 300:
            raise self._refusal(reply)
        found, agent_id, lease_s = (reply.body.get(name) for name in ("reservation_id", "agent_id", "lease_s"))
        if not isinstance(found, str) or not 0 < len(found) <= MAX_ID:
            logger.error("the vault granted a reservation without an id: what it holds is not known here")
            raise _broken()
        agent_id = agent_id if isinstance(agent_id, str) and 0 < len(agent_id) <= MAX_ID else None
        self.is_ours = agent_id is not None
        return Granted(found, agent_id, float(lease_s) if isinstance(lease_s, (int, float)) and lease_s > 0 else None)

    def _refusal(self, reply: _Reply) -> Exception:
        """Contract: core, section 12.1, with a 401 for a token that is nobody's."""
        status, reason, after_s = reply.status, reply.reason, reply.retry_after_s
        if status == 402:
            return _short(reply)
        if status == 403:
            words = f"Policy denied: {reason or 'the vault does not say why'}"
            return BillingRefused(words, status=403, reason=reason or "policy_denied")
        if status == 429:
            words = f"rate limited: {reason or 'too many requests'}; wait, then try again"
            return BillingRefused(words, status=429, reason=reason or "rate_limited", retry_after_s=after_s or 1)
        if status == 409:
            words = f"the vault refuses this: {reason}"
            return BillingRefused(words, status=409, reason=reason or "key_used")
        if status == 503 and reply.code in _UNTOUCHED:
            return LedgerUnavailable("the accounts are busy; try again", retry_after_s=after_s or 1)
        if status == 401 and reply.error.get("message") != "Invalid internal token":
            return AuthenticationFailed("the bearer token is nobody's")
        if status == 401:
            self._say_refused()
        else:
            logger.error(
                "the vault answered with status %d %s: is [vault] url right, and has it an internal_token of its own?",
                status,
                reason,
            )
        return _broken()

    def _say_refused(self) -> None:
        logger.error(
            "the vault at %s refuses [vault] internal_token: write the one that it is configured with", self._shown()
        )


def settle_body(hold: RemoteHoldRow) -> dict[str, object]:
    """Both shapes at once: figures beside the id, as the predecessor's vault wants them, and under ``metadata``."""
    figures = {"provider": hold.provider[:MAX_TEXT], "latency_ms": hold.latency_ms}
    tokens = {"tokens_in": hold.tokens_in, "tokens_out": hold.tokens_out}
    return {
        "reservation_id": hold.reservation_id,
        "actual_msats": hold.charge_msat,
        **{name: count or 0 for name, count in tokens.items()},
        **figures,
        "metadata": {**tokens, **figures},
    }


def release_body(hold: RemoteHoldRow) -> dict[str, object]:
    return {"reservation_id": hold.reservation_id, "reason": hold.reason[:MAX_TEXT]}


def _broken() -> LedgerUnavailable:
    """Whatever it is, it is between us and the vault; the log knows more."""
    return LedgerUnavailable("the accounts cannot be used at present", status=502, retry_after_s=5)


_OTHERWISE_SHORT = {
    "outstanding_debt": "Insufficient balance: a debt is open; deposit more than that",
    "budget_exhausted": "Insufficient balance: the budget of this token does not cover it; lower max_tokens",
}


def _short(reply: _Reply) -> BillingRefused:
    """Of a 402."""
    reason = reply.reason or "insufficient_balance"
    available, requested = reply.body.get("current_balance_msats"), reply.body.get("requested_msats")
    if reason in _OTHERWISE_SHORT or not isinstance(available, int) or not isinstance(requested, int):
        words = _OTHERWISE_SHORT.get(reason, "Insufficient balance: deposit more, or lower max_tokens")
        return BillingRefused(words, reason=reason)
    words = (
        f"Insufficient balance: this request may cost up to {format_sats(requested)} sats and "
        f"{format_sats(available)} sats are available; deposit more, or lower max_tokens"
    )
    return BillingRefused(words, reason=reason, details={"available_msat": available, "requested_msat": requested})


async def _read(stream: object) -> bytes:
    """An answer's body; of one that is too long, nothing that could be understood."""
    assert isinstance(stream, AsyncIterable)
    content = b""
    async for part in stream:
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            return b""
    return content


def _parsed(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _word(value: object) -> str:
    return value if isinstance(value, str) and _REASON.fullmatch(value) else ""


def _retry_after_s(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() and len(value) < 5 else None
