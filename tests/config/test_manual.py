"""The example file and the manual name every key, and the defaults they state are the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from arbstr.config import (
    SCHEMA_KEYS,
    Config,
    DiscoveryConfig,
    ProviderConfig,
    RoutingConfig,
    ServerConfig,
    TokenstatsConfig,
    VaultConfig,
    loads,
)
from arbstr.config._rules import MOCK_PARAMETERS

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.toml").read_text()
MANUAL = (ROOT / "docs" / "configuration.md").read_text()
KEYS = sorted({key for keys in SCHEMA_KEYS.values() for key in keys})
EXAMPLES_WITHOUT_DEFAULT = (
    "auth_token",
    "admin_token",
    "internal_token",
    "webhook_url",
    "webhook_secret",
    "api_key",
    "proxy",
    "total_timeout_s",
    "probe_interval_s",
    "cached_input_rate",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
)
OPTIONAL = re.compile(r"(?m)^#\[(?:.*\n#?)+?(?=\n|\Z)")
"""A table that is switched off as a whole: its presence means something."""


def read(text: str) -> Config:
    return loads(text, source="config.example.toml", environ={"ALPHA_KEY": "k", "ROUTSTR_KEY": "k"})


def sections(text: str) -> dict[str, str]:
    """Text below each header of a TOML file, by table; equal headers together."""
    parts = re.split(r"(?m)^#?\[+([a-z_.]+)\]+$", text)
    found = {"": parts[0]}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = found.get(name, "") + body
    return found


def test_example_is_valid_without_warnings_as_it_stands() -> None:
    assert read(EXAMPLE).warnings == ()


@pytest.mark.parametrize("table", SCHEMA_KEYS)
def test_every_key_is_in_its_table_of_the_example(table: str) -> None:
    found = sections(EXAMPLE)
    for key in SCHEMA_KEYS[table]:
        subtable = f"{table}.{key}".removeprefix(".")
        assert subtable in found or re.search(rf"\b{key}\b", found[table]), f"{table}.{key}"


def test_example_is_valid_and_states_the_defaults_when_every_line_is_switched_on() -> None:
    off = re.compile(r"(?m)^#(?=([a-z_0-9]+) = |\[)")
    assert len(off.findall(EXAMPLE)) > 50
    everything = read(off.sub("", EXAMPLE))
    assert everything.providers[0].api_key is not None
    assert everything.tokenstats is not None
    assert attrs.evolve(everything.tokenstats, keys={}, source=None) == TokenstatsConfig(everything.tokenstats.url)
    stated = re.sub(rf"(?m)^#({'|'.join(EXAMPLES_WITHOUT_DEFAULT)}) = .*\n", "", OPTIONAL.sub("", EXAMPLE))
    assert read(off.sub("", stated)) == read(EXAMPLE)
    assert read(EXAMPLE).server == ServerConfig()
    assert read(EXAMPLE).vault == VaultConfig()


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_in_the_manual(key: str) -> None:
    assert f"`{key}`" in MANUAL


@pytest.mark.parametrize("parameter", MOCK_PARAMETERS)
def test_every_mock_parameter_is_in_the_manual_with_its_range(parameter: str) -> None:
    _, low, high = MOCK_PARAMETERS[parameter]
    bounds = f"{low:g} to {high:.0f}" if parameter != "seed" else "integer, 0 or more"
    assert f"| `{parameter}` | {bounds} |" in MANUAL


@pytest.mark.parametrize(
    "kind", [ServerConfig, VaultConfig, ProviderConfig, RoutingConfig, DiscoveryConfig, TokenstatsConfig]
)
def test_numeric_defaults_in_the_manual_are_the_real_ones(kind: type) -> None:
    for field in attrs.fields(kind):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert re.search(rf"\| `{field.name}` \| [^|]+ \| {_shown(field.default)} \|", MANUAL), field.name


def _shown(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def test_snippets_of_the_manual_are_valid() -> None:
    snippets = re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL)
    assert snippets
    for snippet in snippets:
        read(snippet)
