"""The market feed "tokenstats": what is asked there, and reading what it answers (contract section 16.1).

Lenient about what is missing or odd, exact about what is used: a rate is a decimal or nothing, never a float, and what
is not known is never 0 (quirk Q29). One row that makes no sense costs that row. The feed decides nothing here: whether
a quote is used, believed and bought is for ``_merge``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final

import httpx
import trio
from attrs import field, frozen

from arbstr.config import TokenstatsConfig
from arbstr.market._discovery import is_model_id
from arbstr.market._fetch import FetchFailed, get_json
from arbstr.units import Price

MAX_QUOTES: Final = 2_000
"""As many as are asked for; more are left unread."""
ROWS_AT_ONCE: Final = 50
MAX_NODES: Final = 10_000
MAX_HEALTH_BYTES: Final = 64 << 10
MAX_QUOTES_BYTES: Final = 4 << 20
"""Two thousand quotes of two kilobytes each; they have about 300 bytes."""
MAX_NODES_BYTES: Final = 4 << 20
TIMEOUT_S: Final = 5.0
"""For each of the three answers."""
MAX_TEXT: Final = 256
MAX_ENDPOINT: Final = 1_024
MAX_DECIMALS: Final = 40
MAX_RATE: Final = 10**12
"""Sats per million tokens: ten thousand bitcoin. Beyond it, it is no price."""
UNIT: Final = "sats_per_1m_tokens"
DEFAULT_RATIO: Final = 3.0
"""The blend ratio that the feed uses unless it is told another."""

_KEYED_LISTS: Final = ("quotes", "nodes", "data", "items")


@frozen
class Quote:
    """What the feed says that one host asks for one model. Rates in sats per 1,000,000 tokens, possibly negative."""

    source: str
    provider: str
    """Display name; may be empty."""
    provider_id: str
    model: str
    endpoint: str
    """Base URL in normal form (``normal_endpoint``)."""
    input_rate: Fraction | None
    """None: not known, so it cannot be bought."""
    output_rate: Fraction | None
    observed_at: float | None
    """Seconds since 1970, UTC; None: the feed does not say."""
    price: Price | None = field(init=False)
    """Both rates, without a base fee. None: one is not known, or negative."""

    @price.default
    def _priced(self) -> Price | None:
        # Here and not in each merge: it is half of the work that a quote makes.
        input_rate, output_rate = self.input_rate, self.output_rate
        if input_rate is None or output_rate is None or min(input_rate.numerator, output_rate.numerator) < 0:
            return None
        return Price.of(input_rate, output_rate, unit=UNIT)


@frozen
class FeedAnswer:
    """All that one poll brought."""

    quotes: tuple[Quote, ...]
    reliability: Mapping[str, Decimal] = field(factory=dict)
    """By provider id, for the nodes that have one."""
    quotes_seen: int = 0
    """Rows, of whatever use."""
    nodes_seen: int = 0
    notes: tuple[str, ...] = ()
    """Sentences for the operator."""


class PollFailed(Exception):
    """The feed has nothing to go by now. ``error`` is a sentence without address; ``note`` says what it means."""

    def __init__(self, error: str, note: str) -> None:
        super().__init__(error)
        self.error = error
        self.note = note


async def poll(
    transport: httpx.AsyncBaseTransport, config: TokenstatsConfig, *, timeout_s: float = TIMEOUT_S
) -> FeedAnswer:
    """Ask for health, quotes and nodes, in this order. Takes at most three times ``timeout_s``. Raises PollFailed."""
    base = config.url.rstrip("/")
    notes: list[str] = []
    try:
        health = await get_json(transport, f"{base}/health", timeout_s=timeout_s, max_bytes=MAX_HEALTH_BYTES)
    except FetchFailed as error:
        raise PollFailed(f"health: {error}", "the feed is not healthy; the last known prices are kept") from None
    notes.extend(_health_notes(health))
    try:
        raw_quotes = await get_json(
            transport,
            f"{base}/api/quotes",
            timeout_s=timeout_s,
            max_bytes=MAX_QUOTES_BYTES,
            query=_quotes_query(config),
        )
        quotes, quotes_seen, quote_notes = await read_quotes(raw_quotes)
    except FetchFailed as error:
        raise PollFailed(f"quotes: {error}", "the feed gave no quotes; the last known prices are kept") from None
    notes.extend(quote_notes)
    try:
        raw_nodes = await get_json(transport, f"{base}/api/nodes", timeout_s=timeout_s, max_bytes=MAX_NODES_BYTES)
        reliability, nodes_seen = parse_nodes(raw_nodes)
    except FetchFailed as error:
        reliability, nodes_seen = {}, 0
        notes.append(f"no reliability data: {error}")
    return FeedAnswer(quotes, reliability, quotes_seen, nodes_seen, tuple(notes))


def _quotes_query(config: TokenstatsConfig) -> dict[str, str]:
    query = {"limit": str(MAX_QUOTES)}
    if config.source is not None:
        query["source"] = config.source
    if config.blend_ratio != DEFAULT_RATIO:
        query["ratio"] = f"{config.blend_ratio:g}"
    return query


def _health_notes(document: Any) -> Iterable[str]:
    if isinstance(document, dict):
        if document.get("ok") is False:
            yield "the feed says that it is not ok"
        if type(document.get("quotes")) is int and document["quotes"] == 0:
            yield "the feed says that it has no quotes"


# --- Quotes -----------------------------------------------------------------------------------------------------------


class UnreadableQuote(Exception):
    """A row that makes no sense; the text says why."""


async def read_quotes(document: Any) -> tuple[tuple[Quote, ...], int, tuple[str, ...]]:
    """The quotes, how many rows there were, and notes. Raises FetchFailed when there is no list.

    Rows without an endpoint are left out silently: nothing can be bought there. Rows that make no sense are left out
    with a note. Lets others run now and then: two thousand rows take 70 ms.
    """
    rows = _list_in(document)
    quotes: list[Quote] = []
    problems: list[str] = []
    for number, row in enumerate(rows[:MAX_QUOTES]):
        if number % ROWS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        try:
            quote = parse_quote(row)
        except UnreadableQuote as error:
            problems.append(str(error))
        else:
            if quote is not None:
                quotes.append(quote)
    notes = []
    if len(rows) > MAX_QUOTES:
        notes.append(f"the feed sent {len(rows)} quotes, the first {MAX_QUOTES} are used")
    if problems:
        notes.append(f"{len(problems)} quotes make no sense and are left out; the first: {problems[0]}")
    return tuple(quotes), len(rows), tuple(notes)


def _list_in(document: Any) -> list[Any]:
    """A bare list, or the one under a usual name."""
    if isinstance(document, dict):
        document = next((document[key] for key in _KEYED_LISTS if isinstance(document.get(key), list)), None)
    if not isinstance(document, list):
        raise FetchFailed("the answer has no list")
    return document


def parse_quote(row: Any) -> Quote | None:
    """One row; None when it has no endpoint. Raises UnreadableQuote."""
    if not isinstance(row, dict):
        raise UnreadableQuote("it is no object")
    endpoint = row.get("endpoint")
    if endpoint is None or (isinstance(endpoint, str) and not endpoint.strip()):
        return None
    if not is_model_id(row.get("model")):
        raise UnreadableQuote("model is not a name")
    source, provider, provider_id = (_text(row, key) for key in ("source", "provider", "provider_id"))
    if not source or not provider_id:
        raise UnreadableQuote("source or provider_id is empty")
    return Quote(
        source=source,
        provider=provider,
        provider_id=provider_id,
        model=row["model"],
        endpoint=_endpoint(endpoint),
        input_rate=_rate(row, "price_in_sats"),
        output_rate=_rate(row, "price_out_sats"),
        observed_at=_time(row.get("observed_at")),
    )


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise UnreadableQuote(f"{key} is not a text of at most {MAX_TEXT} characters")
    return value.strip()


def normal_endpoint(url: str) -> str:
    """``https://X/api/`` and ``https://x/api/v1`` are one: host in lower case, no slash at the end, ``/v1`` there."""
    text = url.strip().rstrip("/")
    scheme, mark, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    text = f"{scheme.lower()}{mark}{host.lower()}{slash}{path}"
    return text if text.endswith("/v1") else f"{text}/v1"


