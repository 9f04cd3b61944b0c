"""What of a new configuration can take over while the program runs, and what has to wait for a restart. Pure."""

from __future__ import annotations

import attrs
from attrs import frozen

from arbstr.config._schema import Config, ServerConfig

LIVE_SERVER_KEYS = frozenset(("stream_cost_event", "heartbeat_s", "rate_limit_rps"))
"""Of ``[server]``: the rest is what the listening socket and its bounds were made with."""
_FIXED = ("database", "vault", "telemetry")


@frozen
class Reloaded:
    """``config`` is to be used from now on. Names of keys and tables, as they are written in the file."""

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    """Changed in the file, and still as before in ``config``."""


def reloaded(running: Config, wanted: Config) -> Reloaded:
    """``wanted`` as far as it can be had: what needs a restart stays as it is in ``running``."""
    server = {key: getattr(wanted.server, key) for key in LIVE_SERVER_KEYS}
    kept = {name: getattr(running, name) for name in _FIXED}
    config = attrs.evolve(wanted, server=attrs.evolve(running.server, **server), **kept)
    return Reloaded(config, _differences(running, config), _differences(config, wanted))


def _differences(one: Config, other: Config) -> tuple[str, ...]:
    names = [field.name for field in attrs.fields(Config) if field.name not in ("server", "warnings")]
    found = [name for name in names if getattr(one, name) != getattr(other, name)]
    keys = [field.name for field in attrs.fields(ServerConfig)]
    return (*(f"server.{key}" for key in keys if getattr(one.server, key) != getattr(other.server, key)), *found)
