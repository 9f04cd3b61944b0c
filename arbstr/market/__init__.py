"""The market: which providers there are, what they ask, and whether that can be meant."""

from arbstr.market._catalog import CatalogActor, Fleet, Refresh, UseConfig, WhenReady
from arbstr.market._discovery import FoundModel, discover, parse_models
from arbstr.market._feed import (
    FeedAnswer,
    PollFailed,
    Quote,
    UnreadableQuote,
    normal_endpoint,
    parse_nodes,
    parse_quote,
    poll,
    read_quotes,
)
from arbstr.market._fetch import FetchFailed, get_json
from arbstr.market._merge import HeldQuote, Merged, QuoteBook, merge, take_in, with_found
from arbstr.market._report import DiscoveryState, MarketBoard, MarketCounts, MarketReport, Quarantined, Skipped
from arbstr.market._sanity import Listing, quarantined

__all__ = [
    "CatalogActor",
    "DiscoveryState",
    "FeedAnswer",
    "FetchFailed",
    "Fleet",
    "FoundModel",
    "HeldQuote",
    "Listing",
    "MarketBoard",
    "MarketCounts",
    "MarketReport",
    "Merged",
    "PollFailed",
    "Quarantined",
    "Quote",
    "QuoteBook",
    "Refresh",
    "Skipped",
    "UnreadableQuote",
    "UseConfig",
    "WhenReady",
    "discover",
    "get_json",
    "merge",
    "normal_endpoint",
    "parse_models",
    "parse_nodes",
    "parse_quote",
    "poll",
    "quarantined",
    "read_quotes",
    "take_in",
    "with_found",
]
