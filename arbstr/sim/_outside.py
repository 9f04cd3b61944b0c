"""Both ends of the wire: providers that do what a script says, and clients that read, wait, and leave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import httpx
import trio
from attrs import define, field

from arbstr.requests import ClientGone, PlainAnswer
from arbstr.sim._facts import Asked
from arbstr.sim._scripts import Script
from arbstr.wire import DONE, dumps, sse_event

if TYPE_CHECKING:
    from arbstr.sim._process import Process
    from arbstr.sim._world import World

EVENT_STREAM = {"content-type": "text/event-stream"}


def _piece(size: int) -> bytes:
    return sse_event({"id": "c", "choices": [{"index": 0, "delta": {"content": "x" * size}}]})


def _usage(claims: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": claims[0], "completion_tokens": claims[1]}


def stream_parts(script: Script) -> list[bytes]:
    parts = [_piece(size) for size in script.pieces]
    if script.claims is not None:
        parts.append(sse_event({"id": "c", "choices": [], "usage": _usage(script.claims)}))
    return [*parts, DONE]


def plain_parts(script: Script) -> list[bytes]:
    text = "x" * sum(script.pieces)
    body: dict[str, object] = {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    if script.claims is not None:
        body["usage"] = _usage(script.claims)
    whole = dumps(body)
    return [whole[: len(whole) // 2], whole[len(whole) // 2 :]]


class Body(httpx.AsyncByteStream):
    """An answer that goes wrong where the script says so."""

    def __init__(self, script: Script, parts: list[bytes]) -> None:
        self._script = script
        self._parts = parts
        self._given = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        script, given = self._script, self._given
        await trio.sleep(script.pause_s if given else 0)
        if script.fault is not None and given >= min(script.after, len(self._parts) - 1):
            await self._fail(script)
        if given >= len(self._parts):
            raise StopAsyncIteration
        self._given += 1
        return self._parts[given]

    async def _fail(self, script: Script) -> None:
        match script.fault:
            case "cut":
                raise httpx.ReadError("cut, says the script")
            case "stalls":
                await trio.sleep_forever()
            case "breaks":
                self._parts, self._given = [], 0
                raise httpx.RemoteProtocolError("broken, says the script")
            case "ends_early":
                raise StopAsyncIteration
            case _:
                return

    async def aclose(self) -> None:
        self.closed = True


@define(eq=False)
class Wire(httpx.AsyncBaseTransport):
    """The way from one process to one provider. A process that has died calls nobody."""

    world: World
    process: Process
    provider: str
    bodies: list[Body] = field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        asked = self.world.facts.asked[request.headers["idempotency-key"]]
        script = self._script(asked)
        if script.fault == "connect" or self.process.dead:
            await trio.sleep(script.delay_s)
            raise httpx.ConnectError("nobody is there, says the script")
        call = self.world.called(asked, self.provider)
        call.claims = script.claims
        await trio.sleep(script.delay_s)
        if script.fault == "reset":
            raise httpx.ReadError("reset, says the script")
        if script.fault == "hangs":
            await trio.sleep_forever()
        call.answered = script.status
        self.world.note(f"{self.provider} answers {asked.key} with {script.status}")
        return self._answer(asked, script)

    def _script(self, asked: Asked) -> Script:
        scripts = self.world.scripts[asked.key]
        return scripts[min(len(asked.calls), len(scripts) - 1)]

    def _answer(self, asked: Asked, script: Script) -> httpx.Response:
        headers = {"content-type": "application/json"}
        if script.status != 200:
            parts = [b'{"error": {"message": "no"}}']
            if script.retry_after_s is not None:
                headers["retry-after"] = str(script.retry_after_s)
        elif script.fault == "garbles":
            parts = [b"<html>"]
        elif asked.stream:
            headers, parts = EVENT_STREAM, stream_parts(script)
        else:
            parts = plain_parts(script)
        body = Body(script, parts)
        self.bodies.append(body)
        return httpx.Response(script.status, headers=headers, stream=body)

    async def aclose(self) -> None:
        pass


@define(eq=False)
class Client:
    """Somebody who reads a stream at ``reads_s`` seconds a piece, and is gone after ``leaves_after`` writes.

    What it has got is in the facts; what it is told of the cost is held against the books at that moment.
    """

    world: World
    process: Process
    asked: Asked
    reads_s: float = 0.0
    leaves_after: int | None = None
    writes: int = 0

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        await trio.lowlevel.checkpoint()
        self._look()
        self.world.note(f"{self.asked.key} begins with {status}")

    async def write(self, data: bytes) -> None:
        await trio.sleep(self.reads_s)
        self._look()
        self.writes += 1
        self._take(data)
        self.world.told(self.asked)

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        self._look()
        self.world.note(f"{self.asked.key} ends after {self.writes} writes")

    def _look(self) -> None:
        if self.process.dead or (self.leaves_after is not None and self.writes >= self.leaves_after):
            raise ClientGone

    def _take(self, data: bytes) -> None:
        asked = self.asked
        for event in data.split(b"\n\n"):
            if not event.startswith(b"data: {"):
                continue
            said = json.loads(event[6:])
            for choice in said.get("choices") or ():
                text = choice["delta"]["content"]
                asked.pieces += 1
                asked.text_bytes += len(text)
            cost = said.get("arbstr")
            if cost is not None and "cost_msat" in cost and "settlement" not in cost:
                self.world.promise_end(asked, cost["cost_msat"])

    def answered(self, answer: PlainAnswer) -> None:
        """A whole answer arrives."""
        if self.process.dead:
            return
        headers = dict(answer.headers)
        self.world.note(f"{self.asked.key} gets {answer.status} of {len(answer.body)} bytes")
        self.asked.answered = answer.status == 200
        cost = headers.get(b"x-arbstr-cost-msat")
        if cost is not None:
            self.world.promise_end(self.asked, int(cost))
        self.world.told(self.asked)
