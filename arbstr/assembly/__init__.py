"""The supervision tree: what starts when, what replaces whom, and how all of it stops.

Start: store, accounts, providers, market, requests, edge. Stop is the reverse, and each part stops only when nothing
above it can need it any more: the edge lets requests end, accounts answer their last messages, the store writes what is
queued.
"""

from arbstr.assembly._collector import relaxed_collector
from arbstr.assembly._reload import Reloader
from arbstr.assembly._serve import serve
from arbstr.assembly._vault_alone import serve_vault

__all__ = ["Reloader", "relaxed_collector", "serve", "serve_vault"]
