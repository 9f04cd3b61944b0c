"""How much one client, and all together, may ask for: requests and tokens per minute, requests at once, and per second.

Pure but for its memory: times come in. A bucket remembers what has been used and forgets it evenly, a whole allowance
in one period; so an allowance that changes at a reload applies at once, and nobody starts anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import ceil
from typing import Final, Protocol

from attrs import define, field, frozen

from arbstr.config import Limit, LimitsConfig
from arbstr.errors import PermissionRefused, RateLimited
from arbstr.requests._interface import Caller

HeaderList = tuple[tuple[bytes, bytes], ...]

MAX_CLIENTS: Final = 10_000
"""Remembered at once, beside those with a request in flight; the one that was not seen for longest is forgotten."""
SOON_S: Final = 1.0
"""When to come back for a place among the requests in flight: nobody knows."""
_LOOKS: Final = 8
"""For somebody to forget, each time that somebody new comes."""
_MINUTE_S: Final = 60.0
_DUST: Final = 1e-6
"""Of a request or a token: what is lost in rounding must not refuse anybody who waited as long as told."""


@define(eq=False)
class _Bucket:
    """What has been used of an allowance that comes back evenly, all of it in ``period_s`` seconds."""

    period_s: float
    used: float = 0.0
    _at: float = 0.0

    def left(self, allowance: int, now: float) -> float:
        """Negative when more was used than could be known beforehand."""
        if self.used:
            self.used = max(0.0, self.used - (now - self._at) * allowance / self.period_s)
        self._at = now
        return allowance - self.used

    def wait_s(self, cost: int, allowance: int, now: float) -> float:
        """Seconds until ``cost`` fits; 0 now. What is more than the whole allowance fits when all of that is there."""
        missing = min(cost, allowance) - self.left(allowance, now)
        return 0.0 if missing <= _DUST else missing * self.period_s / allowance

    def full_in_s(self, allowance: int, now: float) -> float:
        return (allowance - self.left(allowance, now)) * self.period_s / allowance

    def add(self, cost: int, allowance: int, now: float) -> None:
        """Use; with a negative ``cost``, give back."""
        self.left(allowance, now)
        self.used = max(0.0, self.used + cost)


@define(eq=False)
class _Use:
    """Of one client, or of all together."""

    requests: _Bucket = field(factory=lambda: _Bucket(_MINUTE_S))
    tokens: _Bucket = field(factory=lambda: _Bucket(_MINUTE_S))
    calls: _Bucket = field(factory=lambda: _Bucket(1.0))
    in_flight: int = 0


@frozen
class _Bound:
    """A limit, whose use counts against it, and who that is, in words."""

    use: _Use
    limit: Limit
    whose: str


class Place(Protocol):
    """One request's place under the limits, wherever they are kept."""

    @property
    def headers(self) -> HeaderList:
        """OpenAI's ``x-ratelimit-*``, as things stood when it came in."""

    def spent(self, tokens: int, now: float) -> None: ...

    def leave(self, now: float) -> None: ...


class Door(Protocol):
    """Limits that are kept in another process, for several processes together."""

    async def enter(self, caller: Caller, *, models: tuple[str, ...], tokens: int) -> Place:
        """Raises PermissionRefused, RateLimited, and LedgerUnavailable when nobody can say."""
        ...

    async def touch(self, caller: Caller) -> HeaderList:
        """Raises RateLimited, LedgerUnavailable."""
        ...


@define(eq=False)
class Pass:
    """One request's place: tell it what was ``spent`` once that is known, and ``leave`` when the request has ended."""

    headers: HeaderList = ()
    """OpenAI's ``x-ratelimit-*``, as things stood when it came in."""
    _bounds: tuple[_Bound, ...] = ()
    _tokens: int = 0
    _known: bool = False

    def spent(self, tokens: int, now: float) -> None:
        """It has used this many tokens, whatever was expected."""
        self._known = True
        difference, self._tokens = tokens - self._tokens, tokens
        if difference:
            for bound in self._bounds:
                if bound.limit.tokens_per_minute is not None:
                    bound.use.tokens.add(difference, bound.limit.tokens_per_minute, now)

    def leave(self, now: float) -> None:
        """Give the place back; with it what nobody has spent. A second call changes nothing."""
        if not self._known:
            self.spent(0, now)
        for bound in self._bounds:
            bound.use.in_flight -= 1
        self._bounds = ()


