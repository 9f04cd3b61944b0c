"""Which providers are wanted: those of the file, with what they say they serve and what the market says they ask.

Pure: values in, values out, no clock (contract section 16.2, quirks Q28 and Q29). Whatever cannot be priced, is too old
or cannot be meant stays where it is with the reason in ``Model.excluded`` (M9); routing leaves it out for that.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import chain, count
from typing import Final, NamedTuple

from attrs import evolve, field, frozen

from arbstr.config import Model, ProviderConfig, TokenstatsConfig
from arbstr.market._discovery import FoundModel
from arbstr.market._feed import UNIT, FeedAnswer, Quote, normal_endpoint
from arbstr.market._report import Quarantined, Skipped
from arbstr.market._sanity import Listing, quarantined
from arbstr.secrets import Secret
from arbstr.units import MSAT_PER_SAT, Price

MAX_PROVIDERS: Final = 256
"""New ones from the feed: a key for a whole source must not let the feed start any number of them."""
MAX_NAME: Final = 128
ALWAYS_RELIABLE: Final = "openrouter"
"""A source without nodes of its own."""


# --- What a provider serves -------------------------------------------------------------------------------------------


def with_found(provider: ProviderConfig, found: Iterable[FoundModel]) -> ProviderConfig:
    """``provider`` with its own list in place of the written one, in the provider's order.

    What the file says about a model of that list (alias, price, limits) stays; limits it does not give are filled in.
    Whether it is asked for models it does not list stays as it is.
    """
    written: defaultdict[str, list[Model]] = defaultdict(list)
    for model in provider.models:
        written[_upstream_id(model)].append(model)
    # An alias of the file beats a model of the provider that happens to have that name.
    aliases = {model.id for model in provider.models if _upstream_id(model) != model.id}
    models = [
        _limited(model, one)
        for one in found
        for model in written.get(one.id) or [Model(one.id)]
        if model.id not in aliases or _upstream_id(model) != model.id
    ]
    return evolve(provider, models=models) if models else provider


def _limited(model: Model, found: FoundModel) -> Model:
    return evolve(
        model,
        context_tokens=_first(model.context_tokens, found.context_tokens),
        max_output_tokens=_first(model.max_output_tokens, found.max_output_tokens),
    )


def _upstream_id(model: Model) -> str:
    return model.upstream_id or model.id


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


# --- What the market says ---------------------------------------------------------------------------------------------


@frozen
class HeldQuote:
    """A quote and the time of the caller's clock after which nothing is bought by it."""

    quote: Quote
    expires_at: float


@frozen
class QuoteBook:
    """What the last poll that succeeded brought, without what was too old already."""

    held: tuple[HeldQuote, ...] = ()
    reliability: Mapping[str, Decimal] = field(factory=dict)
    dropped: int = 0
    """Too old when they came."""


def take_in(answer: FeedAnswer, config: TokenstatsConfig, *, unix_now: float, now: float) -> QuoteBook:
    """The book for this answer, which came at ``unix_now``, that is ``now`` on the clock that expiry is judged by.

    A quote without a time, or with one in the future, is as old as the answer.
    """
    held = []
    for quote in answer.quotes:
        age_s = 0.0 if quote.observed_at is None else max(0.0, unix_now - quote.observed_at)
        if age_s < config.stale_after_secs:
            held.append(HeldQuote(quote, now + config.stale_after_secs - age_s))
    return QuoteBook(tuple(held), answer.reliability, len(answer.quotes) - len(held))


# --- Both together ----------------------------------------------------------------------------------------------------


