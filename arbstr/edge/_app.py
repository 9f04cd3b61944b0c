"""The routes, as one bare ASGI application: parse, make one call, render.

Order of things for each request: request id, bound on requests in flight, bearer, rate, path and method, role, body,
handler. Whatever goes wrong is answered in OpenAI's error shape with ``x-arbstr-request-id``; nothing internal is in
it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio
from attrs import frozen

from arbstr import wire
from arbstr.edge._analytics import Analytics
from arbstr.edge._catalogue import Catalogue, health_of, providers_body
from arbstr.edge._exchange import JSON_TYPE, ON_DISCONNECT, Exchange, Message, Receive, Send, StreamResponder
from arbstr.edge._forward import ForwardedPages
from arbstr.edge._gate import Gate, Visit
from arbstr.edge._headers import Headers, is_loopback
from arbstr.edge._openapi import OPENAPI_BODY
from arbstr.edge._quote import quote_body
from arbstr.edge._routes import Page, check_method, check_role, find_route, not_found
from arbstr.edge._services import Limits, Services
from arbstr.edge._vault import VaultPages
from arbstr.edge._vault_bodies import iso
from arbstr.errors import (
    ArbstrError,
    AuthenticationFailed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    ShuttingDown,
    UnsupportedMediaType,
)
from arbstr.requests import POLL_S, Caller, ClientGone, ModelRequest, PlainAnswer

logger = logging.getLogger("arbstr.edge")

Scope = Message
Parse = Callable[[bytes], wire.ModelCall]

MAX_PATH = 2_048
"""Characters; the names of models are the longest part of it."""
METRICS_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


@frozen
class Ask:
    """One request that has been let in; ``name`` is what stands in the place of the route's parameter."""

    exchange: Exchange
    visit: Visit
    caller: Caller
    name: str
    query: bytes


Handler = Callable[[Ask], Awaitable[PlainAnswer | None]]


