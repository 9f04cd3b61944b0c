"""The vault's pages where the vault is another process: a core passes the request on, the process of the accounts
answers it as if it had been asked itself. Who may ask is judged there, and nothing of it here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from attrs import frozen

from arbstr.accounts import AskPage, Page
from arbstr.edge._exchange import Exchange, Message
from arbstr.edge._gate import Gate, Visit
from arbstr.edge._services import Limits, Services
from arbstr.edge._vault import MAX_BODY_BYTES, MAX_WAIT_S, error_answer
from arbstr.edge._vault_routes import is_vaults
from arbstr.errors import ArbstrError, BodyTooLarge, ShuttingDown
from arbstr.requests import PlainAnswer

PAGE_S: Final = MAX_WAIT_S + 30.0
_OURS: Final = frozenset((b"content-length", b"connection", b"transfer-encoding", b"date"))
"""Headers of an answer that belong to the connection it is sent on."""


@frozen
class ForwardedPages:
    """The core's side: in the place of ``VaultPages``. ``ask`` raises ArbstrError."""

    ask: Callable[[AskPage, float], Awaitable[Page]]
    services: Services
    gate: Gate
    limits: Limits

    def owns(self, path: str) -> bool:
        return is_vaults(path)

    async def answer(self, scope: Message, exchange: Exchange, visit: Visit) -> PlainAnswer:
        """Raises ``ClientGone``, and what nobody expects."""
        try:
            return await self._answer(scope, exchange, visit)
        except ArbstrError as error:
            return error_answer(error)

    async def _answer(self, scope: Message, exchange: Exchange, visit: Visit) -> PlainAnswer:
        self.gate.admit(visit, self.services.config.max_requests)
        with visit.scope:
            page = await self.ask(await self._asked(scope, exchange, visit), PAGE_S)
            headers = tuple((name, value) for name, value in page.headers if name not in _OURS)
            return PlainAnswer(page.status, headers, page.body)
        raise ShuttingDown("the server is shutting down and this request took too long", retry_after_s=1)

    async def _asked(self, scope: Message, exchange: Exchange, visit: Visit) -> AskPage:
        config = self.services.config
        headers = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
        take_in = partial(self.gate.take_in, visit, limit=max(self.limits.body_bytes, config.max_body_bytes))
        longest = min(MAX_BODY_BYTES, config.max_body_bytes)
        body = b""
        if exchange.headers.has_body:
            try:
                body = await exchange.read_body(longest, config.body_timeout_s, take_in)
            except BodyTooLarge:  # to be told in the vault's words, if at all: who may not ask hears only that
                headers = _declaring(headers, longest + 1)
            else:
                headers = _declaring(headers, len(body))
        return AskPage(
            scope["method"],
            scope["path"],
            scope["query_string"],
            headers,
            body,
            (scope.get("client") or ("",))[0],
        )


def _declaring(headers: tuple[tuple[bytes, bytes], ...], length: int) -> tuple[tuple[bytes, bytes], ...]:
    """With the length of the body, however it came."""
    kept = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
    return (*kept, (b"content-length", b"%d" % length))
