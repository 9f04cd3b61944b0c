"""``arbstr providers``: what is shown, and what is not."""

from __future__ import annotations

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
