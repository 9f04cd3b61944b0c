"""``arbstr providers``: what is shown, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

CONFIG = """
[[providers]]
name = "alpha"
url = "https://a.example/v1"
api_key = "abcdefghijkl"
models = ["gpt-4o", "gpt-4o-mini"]
input_rate = 1.50
output_rate = 0.0025
base_fee = 1

[[providers]]
name = "[red]beta"
url = "mock://b"
api_key = "short"
rate_unit = "sats_per_1m_tokens"
input_rate = 5000
output_rate = 15000.0

[[providers]]
name = "gamma"
url = "mock://c"
"""


def test_blocks_are_printed_when_the_reader_is_a_pipe(run: Callable, write: Callable) -> None:
    write(CONFIG)
    result = run("providers")
    assert result.code == 0
    assert result.out == (
        "Configured providers:\n"
        "\n"
        "  alpha (https://a.example/v1)\n"
        "    Models: gpt-4o, gpt-4o-mini\n"
        "    Rates: 1.5 sats/1k input, 0.0025 sats/1k output\n"
        "    Base fee: 1 sats\n"
        "    Key: abcdef...***\n"
        "\n"
        "  [red]beta (mock://b)\n"
        "    Rates: 5000 sats/1M input, 15000 sats/1M output\n"
        "    Key: [REDACTED]\n"
        "\n"
        "  gamma (mock://c)\n"
        "    Rates: unknown, provider is not used\n"
    )


def test_table_is_drawn_without_markup_when_the_reader_is_a_person(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for place in ("_providers", "_output"):
        monkeypatch.setattr(f"arbstr.cli.{place}.on_terminal", lambda: True)
    write(CONFIG)
    out = run("providers").out
    for text in ("alpha", "[red]beta", "abcdef...***", "gpt-4o, gpt-4o-mini", "standard"):
        assert text in out
    assert "ghijkl" not in out


def test_it_is_said_when_there_are_none(run: Callable, write: Callable) -> None:
    write("")
    assert run("providers").out == "No providers configured.\n"


RICH = """
[[providers]]
name = "alpha"
url = "https://a.example/v1"
api_key = "abcdefghijkl"
input_rate = 2
output_rate = 4
cached_input_rate = 0.5
weight = 3
on_disconnect = "drain"
auto_discover = true
[[providers.models]]
id = "plain"
[[providers.models]]
id = "rich"
upstream_id = "vendor/rich"
input_rate = 1
output_rate = 2
base_fee = 0.25
context_tokens = 1000
max_output_tokens = 100

[[providers]]
name = "beta"
url = "mock://b"
[[providers.models]]
id = "only"
input_rate = 1
output_rate = 2
[[providers.models]]
id = "half"
input_rate = 1
"""


def test_what_is_set_beyond_the_defaults_follows_when_the_reader_is_a_pipe(run: Callable, write: Callable) -> None:
    write(RICH)
    assert run("providers").out == (
        "Configured providers:\n"
        "\n"
        "  alpha (https://a.example/v1)\n"
        "    Models: plain, rich\n"
        "    Rates: 2 sats/1k input, 4 sats/1k output, 0.5 sats/1k cached input\n"
        "    Key: abcdef...***\n"
        "    rich: 1 sats/1k input, 2 sats/1k output, base fee 0.25 sats, context 1000, at most 100 out, "
        "called vendor/rich there\n"
        "    Weight: 3\n"
        "    On disconnect: drain\n"
        "    Models are discovered\n"
        "\n"
        "  beta (mock://b)\n"
        "    Models: only, half\n"
        "    Rates: by model\n"
        "    only: 1 sats/1k input, 2 sats/1k output\n"
        "    half: not used: its price is incomplete\n"
    )


def test_everything_but_the_key_is_there_when_a_program_reads(run: Callable, write: Callable) -> None:
    write(RICH)
    result = run("providers", "--json")
    alpha, beta = json.loads(result.out)
    assert (alpha["cached_input_rate"], alpha["weight"], alpha["on_disconnect"]) == ("0.5", 3, "drain")
    assert (alpha["key"], alpha["key_source"]) == ("abcdef...***", "config-literal")
    assert "ghijkl" not in result.out
    plain, rich = alpha["models"]
    assert (plain["input_rate"], rich["input_rate"], rich["upstream_id"]) == ("2", "1", "vendor/rich")
    assert (beta["input_rate"], beta["models"][1]["not_used"], beta["key"]) == (None, "its price is incomplete", None)


def test_particulars_are_in_the_table_when_the_reader_is_a_person(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for place in ("_providers", "_output"):
        monkeypatch.setattr(f"arbstr.cli.{place}.on_terminal", lambda: True)
    write(RICH)
    out = run("providers").out
    for text in ("0.5 sats/1k cached input", "Weight: 3", "On disconnect: drain", "only: 1 sats/1k input"):
        assert text in out
