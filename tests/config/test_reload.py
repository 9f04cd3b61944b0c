from __future__ import annotations

from pathlib import Path

from attrs import evolve

from arbstr.config import Config, DatabaseConfig, ProviderConfig, RoutingConfig, ServerConfig, VaultConfig, reloaded

RUNNING = Config(server=ServerConfig(listen="127.0.0.1:1"), providers=(ProviderConfig("a", "mock://a"),))


def test_nothing_is_named_when_nothing_changed() -> None:
    result = reloaded(RUNNING, evolve(RUNNING, warnings=("a word",)))
    assert (result.changed, result.needs_restart) == ((), ())


def test_what_can_take_over_does_when_it_changed() -> None:
    wanted = evolve(
        RUNNING,
        providers=(),
        routing=RoutingConfig(retries=0),
        server=ServerConfig(listen="127.0.0.1:1", heartbeat_s=5),
    )
    result = reloaded(RUNNING, wanted)
    assert result.config == wanted
    assert result.changed == ("server.heartbeat_s", "providers", "routing")
    assert result.needs_restart == ()


def test_what_needs_a_restart_stays_as_it_is_and_is_named() -> None:
    wanted = evolve(
        RUNNING,
        server=ServerConfig(listen="127.0.0.1:2", stream_cost_event=True),
        database=DatabaseConfig(path=Path("other.db")),
        vault=VaultConfig(),
    )
    result = reloaded(RUNNING, wanted)
    assert result.config == evolve(RUNNING, server=ServerConfig(listen="127.0.0.1:1", stream_cost_event=True))
    assert result.changed == ("server.stream_cost_event",)
    assert result.needs_restart == ("server.listen", "database", "vault")