@frozen
class Merged:
    """``wanted`` is complete: file first, in its order, then the market's, by name of source and provider."""

    wanted: tuple[ProviderConfig, ...]
    skipped: tuple[Skipped, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    routable: int = 0
    """New providers with a model that may be bought."""
    next_expiry: float | None = None
    """When a quote that is good now will not be any more."""


class _Key(NamedTuple):
    source: str
    provider_id: str
    endpoint: str


class _Offer(NamedTuple):
    """A quote and why it must not be bought: "" when it may."""

    quote: Quote
    expired: str
    absurd: str

    @property
    def usable(self) -> bool:
        return self.quote.price is not None and not self.expired and not self.absurd


_Group = dict[str, _Offer]
"""By model."""


def merge(
    providers: Sequence[ProviderConfig], book: QuoteBook | None, config: TokenstatsConfig | None, *, now: float
) -> Merged:
    """The providers that are wanted ``now``, on the clock of the book, and what is told about it.

    ``providers`` are those of the file, with what they have been found to serve. Without a feed, or before its first
    answer, they are wanted as they are.
    """
    if book is None or config is None:
        return Merged(tuple(providers))
    groups, skipped = _usable_groups(book, config)
    own = {normal_endpoint(provider.url) for provider in providers if not provider.is_mock}
    keys: dict[_Key, Secret] = {}
    for key, quotes in groups.items():
        found = _api_key(config.keys, key)
        if found is not None:
            keys[key] = found
        elif key.endpoint not in own:
            skipped.append(_missing_key(key, quotes))
    bought = {key for key in groups if key.endpoint in own or key in keys}
    absurd = _judge(providers, groups, bought, config, now)
    offers = {key: _offers(groups[key], absurd, config, now) for key in sorted(bought)}
    skipped.extend(_unpriced(key, offers[key], groups[key]) for key in offers if _count_unpriced(offers[key]))
    wanted = [_overlaid(provider, offers) for provider in providers]
    fresh = _new_providers(
        {key: group for key, group in offers.items() if key.endpoint not in own},
        keys,
        config,
        {provider.name for provider in providers},
        skipped,
    )
    expired = sum(held.expires_at <= now for held in book.held)
    if book.dropped + expired:
        skipped.append(_stale(book.dropped + expired, config))
    wanted.extend(fresh)
    return Merged(
        tuple(wanted),
        tuple(skipped),
        _quarantined_models(wanted, offers),
        sum(any(model.excluded is None for model in provider.models) for provider in fresh),
        min((held.expires_at for held in book.held if held.expires_at > now), default=None),
    )


def _usable_groups(book: QuoteBook, config: TokenstatsConfig) -> tuple[dict[_Key, list[HeldQuote]], list[Skipped]]:
    """Quotes by host, without the hosts that are not reliable enough and the sources that are not asked for."""
    only = None if config.source is None else config.source.casefold()
    groups: defaultdict[_Key, list[HeldQuote]] = defaultdict(list)
    for held in book.held:
        quote = held.quote
        if only is None or quote.source.casefold() == only:
            groups[_Key(quote.source, quote.provider_id, quote.endpoint)].append(held)
    usable, skipped = {}, []
    for key in sorted(groups):
        reliability = book.reliability.get(key.provider_id)
        low = reliability is not None and reliability < config.min_reliability
        if low and key.source.casefold() != ALWAYS_RELIABLE:
            skipped.append(_unreliable(key, groups[key], float(reliability or 0), config))
        else:
            usable[key] = groups[key]
    return usable, skipped


def _api_key(keys: Mapping[str, Secret], key: _Key) -> Secret | None:
    for name in (key.provider_id, key.source, f"{key.source}:{key.provider_id}"):
        if name in keys:
            return keys[name]
    return None


# --- Which prices are believed ----------------------------------------------------------------------------------------


def _judge(
    providers: Sequence[ProviderConfig],
    groups: Mapping[_Key, Sequence[HeldQuote]],
    bought: Iterable[_Key],
    config: TokenstatsConfig,
    now: float,
) -> dict[int, str]:
    """The reason for each quote (by identity) that cannot be meant.

    Evidence is what anybody asks now for the models that could be bought: also hosts for which there is no key, and the
    prices of the file. Where the feed has a price for a provider of the file, the feed's counts.
    """
    models = {held.quote.model for key in bought for held in groups[key]}
    listings: list[Listing] = []
    judged: list[int | None] = []
    asked = set()
    for group in groups.values():
        for held in group:
            quote = held.quote
            if quote.model in models and held.expires_at > now and quote.input_rate is not None:
                if quote.output_rate is None:
                    continue
                listings.append(Listing(quote.endpoint, quote.model, quote.input_rate, quote.output_rate))
                judged.append(id(quote))
                asked.add((quote.endpoint, quote.model))
    for listing in _written_prices(providers):
        if listing.model in models and (listing.host, listing.model) not in asked:
            listings.append(listing)
            judged.append(None)
    reasons = quarantined(listings, factor=Fraction(config.price_factor))
    return {identity: reason for at, reason in reasons.items() if (identity := judged[at]) is not None}


def _written_prices(providers: Iterable[ProviderConfig]) -> Iterable[Listing]:
    for provider in providers:
        host = provider.url if provider.is_mock else normal_endpoint(provider.url)
        for model in provider.models:
            price = model.price or provider.price
            if price is not None:
                rates = price.input_rate_sats(UNIT), price.output_rate_sats(UNIT)
                yield Listing(host, _upstream_id(model), *rates, trusted=True)


def _offers(
    quotes: Iterable[HeldQuote], absurd: Mapping[int, str], config: TokenstatsConfig, now: float
) -> dict[str, _Offer]:
    """One for each model: of several the one that is good longest, of those the first."""
    best: dict[str, HeldQuote] = {}
    for held in quotes:
        known = best.get(held.quote.model)
        if known is None or held.expires_at > known.expires_at:
            best[held.quote.model] = held
    too_old = f"its price from the market feed is older than {config.stale_after_secs:g} s"
    return {
        model: _Offer(held.quote, too_old if held.expires_at <= now else "", absurd.get(id(held.quote), ""))
        for model, held in best.items()
    }


# --- Providers of the file --------------------------------------------------------------------------------------------


def _overlaid(provider: ProviderConfig, groups: Mapping[_Key, _Group]) -> ProviderConfig:
    """``provider`` with the market's prices for its URL. Its own default price, base fee and wildcard stay.

    A quote without a price says nothing. One that is too old gives way to a price of the file, where there is one.
    """
    if provider.is_mock:
        return provider
    endpoint = normal_endpoint(provider.url)
    matching = [key for key in groups if key.endpoint == endpoint]
    if not matching:
        return provider
    offers: dict[str, _Offer] = {}
    for key in matching:
        for model, offer in groups[key].items():
            known = offers.get(model)
            if known is None or (offer.usable and not known.usable):
                offers[model] = offer
    named: set[str] = set()
    models: list[Model] = []
    for one in provider.models:
        found = offers.get(_upstream_id(one))
        named.update((one.id, _upstream_id(one)))
        models.append(one if found is None else _repriced(one, provider.price, found))
    for model, offer in offers.items():
        if model in named or (_price_of(offer.quote, None) is None and not offer.absurd):
            continue
        own = provider.price if provider.any_model else None
        if not (offer.expired and own is not None):  # else it is bought by the file's price, like any other model
            models.append(_repriced(Model(model), own, offer, base=provider.price))
    return evolve(
        provider,
        models=models,
        source=provider.source or matching[0].source,
        provider_id=provider.provider_id or matching[0].provider_id,
    )


def _repriced(model: Model, default: Price | None, offer: _Offer, base: Price | None = None) -> Model:
    """``default`` is the file's price for it if the model has none; ``base`` whose base fee is due, if not that."""
    own = model.price or default
    price = _price_of(offer.quote, own or base)
    if offer.absurd:
        return evolve(model, price=price or model.price, excluded=offer.absurd)
    if price is None:
        return model
    if offer.expired:
        return model if own is not None else evolve(model, price=price, excluded=offer.expired)
    return evolve(model, price=price)


def _price_of(quote: Quote, own: Price | None) -> Price | None:
    """Exact, with the base fee of the file's price. None: a rate is not known, or negative."""
    if quote.price is None or own is None or not own.base:
        return quote.price
    assert quote.input_rate is not None
    assert quote.output_rate is not None
    return Price.of(quote.input_rate, quote.output_rate, own.base_fee_msat / MSAT_PER_SAT, unit=UNIT)


# --- New providers ----------------------------------------------------------------------------------------------------


def _new_providers(
    groups: Mapping[_Key, _Group],
    keys: Mapping[_Key, Secret],
    config: TokenstatsConfig,
    taken: set[str],
    skipped: list[Skipped],
) -> list[ProviderConfig]:
    made: list[ProviderConfig] = []
    for key, offers in groups.items():
        models = [_new_model(offer) for offer in offers.values() if _is_priced(offer.quote)]
        if not models:
            continue
        if len(made) == MAX_PROVIDERS:
            hint = f"the feed may add at most {MAX_PROVIDERS} providers; narrow it with [tokenstats] source or keys"
            skipped.append(_skipped(key, offers, "too_many_providers", hint))
            continue
        name = _free_name(key, next(iter(offers.values())).quote.provider, taken)
        try:
            provider = ProviderConfig(
                name=name,
                url=key.endpoint,
                api_key=keys[key],
                key_source="tokenstats.keys",
                models=models,
                any_model=False,
                price=_cheapest(models, config.blend_ratio),
                source=key.source,
                provider_id=key.provider_id,
                rate_unit=UNIT,
            )
        except ValueError as error:
            skipped.append(_skipped(key, offers, "invalid_endpoint", f"it cannot be a provider: {error}"))
            continue
        taken.add(name)
        made.append(provider)
    return made


def _is_priced(quote: Quote) -> bool:
    return quote.input_rate is not None and quote.output_rate is not None


def _new_model(offer: _Offer) -> Model:
    return Model(offer.quote.model, price=_price_of(offer.quote, None), excluded=offer.absurd or offer.expired or None)


def _cheapest(models: Iterable[Model], blend_ratio: float) -> Price | None:
    """Of those that may be bought; only shown, since each model has its own."""
    ratio = Fraction(blend_ratio or 3)

    def blended(price: Price) -> Fraction:
        return Fraction(ratio.denominator * price.prompt + ratio.numerator * price.completion, price.denominator)

    return min((model.price for model in models if model.price and not model.excluded), key=blended, default=None)


def _free_name(key: _Key, display: str, taken: set[str]) -> str:
    """``<source>-<display name>`` in plain characters; the same feed gives the same names."""
    source, provider_id = _slug(key.source) or "market", _slug(key.provider_id)
    name = f"{source}-{_slug(display) or provider_id or 'provider'}"[:MAX_NAME].rstrip("-")
    if name not in taken:
        return name
    longer = f"{name[:64]}-{provider_id[:48]}".rstrip("-")
    tries = chain((longer,), (f"{longer}-{number}" for number in count(2)))
    return next(each for each in tries if each not in taken)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text).strip("-")


