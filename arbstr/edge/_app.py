"""The routes, as one bare ASGI application: parse, make one call, render.

Order of things for each request: request id, bound on requests in flight, bearer, path and method, body, handler.
Whatever goes wrong is answered in OpenAI's error shape with ``x-arbstr-request-id``; nothing internal is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import trio

from arbstr import wire
from arbstr.edge._exchange import JSON_TYPE, Exchange, Message, Receive, Send, StreamResponder
from arbstr.edge._gate import Gate, Visit
from arbstr.edge._headers import Headers, is_loopback
from arbstr.edge._services import Limits, Services
from arbstr.errors import (
    ArbstrError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ShuttingDown,
    UnsupportedMediaType,
)
from arbstr.requests import Caller, ClientGone, ModelRequest, PlainAnswer

logger = logging.getLogger("arbstr.edge")

Scope = Message
Handler = Callable[[Exchange, Visit, Caller], Awaitable[PlainAnswer | None]]

READ = ("GET", "HEAD")


class EdgeApp:
    """The ASGI application. Use :func:`make_app`.

    A call ends when the request is answered, or its client gone, and its work is over; it raises nothing but the
    cancellation of whoever runs it.
    """

    def __init__(self, services: Services, gate: Gate, limits: Limits) -> None:
        self.gate = gate
        self._services = services
        self._limits = limits
        self._probes = {"/health": self._health, "/ready": self._ready}
        self._routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            "/v1/chat/completions": (("POST",), self._chat),
            "/v1/models": (READ, self._models),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only http is served here, not {scope['type']}")
        headers = Headers(scope["headers"])
        exchange = Exchange(headers, receive, send, request_id=str(uuid4()), gate=self.gate, limits=self._limits)
        visit = self.gate.enter()
        try:
            await self._serve(scope, exchange, visit)
        except ClientGone:
            pass  # there is nobody to tell
        finally:
            self.gate.leave(visit)

    async def _serve(self, scope: Scope, exchange: Exchange, visit: Visit) -> None:
        """The rim: whatever a handler raises becomes an answer here. Raises ``ClientGone``."""
        try:
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
        probe = self._probes.get(path)
        if probe is not None:
            _check_method(method, READ)
            return probe()
        self.gate.admit(visit, self._services.config.max_requests)
        caller = self._services.authenticate(exchange.headers.authorization, _is_local(scope, exchange.headers))
        route = self._routes.get(path)
        if route is None:
            raise NotFound(f"there is no {path[:100]!r} here; chat completions are at /v1/chat/completions")
        methods, handler = route
        _check_method(method, methods)
        return await handler(exchange, visit, caller)

    def _health(self) -> PlainAnswer:
        status, body = self._services.health()
        return PlainAnswer(status, (JSON_TYPE,), body)

    def _ready(self) -> PlainAnswer:
        if self.gate.draining:
            return PlainAnswer(503, (JSON_TYPE,), b'{"status":"draining"}')
        return PlainAnswer(200, (JSON_TYPE,), b'{"status":"ready"}')

    async def _models(self, exchange: Exchange, visit: Visit, caller: Caller) -> PlainAnswer:
        return PlainAnswer(200, (JSON_TYPE,), self._services.models(caller))

    async def _chat(self, exchange: Exchange, visit: Visit, caller: Caller) -> PlainAnswer | None:
        answer = None
        # The scope stands within the nursery, not around it: what the chat brings back in spite of being cancelled, and
        # every word that is said after it, is beyond the cancellation.
        async with trio.open_nursery() as watch:
            with visit.scope:
                request = await self._read_chat(exchange, visit, caller)
                watch.start_soon(_cancel_when_gone, exchange, visit.scope)
                answer = await self._services.answer(request, StreamResponder(exchange))
            watch.cancel_scope.cancel()
        if exchange.gone:
            raise ClientGone
        if answer is not None and not exchange.started:
            return answer
        if visit.expired and not exchange.finished:
            raise ShuttingDown("the server is shutting down and this request took too long", retry_after_s=1)
        if answer is not None or not exchange.started:
            raise RuntimeError("an answer must either come back or go through the responder")
        await exchange.finish()
        return None

    async def _read_chat(self, exchange: Exchange, visit: Visit, caller: Caller) -> ModelRequest:
        headers, config = exchange.headers, self._services.config
        if not headers.is_json:
            raise UnsupportedMediaType("the body must be JSON: send the header content-type: application/json")
        take_in = partial(self.gate.take_in, visit, limit=max(self._limits.body_bytes, config.max_body_bytes))
        body = await exchange.read_body(config.max_body_bytes, config.body_timeout_s, take_in)
        parse: Callable[[], wire.ModelCall] = partial(wire.parse_chat, body)
        # The parser is pure: a thread that is left behind does no harm.
        large = len(body) > self._limits.parse_in_thread_bytes
        call = await trio.to_thread.run_sync(parse, abandon_on_cancel=True) if large else parse()
        return ModelRequest(
            request_id=exchange.request_id,
            correlation_id=exchange.correlation_id,
            traceparent=headers.traceparent,
            policy=headers.policy,
            stream_cost=headers.stream_cost or config.stream_cost_event,
            caller=caller,
            call=call,
        )


def make_app(services: Services, gate: Gate, limits: Limits | None = None) -> EdgeApp:
    """The front end as an ASGI application; ``serve`` takes it. The gate is shared with whoever stops the server."""
    return EdgeApp(services, gate, limits or Limits())


async def _cancel_when_gone(exchange: Exchange, work: trio.CancelScope) -> None:
    await exchange.wait_gone()
    work.cancel()


def _check_method(method: str, allowed: tuple[str, ...]) -> None:
    if method not in allowed:
        raise MethodNotAllowed(f"{method[:20]} is not possible here; use {' or '.join(allowed)}", allow=allowed)


def _is_local(scope: Scope, headers: Headers) -> bool:
    """Whether the request comes from this machine. What a proxy on this machine passes on does not."""
    peer = scope.get("client")
    return peer is not None and is_loopback(peer[0]) and not headers.was_forwarded


def _sole(error: Exception) -> Exception:
    """What went wrong, out of the groups that nurseries wrap around it; ``ClientGone`` beside others says nothing."""
    if not isinstance(error, ExceptionGroup):
        return error
    _, rest = error.split(ClientGone)
    if rest is None:
        return ClientGone()
    return _sole(rest.exceptions[0]) if len(rest.exceptions) == 1 else rest
