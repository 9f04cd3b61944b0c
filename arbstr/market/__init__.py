"""The market: which providers there are, what they ask, and whether that can be meant."""

from arbstr.market._sanity import Listing, quarantined

__all__ = ["Listing", "quarantined"]