# --- What is told -----------------------------------------------------------------------------------------------------


def _quarantined_models(providers: Iterable[ProviderConfig], groups: Mapping[_Key, _Group]) -> tuple[Quarantined, ...]:
    absurd = {offer.absurd for group in groups.values() for offer in group.values() if offer.absurd}
    return tuple(
        Quarantined(provider.name, model.id, model.excluded)
        for provider in providers
        for model in provider.models
        if model.excluded is not None and model.excluded in absurd
    )


def _skipped(
    key: _Key, quotes: Mapping[str, _Offer] | Sequence[HeldQuote], reason: str, hint: str, **more: float
) -> Skipped:
    first = next(iter(quotes.values())) if isinstance(quotes, Mapping) else quotes[0]
    return Skipped(key.source, first.quote.provider, key.provider_id, key.endpoint, len(quotes), reason, hint, **more)


def _unreliable(key: _Key, quotes: Sequence[HeldQuote], reliability: float, config: TokenstatsConfig) -> Skipped:
    hint = f"reliability {reliability:g} is below min_reliability = {config.min_reliability:g}"
    return _skipped(key, quotes, "low_reliability", hint, reliability=reliability)


def _missing_key(key: _Key, quotes: Sequence[HeldQuote]) -> Skipped:
    hint = f'write its key into [tokenstats.keys], as "{key.provider_id}", or as "{key.source}" for the whole source'
    return _skipped(key, quotes, "missing_api_key", hint)


def _count_unpriced(offers: _Group) -> int:
    return sum(not _is_priced(offer.quote) for offer in offers.values())


def _unpriced(key: _Key, offers: _Group, quotes: Sequence[HeldQuote]) -> Skipped:
    skipped = _skipped(key, quotes, "unknown_price", "the feed gives no price; what cannot be priced is not bought")
    return evolve(skipped, models_count=_count_unpriced(offers))


def _stale(count: int, config: TokenstatsConfig) -> Skipped:
    hint = f"older than stale_after_secs = {config.stale_after_secs:g}"
    return Skipped("*", "*", "*", None, count, "stale_quotes", hint)