class EdgeApp:
    """The ASGI application. Use :func:`make_app`.

    A call ends when the request is answered, or its client gone, and its work is over; it raises nothing but the
    cancellation of whoever runs it.
    """

    def __init__(self, services: Services, gate: Gate, limits: Limits) -> None:
        self.gate = gate
        self._services = services
        self._limits = limits
        self._catalogue = Catalogue(lambda: services.providers(), created=int(time.time()))
        self._analytics = Analytics(services)
        self._vault = _vault_pages(services, gate, limits)
        self._open: Final[dict[Page, Callable[[], PlainAnswer]]] = {
            Page.HEALTH: self._health,
            Page.READY: self._ready,
            Page.OPENAPI: lambda: _json(OPENAPI_BODY),
        }
        self._handlers: Final[dict[Page, Handler]] = {
            Page.CHAT: partial(self._model_call, wire.parse_chat),
            Page.COMPLETIONS: partial(self._model_call, wire.parse_completion),
            Page.EMBEDDINGS: partial(self._model_call, wire.parse_embeddings),
            Page.COST: self._cost,
            Page.MODELS: self._models,
            Page.MODEL: self._model,
            Page.STATS: self._stats,
            Page.REQUESTS: self._requests,
            Page.REQUEST: self._receipt,
            Page.APPROVAL: self._approval,
            Page.PROVIDERS: self._providers,
            Page.METRICS: self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only http is served here, not {scope['type']}")
        headers = Headers(scope["headers"])
        exchange = Exchange(
            headers,
            receive,
            send,
            request_id=new_request_id(),
            gate=self.gate,
            limits=self._limits,
            on_disconnect=scope.get("extensions", {}).get(ON_DISCONNECT),
        )
        visit = self.gate.enter()
        try:
            await self._serve(scope, exchange, visit)
        except ClientGone:
            pass  # there is nobody to tell
        finally:
            self.gate.leave(visit)

    async def _serve(self, scope: Scope, exchange: Exchange, visit: Visit) -> None:
        """The rim: whatever a handler raises becomes an answer here. Raises ``ClientGone``."""
        vault = self._vault
        try:
            if vault is not None and vault.owns(scope["path"]):
                answer: PlainAnswer | None = await vault.answer(scope, exchange, visit)
            else:
                answer = await self._route(scope, exchange, visit)
        except Exception as caught:
            await self._apologise(exchange, _sole(caught))
        else:
            if answer is not None:
                await exchange.answer(answer)

    async def _apologise(self, exchange: Exchange, error: Exception) -> None:
        if not isinstance(error, (ArbstrError, ClientGone)):
            logger.error("request %s failed unexpectedly", exchange.request_id, exc_info=error)
            error = InternalError("something went wrong here; the request id finds it in the log")
        if isinstance(error, ArbstrError) and not exchange.gone:
            await exchange.fail(error)

    async def _route(self, scope: Scope, exchange: Exchange, visit: Visit) -> PlainAnswer | None:
        path, method = scope["path"], scope["method"]
        found = find_route(path)
        if found is not None and found[0].page in self._open:
            check_method(method, found[0])
            return self._open[found[0].page]()
        services = self._services
        self.gate.admit(visit, services.config.max_requests)
        peer = (scope.get("client") or ("",))[0]
        local = is_loopback(peer) and not exchange.headers.was_forwarded
        caller = services.authenticate(exchange.headers.authorization, peer, local)
        buys = found is not None and found[0].page in _MODEL_CALLS and method in found[0].methods
        if not caller.proven and not buys:
            raise AuthenticationFailed("the bearer token is not known here; it becomes known with its first request")
        if not buys:  # what is for a model is counted with its tokens, further in
            far = services.touch_elsewhere
            exchange.limit_headers = services.touch(caller) if far is None else await far(caller)
        if len(path) > MAX_PATH:
            raise InvalidRequest(f"the path is longer than {MAX_PATH} characters", status=414)
        if found is None:
            raise not_found(path)
        route, name = found
        check_method(method, route)
        check_role(caller, route)
        return await self._handlers[route.page](Ask(exchange, visit, caller, name, scope["query_string"]))

    # Open to everybody

    def _health(self) -> PlainAnswer:
        services = self._services
        now_ns = services.vault.now_ns() if services.vault is not None else time.time_ns()
        timed = services.vault is not None or services.forward is not None
        return _json(*health_of(services.providers(), iso(now_ns) if timed else None))

    def _ready(self) -> PlainAnswer:
        if self.gate.draining:
            return _json(b'{"status":"draining"}', 503)
        return _json(b'{"status":"ready"}')

    # Reading

    async def _models(self, ask: Ask) -> PlainAnswer:
        return _json(self._catalogue.body())

    async def _model(self, ask: Ask) -> PlainAnswer:
        entry = self._catalogue.entry(ask.name)
        if entry is None:
            raise ModelNotFound(f"The model {ask.name[:200]!r} does not exist here", param="model")
        return _json(wire.model_body(entry))

    async def _stats(self, ask: Ask) -> PlainAnswer:
        with ask.visit.scope:
            return _json(await self._analytics.stats(ask.caller, ask.query))
        raise _expired()

    async def _requests(self, ask: Ask) -> PlainAnswer:
        with ask.visit.scope:
            return _json(await self._analytics.requests(ask.caller, ask.query))
        raise _expired()

    async def _receipt(self, ask: Ask) -> PlainAnswer:
        with ask.visit.scope:
            return _json(await self._analytics.receipt(ask.caller, ask.name))
        raise _expired()

    async def _approval(self, ask: Ask) -> PlainAnswer:
        with ask.visit.scope:
            body, pending = await self._analytics.approval(ask.caller, ask.name)
            return PlainAnswer(200, (JSON_TYPE, *([(b"retry-after", b"%d" % POLL_S)] if pending else ())), body)
        raise _expired()

    async def _providers(self, ask: Ask) -> PlainAnswer:
        services = self._services
        return _json(providers_body(services.providers(), services.market(), ask.caller, trio.current_time()))

    async def _metrics(self, ask: Ask) -> PlainAnswer:
        services = self._services
        if services.gather_metrics is None:
            return PlainAnswer(200, (METRICS_TYPE,), services.metrics())
        with ask.visit.scope:
            return PlainAnswer(200, (METRICS_TYPE,), await services.gather_metrics())
        raise _expired()

    # Asking a model

    async def _cost(self, ask: Ask) -> PlainAnswer:
        with ask.visit.scope:
            request = await self._read_request(wire.parse_any, ask)
            return _json(quote_body(request.call, self._services.quote(request)))
        raise _expired()

    async def _model_call(self, parse: Parse, ask: Ask) -> PlainAnswer | None:
        exchange, visit = ask.exchange, ask.visit
        if exchange.cancel_when_gone(visit.scope):
            answer = await self._work(parse, ask)
        else:
            # The scope stands within the nursery, not around it: see below.
            async with trio.open_nursery() as watch:
                body_read = partial(watch.start_soon, _cancel_when_gone, exchange, visit.scope)
                answer = await self._work(parse, ask, body_read)
                watch.cancel_scope.cancel()
        if exchange.gone:
            raise ClientGone
        if answer is not None and not exchange.started:
            return answer
        if visit.expired and not exchange.finished:
            raise _expired()
        if answer is not None or not exchange.started:
            raise RuntimeError("an answer must either come back or go through the responder")
        await exchange.finish()
        return None

    async def _work(self, parse: Parse, ask: Ask, body_read: Callable[[], object] = lambda: None) -> PlainAnswer | None:
        """What is cancelled with the visit. What it brings back in spite of that, and every word that is said after it,
        is beyond the cancellation."""
        answer = None
        with ask.visit.scope:
            request = await self._read_request(parse, ask)
            body_read()
            answer = await self._services.answer(request, StreamResponder(ask.exchange))
        return answer

    async def _read_request(self, parse: Parse, ask: Ask) -> ModelRequest:
        exchange, headers, config = ask.exchange, ask.exchange.headers, self._services.config
        if not headers.is_json:
            raise UnsupportedMediaType("the body must be JSON: send the header content-type: application/json")
        take_in = partial(self.gate.take_in, ask.visit, limit=max(self._limits.body_bytes, config.max_body_bytes))
        body = await exchange.read_body(config.max_body_bytes, config.body_timeout_s, take_in)
        # The parser is pure: a thread that is left behind does no harm.
        large = len(body) > self._limits.parse_in_thread_bytes
        call = await trio.to_thread.run_sync(parse, body, abandon_on_cancel=True) if large else parse(body)
        return ModelRequest(
            request_id=exchange.request_id,
            correlation_id=exchange.correlation_id,
            traceparent=headers.traceparent,
            policy=headers.policy,
            stream_cost=headers.stream_cost or config.stream_cost_event,
            caller=ask.caller,
            call=call,
            approval_id=headers.approval_id,
            wait_s=headers.wait_s or 0,
            complexity=headers.complexity,
        )


def _vault_pages(services: Services, gate: Gate, limits: Limits) -> VaultPages | ForwardedPages | None:
    if services.vault is not None:
        return VaultPages(services.vault, services, gate, limits)
    return None if services.forward is None else ForwardedPages(services.forward, services, gate, limits)


_MODEL_CALLS = frozenset((Page.CHAT, Page.COMPLETIONS, Page.EMBEDDINGS))


def make_app(services: Services, gate: Gate, limits: Limits | None = None) -> EdgeApp:
    """The front end as an ASGI application; ``serve`` takes it. The gate is shared with whoever stops the server."""
    return EdgeApp(services, gate, limits or Limits())


async def _cancel_when_gone(exchange: Exchange, work: trio.CancelScope) -> None:
    await exchange.wait_gone()
    work.cancel()


def _expired() -> ShuttingDown:
    return ShuttingDown("the server is shutting down and this request took too long", retry_after_s=1)


def new_request_id() -> str:
    """A UUID of version 4 (RFC 9562, 5.4). A name, not a secret."""
    # Not os.urandom, as uuid4 has it: that lets go of the interpreter, and gets it back when the other threads like.
    digits = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _json(body: bytes, status: int = 200) -> PlainAnswer:
    return PlainAnswer(status, (JSON_TYPE,), body)


def _sole(error: Exception) -> Exception:
    """What went wrong, out of the groups that nurseries wrap around it; ``ClientGone`` beside others says nothing."""
    if not isinstance(error, ExceptionGroup):
        return error
    _, rest = error.split(ClientGone)
    if rest is None:
        return ClientGone()
    return _sole(rest.exceptions[0]) if len(rest.exceptions) == 1 else rest