@frozen
class _Terms:
    """What one agent may: ``models`` empty means any."""

    limit: Limit
    models: frozenset[str] = frozenset()


class Limits:
    """Who may come in now. Used on the Trio thread only; no method waits."""

    def __init__(self, config: LimitsConfig | None = None, *, rate_limit_rps: int = 0) -> None:
        self._clients: OrderedDict[str, _Use] = OrderedDict()
        self._all = _Use()
        self.configure(config or LimitsConfig(), rate_limit_rps=rate_limit_rps)

    def configure(self, config: LimitsConfig, *, rate_limit_rps: int) -> None:
        """From now on these apply, to what has already been used as well. ``rate_limit_rps`` 0: any number."""
        self._total = config.total
        self._usual = _Terms(config.agent)
        self._terms = {
            one.agent: _Terms(_over(one.limit, config.agent), frozenset(one.models)) for one in config.agents
        }
        self._rps = rate_limit_rps
        self._limited = bool(rate_limit_rps or config.agents) or config.total != Limit() or config.agent != Limit()

    @property
    def limited(self) -> bool:
        """There is a limit for anybody."""
        return self._limited

    @property
    def counts_calls(self) -> bool:
        """Calls that are for no model are limited."""
        return bool(self._rps)

    @property
    def in_flight(self) -> int:
        """Requests that came in under a limit and have not left."""
        return self._all.in_flight

    @property
    def clients(self) -> int:
        """How many are remembered."""
        return len(self._clients)

    def check_models(self, caller: Caller, models: Iterable[str]) -> None:
        """``models`` are names of one model; one that is allowed is enough. Raises PermissionRefused (403)."""
        if not self._terms:
            return
        allowed, asked = self._terms_of(caller).models, tuple(models)
        if allowed and not allowed.intersection(asked):
            raise PermissionRefused(
                f"{caller.name} may not use model {asked[0][:200]!r}; it may use {', '.join(sorted(allowed))}",
                reason="model_not_allowed",
            )

    def enter(self, caller: Caller, *, models: Iterable[str], tokens: int, now: float) -> Pass:
        """Let in a request that is expected to use ``tokens``, or raise and count nothing.

        Raises PermissionRefused (403) for the model, RateLimited (429) for everything else.
        """
        if not self._limited:
            return Pass()
        self.check_models(caller, models)
        use = self._use_of(caller)
        own = _Bound(use, self._terms_of(caller).limit, "this client")
        bounds = (own, _Bound(self._all, self._total, "all clients together"))
        self._check_rps(use, now)
        for bound in bounds:
            _check(bound, tokens, now)
        self._count_call(use, now)
        for bound in bounds:
            _count(bound, tokens, now)
        return Pass((*self._request_headers(bounds, now), *_token_headers(bounds, now)), bounds, tokens)

    def touch(self, caller: Caller, now: float) -> HeaderList:
        """Count a call that is for no model, against the calls per second alone. Raises RateLimited (429)."""
        if not self._rps:
            return ()
        use = self._use_of(caller)
        self._check_rps(use, now)
        self._count_call(use, now)
        return _headers("requests", use.calls, self._rps, now)

    def _terms_of(self, caller: Caller) -> _Terms:
        if not self._terms or caller.role != "agent":
            return self._usual
        by_id = None if caller.agent_id is None else self._terms.get(caller.agent_id)
        return by_id or self._terms.get(caller.name, self._usual)

    def _use_of(self, caller: Caller) -> _Use:
        key = caller.client or caller.agent_id or caller.name
        use = self._clients.get(key)
        if use is not None:
            self._clients.move_to_end(key)
            return use
        self._make_room()
        use = self._clients[key] = _Use()
        return use

    def _make_room(self) -> None:
        for _ in range(_LOOKS):
            if len(self._clients) < MAX_CLIENTS:
                return
            key, use = self._clients.popitem(last=False)
            if use.in_flight:  # its place must be found again
                self._clients[key] = use

    def _check_rps(self, use: _Use, now: float) -> None:
        if self._rps:
            wait_s = use.calls.wait_s(1, self._rps, now)
            if wait_s:
                headers = _headers("requests", use.calls, self._rps, now)
                raise _refusal("this client", "requests per second", self._rps, wait_s, headers)

    def _count_call(self, use: _Use, now: float) -> None:
        if self._rps:
            use.calls.add(1, self._rps, now)

    def _request_headers(self, bounds: tuple[_Bound, ...], now: float) -> HeaderList:
        tightest = _tightest([(one.use.requests, one.limit.requests_per_minute) for one in bounds], now)
        if tightest is None and self._rps:
            tightest = bounds[0].use.calls, self._rps
        return () if tightest is None else _headers("requests", *tightest, now)


