"""A request over HTTP that came over a link: answered by the application, without a connection."""

from __future__ import annotations

from typing import Any

import trio
from attrs import define, field

from arbstr.accounts import AskPage, Page
from arbstr.edge._app import EdgeApp
from arbstr.edge._exchange import Message
from arbstr.errors import InternalError


async def answer_page(app: EdgeApp, asked: AskPage) -> Page:
    """What the application answers. The client of a page is never seen to leave: the work is done all the same."""
    call = _Call(asked)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "query_string": asked.query,
        "headers": asked.headers,
        "client": (asked.peer, 0),
    }
    await app(scope, call.receive, call.send)
    if not call.status:
        raise InternalError("no answer was made to a request")
    return Page(call.status, tuple(call.headers), bytes(call.body))


@define(eq=False)
class _Call:
    """An ASGI connection in memory."""

    asked: AskPage
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(factory=list)
    body: bytearray = field(factory=bytearray)
    _given: bool = False

    async def receive(self) -> Message:
        if self._given:
            await trio.sleep_forever()
        self._given = True
        return {"type": "http.request", "body": self.asked.body, "more_body": False}

    async def send(self, message: dict[str, Any] | Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
