"""The one owner of "which providers are wanted": what the file says, what they say themselves, what the market says.

Reads lists of models and the market feed in tasks of its own, each bounded in time and size; decides by pure functions
(``_merge``); has the fleet run exactly the providers that come out. Nothing that a provider or a feed answers can end
it: a failure leaves in place what was known, except prices, which grow old by the clock and are then not bought.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol

import httpx
import trio
from attrs import define, evolve, frozen

from actors import ActorDeadError, Ask, Reply, Timer, TrioActor
from arbstr.config import Config, ProviderConfig, TokenstatsConfig
from arbstr.market._discovery import FoundModel, discover
from arbstr.market._feed import FeedAnswer, PollFailed, poll
from arbstr.market._fetch import FetchFailed
from arbstr.market._merge import Merged, QuoteBook, merge, take_in, with_found
from arbstr.market._report import DiscoveryState, MarketBoard, MarketReport
from arbstr.providers import PooledTransport
from arbstr.secrets import Secret

logger = logging.getLogger("arbstr.market")

MIN_POLL_S: Final = 5.0
"""Between two polls, whatever is configured."""
RETRY_S: Final = 30.0
"""After a failed discovery; doubles up to the configured interval."""
JITTER: Final = 0.1
"""Intervals are longer by up to this share, so that many proxies do not ask at once."""
EXPIRY_STEP_S: Final = 1.0
"""Quotes that run out within this time of each other do so together, early rather than late."""
APPLY_BOUND_S: Final = 60.0
"""For the fleet to start and retire providers. It is local work; longer means that it hangs."""
MAX_CONNECTIONS: Final = 32


class Fleet(Protocol):
    """Whoever runs the providers."""

    async def apply(self, wanted: Sequence[ProviderConfig]) -> None:
        """Start, reconfigure and retire provider actors so that exactly ``wanted`` run."""


@frozen
class UseConfig(Ask[MarketReport]):
    """Use this configuration from now on. Answered when the fleet runs what it wants, as far as that is known.

    Lists of models stay known for providers whose URL and key are the same, quotes while the feed is the same; all are
    read again.
    """

    config: Config


@frozen
class Refresh(Ask[MarketReport]):
    """Read all lists and the feed now. Answered when every one has answered or failed, and that is applied.

    Takes at most as long as the slowest of them: ``discovery.timeout_s``, or 15 s for a feed.
    """


@frozen
class WhenReady(Ask[MarketReport]):
    """Answered as soon as a first set of providers runs: at most ``discovery.timeout_s`` after the start."""


class _Job(NamedTuple):
    """Something that is read again and again: the list of one provider, or the feed ("")."""

    provider: str


_FEED: Final = _Job("")


@frozen
class _Due:
    job: _Job


@frozen
class _Found:
    """What a reading brought; the failure as a sentence."""

    job: _Job
    ticket: int
    outcome: tuple[FoundModel, ...] | str


@frozen
class _Polled:
    job: _Job
    ticket: int
    outcome: FeedAnswer | PollFailed


@frozen
class _Begin:
    """Apply what is known, however little: the time for the first answers is over."""


@frozen
class _Expired:
    """A quote has run out."""


@define
class _Run:
    """A reading under way."""

    ticket: int
    scope: trio.CancelScope


@define
class _Reading:
    """What is known of one provider's list, and how reading it goes."""

    provider: ProviderConfig
    found: tuple[FoundModel, ...] | None = None
    last_success_at: float | None = None
    last_error: str | None = None
    failures: int = 0
    """In a row."""

    def state(self) -> DiscoveryState:
        known = None if self.found is None else len(self.found)
        return DiscoveryState(self.provider.name, known, self.last_success_at, self.last_error)


