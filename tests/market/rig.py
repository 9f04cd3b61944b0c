"""Hosts that answer as a test says, without a network."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import trio
from attrs import define, field

from arbstr.config import ProviderConfig

Answer = httpx.Response | Callable[[httpx.Request], Awaitable[httpx.Response]]


def ok(document: object, status: int = 200) -> httpx.Response:
    """A JSON answer; a str or bytes is sent as it is."""
    body = document if isinstance(document, str | bytes) else json.dumps(document)
    return httpx.Response(status, content=body, headers={"content-type": "application/json"})


async def never(request: httpx.Request) -> httpx.Response:
    await trio.sleep_forever()
    raise AssertionError


async def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("https://user:sk-secret@host refused", request=request)


@define
class World(httpx.AsyncBaseTransport):
    """Answers by URL without its query; an unknown URL is 404. Remembers what it was asked."""

    answers: dict[str, Answer] = field(factory=dict)
    asked: list[httpx.Request] = field(factory=list)
    asked_at: list[float] = field(factory=list)
    closed: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.asked.append(request)
        self.asked_at.append(trio.current_time())
        answer = self.answers.get(str(request.url.copy_with(query=None)), ok({}, 404))
        if isinstance(answer, httpx.Response):
            # A response is read once; this one is asked for again.
            return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)
        return await answer(request)

    async def aclose(self) -> None:
        self.closed = True

    def times(self, url: str) -> list[float]:
        pairs = zip(self.asked, self.asked_at, strict=True)
        return [at for request, at in pairs if str(request.url.copy_with(query=None)) == url]

    def count(self, url: str) -> int:
        return len(self.times(url))

    def feed(
        self, quotes: Sequence[dict[str, Any]] = (), nodes: Sequence[dict[str, Any]] = (), base: str = "http://feed"
    ) -> None:
        """Have the feed answer this from now on."""
        self.answers[f"{base}/health"] = ok({"ok": True, "quotes": len(quotes)})
        self.answers[f"{base}/api/quotes"] = ok({"quotes": list(quotes)})
        self.answers[f"{base}/api/nodes"] = ok({"nodes": list(nodes)})


def row(provider_id: str = "p1", model: str = "m", asked: float | str | None = 100, **more: Any) -> dict[str, Any]:
    """A quote as the feed sends it; the output rate is three times the input rate."""
    return {
        "source": "routstr",
        "provider": f"Node {provider_id}",
        "provider_id": provider_id,
        "model": model,
        "price_in_sats": asked,
        "price_out_sats": asked * 3 if isinstance(asked, int | float) else asked,
        "endpoint": f"https://{provider_id}.example/v1",
        "observed_at": None,
        **more,
    }


@define
class RecordingFleet:
    """What it was told to run, each time."""

    applied: list[tuple[ProviderConfig, ...]] = field(factory=list)
    faults: list[Exception] = field(factory=list)
    """Each is raised once, instead of running anything."""
    gate: trio.Event | None = None
    """While it is not set, nothing is run."""

    async def apply(self, wanted: Sequence[ProviderConfig]) -> None:
        await trio.lowlevel.checkpoint()
        if self.faults:
            raise self.faults.pop(0)
        if self.gate is not None:
            await self.gate.wait()
        self.applied.append(tuple(wanted))

    @property
    def wanted(self) -> tuple[ProviderConfig, ...]:
        return self.applied[-1]

    def models(self, name: str) -> list[str]:
        """The models that may be bought from it."""
        (provider,) = [each for each in self.wanted if each.name == name]
        return [model.id for model in provider.models if model.excluded is None]

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.wanted]