def _endpoint(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_ENDPOINT:
        raise UnreadableQuote(f"endpoint is not a text of at most {MAX_ENDPOINT} characters")
    normal = normal_endpoint(value)
    try:
        url = httpx.URL(normal)  # as whoever sends requests there will read it
        usable = url.scheme in ("http", "https") and bool(url.host)
    except (httpx.InvalidURL, ValueError):
        raise UnreadableQuote("endpoint is not a URL") from None
    if not usable:
        raise UnreadableQuote("endpoint is not an http or https URL")
    return normal


def _rate(row: dict[str, Any], key: str) -> Fraction | None:
    """Exact; None when the feed does not say. Negative ones are kept: that they are refused must be seen."""
    value = row.get(key)
    if value is None:
        return None
    number = _number(value)
    if number is None or number.adjusted() > 18 or number.copy_abs() > MAX_RATE or _exponent(number) < -MAX_DECIMALS:
        raise UnreadableQuote(f"{key} is not a price")
    return Fraction(number)


def _number(value: Any) -> Decimal | None:
    """A finite number, written as one or as text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        try:
            value = Decimal(value.strip())
        except InvalidOperation:
            return None
    if isinstance(value, int):
        value = Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # the others are for NaN and infinities
    return exponent


def _time(value: Any) -> float | None:
    """Seconds since 1970 from RFC 3339 text (without an offset: UTC) or a number of seconds or milliseconds."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and not value.strip().replace(".", "", 1).isdigit():
            moment = datetime.fromisoformat(value.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UnreadableQuote("observed_at is not a time") from None
    number = _number(value)
    if number is None or not 0 <= number < 10**15:
        raise UnreadableQuote("observed_at is not a time")
    return float(number) if number < 10**11 else float(number) / 1_000  # seconds reach 10**11 in the year 5138


# --- Nodes ------------------------------------------------------------------------------------------------------------


def parse_nodes(document: Any) -> tuple[dict[str, Decimal], int]:
    """Reliability by provider id, and how many rows there were. What is missing or odd counts as not known.

    A provider that is listed several times is as reliable as its worst row. Raises FetchFailed when there is no list.
    """
    rows = _list_in(document)
    found: dict[str, Decimal] = {}
    for row in rows[:MAX_NODES]:
        if not isinstance(row, dict) or not isinstance(row.get("provider_id"), str):
            continue
        reliability = _number(row.get("reliability"))
        if reliability is not None:
            name = row["provider_id"].strip()[:MAX_TEXT]
            found[name] = min(found.get(name, reliability), reliability)
    return found, len(rows)