class CatalogActor(TrioActor):
    """Asks: UseConfig, Refresh, WhenReady; each is answered with the MarketReport, which also hangs at ``board``.

    Starts reading at once. The fleet is first told when everything has answered, or after ``discovery.timeout_s`` with
    what is known by then; what comes later is applied when it comes. The fleet is told only of changes. A restart
    leaves the fleet alone until the new instance knows as much again, within the same bound.

    ``transport`` is for all readings; without one it makes and closes its own. ``unix_now`` gives seconds since 1970;
    everything else goes by Trio's clock. ``chance`` gives numbers from 0 to 1 for the jitter.
    """

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        board: MarketBoard,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        unix_now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__()
        self._config = config
        self._fleet = fleet
        self._board = board
        self._transport = transport
        self._own_transports: dict[Secret | None, httpx.AsyncBaseTransport] = {}
        """Unless one was given: by the proxy on the way."""
        self._unix_now = unix_now
        self._chance = chance
        self._readings = {each.name: _Reading(each) for each in _discoverable(config)}
        self._book: QuoteBook | None = None
        self._market = _market_of(config.tokenstats)
        """The report, but for what a merge adds."""
        self._runs: dict[_Job, _Run] = {}
        self._timers: dict[_Job, Timer] = {}
        self._expiry: Timer | None = None
        self._tickets = 0
        self._applied: tuple[ProviderConfig, ...] | None = None
        self._waiting: list[tuple[set[_Job], Reply[MarketReport]]] = []
        self._not_ready: list[Reply[MarketReport]] = []

    # -- life

    def on_start(self) -> None:
        for job in self._jobs():
            self._begin(job)
        self.send_after(self._config.discovery.timeout_s if self._runs else 0.0, _Begin())

    async def on_stop(self) -> None:
        await self._close()

    async def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for transport in self._own_transports.values():
            with suppress(httpx.TransportError, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await transport.aclose()

    async def on_receive(self, message: object) -> Any:
        match message:
            case _Due():
                self._begin(message.job)
            case _Found() | _Polled():
                await self._take(message)
            case _Begin():
                if self._applied is None:
                    await self._apply()
            case _Expired():
                self._expiry = None
                await self._apply()
            case WhenReady():
                if self._applied is not None:
                    return self._board.report
                self._not_ready.append(self.take_reply())
            case Refresh():
                return await self._refresh()
            case UseConfig():
                await self._use(message.config)
                return self._board.report
            case _:
                raise TypeError(f"a catalog takes UseConfig, Refresh and WhenReady, got {type(message).__name__}")
        return None

    # -- readings

    def _jobs(self) -> set[_Job]:
        jobs = {_Job(name) for name in self._readings}
        return jobs if self._config.tokenstats is None else jobs | {_FEED}

    def _begin(self, job: _Job) -> None:
        """Read now, unless that is under way already."""
        if job in self._runs or job not in self._jobs():
            return
        self._cancel_timer(job)
        self._tickets += 1
        if job == _FEED:
            assert self._config.tokenstats is not None
            scope = self.spawn(self._poll, self._tickets, self._config.tokenstats, name="market feed")
        else:
            provider, timeout_s = self._readings[job.provider].provider, self._config.discovery.timeout_s
            scope = self.spawn(self._discover, job, self._tickets, provider, timeout_s, name="discovery")
        self._runs[job] = _Run(self._tickets, scope)

    async def _poll(self, ticket: int, feed: TokenstatsConfig) -> None:
        outcome: FeedAnswer | PollFailed
        try:
            outcome = await poll(self._client(None), feed)
        except PollFailed as error:
            outcome = error
        await self._hand_over(_Polled(_FEED, ticket, outcome))

    async def _discover(self, job: _Job, ticket: int, provider: ProviderConfig, timeout_s: float) -> None:
        outcome: tuple[FoundModel, ...] | str
        try:
            client = self._client(provider.proxy)
            outcome = await discover(client, provider.url, provider.api_key, timeout_s=timeout_s)
        except FetchFailed as error:
            outcome = str(error)
        await self._hand_over(_Found(job, ticket, outcome))

    async def _hand_over(self, message: _Found | _Polled) -> None:
        with suppress(ActorDeadError):  # it is about to end, and this task with it
            await self.actor_ref.send(message)

    def _client(self, proxy: Secret | None) -> httpx.AsyncBaseTransport:
        if self._transport is not None:
            return self._transport
        if proxy not in self._own_transports:
            way = None if proxy is None else proxy.reveal()
            self._own_transports[proxy] = PooledTransport(max_connections=MAX_CONNECTIONS, tls=True, proxy=way)
        return self._own_transports[proxy]

    async def _take(self, message: _Found | _Polled) -> None:
        run = self._runs.get(message.job)
        if run is None or run.ticket != message.ticket:
            return  # of a configuration that is no longer used
        del self._runs[message.job]
        pause_s = self._learn_quotes(message) if isinstance(message, _Polled) else self._learn_models(message)
        self._timers[message.job] = self.send_after(pause_s * (1 + JITTER * self._chance()), _Due(message.job))
        if self._applied is not None or not self._runs:
            await self._apply()
        self._settle(message.job)

    def _learn_models(self, message: _Found) -> float:
        """Keep what was found. Returns the seconds until it is worth asking again."""
        reading = self._readings[message.job.provider]
        if isinstance(message.outcome, str):
            self._board.count(discoveries_failed=1)
            if message.outcome != reading.last_error:
                name, kept = reading.provider.name, _kept(reading)
                logger.warning("provider %s: no list of models: %s; it serves %s", name, message.outcome, kept)
            reading.last_error = message.outcome
            reading.failures += 1
            return min(RETRY_S * (1 << min(reading.failures - 1, 20)), self._config.discovery.interval_s)
        self._board.count(discoveries_ok=1)
        reading.found, reading.last_error, reading.failures = message.outcome, None, 0
        reading.last_success_at = self._unix_now()
        return self._config.discovery.interval_s

    def _learn_quotes(self, message: _Polled) -> float:
        """Keep what the feed said. Returns the seconds until the next poll."""
        feed = self._config.tokenstats
        assert feed is not None
        unix_now = self._unix_now()
        if isinstance(message.outcome, PollFailed):
            error = message.outcome.error
            self._board.count(polls_failed=1)
            if error != self._market.last_error:
                logger.warning("market feed: %s", error)
            self._market = evolve(self._market, last_poll_at=unix_now, last_error=error, notes=(message.outcome.note,))
        else:
            self._board.count(polls_ok=1)
            answer = message.outcome
            self._book = take_in(answer, feed, unix_now=unix_now, now=trio.current_time())
            self._market = evolve(
                self._market,
                last_poll_at=unix_now,
                last_success_at=unix_now,
                last_error=None,
                quotes_seen=answer.quotes_seen,
                nodes_seen=answer.nodes_seen,
                notes=answer.notes,
            )
        return max(MIN_POLL_S, feed.poll_interval_secs)

    # -- asks

    async def _refresh(self) -> MarketReport | None:
        jobs = self._jobs()
        for job in jobs:
            self._begin(job)
        if not jobs:
            if self._applied is None:
                await self._apply()
            return self._board.report
        self._waiting.append((jobs, self.take_reply()))
        return None

    def _settle(self, job: _Job) -> None:
        """Answer those for whom this was the last one."""
        still = []
        for jobs, reply in self._waiting:
            jobs.discard(job)
            if jobs:
                still.append((jobs, reply))
            else:
                reply.set(self._board.report)
        self._waiting = still

    async def _use(self, config: Config) -> None:
        before, self._config = self._config, config
        known = self._readings
        self._readings = {each.name: _continued(known.get(each.name), each) for each in _discoverable(config)}
        same = {_Job(name) for name, reading in self._readings.items() if reading is known.get(name)}
        if _same_feed(before.tokenstats, config.tokenstats):
            same.add(_FEED)
        else:
            self._book = None
            self._market = _market_of(config.tokenstats)
        jobs = self._jobs()
        for job in {*self._runs, *self._timers} - (same & jobs):
            self._drop(job)
        for job in jobs:
            self._begin(job)
        await self._apply()
        for job in {job for waiting, _ in self._waiting for job in waiting} - jobs:
            self._settle(job)

    def _drop(self, job: _Job) -> None:
        self._cancel_timer(job)
        run = self._runs.pop(job, None)
        if run is not None:
            run.scope.cancel()

    def _cancel_timer(self, job: _Job) -> None:
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()

    # -- what comes of it

    async def _apply(self) -> None:
        """Have the fleet run what is wanted now, and publish the report."""
        now = trio.current_time()
        providers = [self._as_found(provider) for provider in self._config.providers]
        merged = merge(providers, self._book, self._config.tokenstats, now=now + EXPIRY_STEP_S)
        if merged.wanted != self._applied:
            with trio.fail_after(APPLY_BOUND_S):
                await self._fleet.apply(merged.wanted)
            self._applied = merged.wanted
            self._board.count(applied=1)
        self._expect_expiry(merged.next_expiry, now)
        self._publish(merged)
        for reply in self._not_ready:
            reply.set(self._board.report)
        self._not_ready.clear()

    def _as_found(self, provider: ProviderConfig) -> ProviderConfig:
        reading = self._readings.get(provider.name)
        if reading is None or reading.found is None:
            return provider
        return with_found(provider, reading.found)

    def _expect_expiry(self, at: float | None, now: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = None if at is None else self.send_after(at - now, _Expired())

    def _publish(self, merged: Merged) -> None:
        self._board.publish(
            evolve(
                self._market,
                routable_market_providers=merged.routable,
                skipped=merged.skipped,
                quarantined=merged.quarantined,
                discovery=tuple(reading.state() for reading in self._readings.values()),
            )
        )


def _discoverable(config: Config) -> Sequence[ProviderConfig]:
    """A pretended provider is in this process: what it serves is what the file says."""
    return [provider for provider in config.providers if provider.auto_discover and not provider.is_mock]


def _continued(reading: _Reading | None, provider: ProviderConfig) -> _Reading:
    """The same reading while the question is the same, else a new one."""
    if reading is None or _question(reading.provider) != _question(provider):
        return _Reading(provider)
    reading.provider = provider
    return reading


def _question(provider: ProviderConfig) -> tuple[object, ...]:
    return provider.url, provider.api_key, provider.proxy


def _kept(reading: _Reading) -> str:
    if reading.found is not None:
        return f"the {len(reading.found)} models it last listed"
    written = len(reading.provider.models)
    return f"the {written} models of the configuration" if written else "nothing until they can"


def _market_of(feed: TokenstatsConfig | None) -> MarketReport:
    if feed is None:
        return MarketReport()
    return MarketReport(enabled=True, url=feed.url.rstrip("/"), notes=("the market feed has not answered yet",))


def _same_feed(one: TokenstatsConfig | None, other: TokenstatsConfig | None) -> bool:
    """Its answer, and how long that is good for, would be the same."""
    if one is None or other is None:
        return one is other
    return (one.url, one.source, one.blend_ratio, one.stale_after_secs) == (
        other.url,
        other.source,
        other.blend_ratio,
        other.stale_after_secs,
    )
