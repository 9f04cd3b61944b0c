"""The way to a vault in another process."""

from __future__ import annotations

from contextlib import AsyncExitStack

from actors import ActorSystem
from arbstr.accounts import Backlog, RemoteBank, Settlements, VaultClient
from arbstr.assembly._vault import supervised
from arbstr.config import VaultConfig
from arbstr.providers import PooledTransport
from arbstr.store import Ledger

CONNECTIONS = 256
"""At once; who waits for one waits within the time of its call."""


async def open_bank(system: ActorSystem, ledger: Ledger, config: VaultConfig, stack: AsyncExitStack) -> RemoteBank:
    """Speak to ``config.url``, and take up what it is still owed. ``stack`` closes the connections."""
    assert config.url is not None
    assert config.internal_token is not None, "the configuration is checked"
    transport = PooledTransport(max_connections=CONNECTIONS, tls=config.url.startswith("https:"))
    stack.push_async_callback(transport.aclose)
    client = VaultClient(config.url.rstrip("/"), config.internal_token, transport)
    backlog = Backlog()
    settlements = await supervised(system, lambda: Settlements(ledger, client, backlog))
    return RemoteBank(ledger, client, settlements, backlog, pending_threshold=config.pending_threshold)