def _token_headers(bounds: tuple[_Bound, ...], now: float) -> HeaderList:
    tightest = _tightest([(one.use.tokens, one.limit.tokens_per_minute) for one in bounds], now)
    return () if tightest is None else _headers("tokens", *tightest, now)


def _tightest(buckets: list[tuple[_Bucket, int | None]], now: float) -> tuple[_Bucket, int] | None:
    """Of those that have a limit, the one with the least left."""
    limited = [(bucket, allowance) for bucket, allowance in buckets if allowance is not None]
    return min(limited, key=lambda one: one[0].left(one[1], now), default=None)


def _check(bound: _Bound, tokens: int, now: float) -> None:
    use, limit = bound.use, bound.limit
    at_once = limit.concurrent_requests
    if at_once is not None and use.in_flight >= at_once:
        raise _refusal(bound.whose, "requests at once", at_once, SOON_S, ())
    for bucket, cost, allowance, what in (
        (use.requests, 1, limit.requests_per_minute, "requests"),
        (use.tokens, tokens, limit.tokens_per_minute, "tokens"),
    ):
        wait_s = 0.0 if allowance is None else bucket.wait_s(cost, allowance, now)
        if allowance is not None and wait_s:
            headers = _headers(what, bucket, allowance, now)
            raise _refusal(bound.whose, f"{what} per minute", allowance, wait_s, headers)


def _count(bound: _Bound, tokens: int, now: float) -> None:
    use, limit = bound.use, bound.limit
    use.in_flight += 1
    if limit.requests_per_minute is not None:
        use.requests.add(1, limit.requests_per_minute, now)
    if limit.tokens_per_minute is not None:
        use.tokens.add(tokens, limit.tokens_per_minute, now)


def _refusal(whose: str, what: str, allowance: int, wait_s: float, headers: HeaderList) -> RateLimited:
    return RateLimited(
        f"Rate limit reached for {whose}: {allowance} {what}; try again in {go_duration(wait_s)}",
        retry_after_s=wait_s,
        headers=headers,
        details={"limit": allowance, "limited": what},
    )


def _headers(what: str, bucket: _Bucket, allowance: int, now: float) -> HeaderList:
    name, left = what.encode(), max(0, int(bucket.left(allowance, now) + _DUST))
    return (
        (b"x-ratelimit-limit-" + name, b"%d" % allowance),
        (b"x-ratelimit-remaining-" + name, b"%d" % left),
        (b"x-ratelimit-reset-" + name, go_duration(bucket.full_in_s(allowance, now)).encode()),
    )


def go_duration(seconds: float) -> str:
    """As Go prints a duration, and OpenAI sends it: ``120ms``, ``1s``, ``8.64s``, ``6m0s``, ``1h0m0s``. Rounded up."""
    milliseconds = ceil(seconds * 1_000 - _DUST)
    if 0 < milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 1_000}.{rest % 1_000:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _over(limit: Limit, usual: Limit) -> Limit:
    """``limit``, and ``usual`` where it says nothing."""
    return Limit(
        *(
            ours if theirs is None else theirs
            for theirs, ours in (
                (limit.requests_per_minute, usual.requests_per_minute),
                (limit.tokens_per_minute, usual.tokens_per_minute),
                (limit.concurrent_requests, usual.concurrent_requests),
            )
        )
    )
