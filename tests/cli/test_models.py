"""``arbstr models``: what is on offer, cheapest first."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction

import pytest

from arbstr.cli._amounts import format_decimal

CONFIG = """
[aliases]
fast = "mini"
[[providers]]
name = "alpha"
url = "mock://a"
input_rate = 2.5
output_rate = 10
[[providers.models]]
id = "big"
[[providers.models]]
id = "mini"
upstream_id = "v/mini"
input_rate = 0.15
output_rate = 0.6
cached_input_rate = 0.05
context_tokens = 128000
max_output_tokens = 16384
[[providers.models]]
id = "broken"
input_rate = 1

[[providers]]
name = "beta"
url = "mock://b"
input_rate = 1
output_rate = 20
base_fee = 0.5

[[providers]]
name = "aaa-unpriced"
url = "mock://c"
models = ["big", "other"]

[[providers]]
name = "cheap"
url = "mock://d"
models = ["big"]
input_rate = 2.5
output_rate = 9.5
"""


def test_table_is_cheapest_first_when_the_reader_is_a_pipe(run: Callable, write: Callable) -> None:
    write(CONFIG)
    result = run("models")
    assert (result.code, result.err) == (0, "")
    heading, columns, *lines = result.out.splitlines()
    assert heading == "Rates in sats per 1k tokens, fees in sats per request:"
    assert columns.split() == [
        "MODEL",
        "PROVIDER",
        "INPUT",
        "OUTPUT",
        "CACHED",
        "BASE",
        "FEE",
        "CONTEXT",
        "MAX",
        "OUTPUT",
        "NOTE",
    ]
    assert [line.split()[:8] for line in lines] == [
        ["mini", "alpha", "0.15", "0.6", "0.05", "0", "128000", "16384"],
        ["big", "cheap", "2.5", "9.5", "2.5", "0", "-", "-"],
        ["big", "alpha", "2.5", "10", "2.5", "0", "-", "-"],
        ["big", "aaa-unpriced", "-", "-", "-", "-", "-", "-"],
        ["*", "beta", "1", "20", "1", "0.5", "-", "-"],
        ["broken", "alpha", "2.5", "10", "2.5", "0", "-", "-"],
        ["other", "aaa-unpriced", "-", "-", "-", "-", "-", "-"],
    ]
    assert lines[0].endswith("also fast")
    assert lines[3].endswith("not used: its price is not known")
    assert lines[4].endswith("any other model")
    assert lines[5].endswith("not used: its price is incomplete")


def test_rates_are_in_the_unit_they_were_written_in_when_it_is_one(run: Callable, write: Callable) -> None:
    write('rate_unit = "sats_per_1m_tokens"\n' + CONFIG)
    out = run("models").out
    assert out.startswith("Rates in sats per 1m tokens")
    assert out.splitlines()[2].split()[2] == "0.15"


def test_prices_are_exact_decimals_when_a_program_reads(run: Callable, write: Callable) -> None:
    write(CONFIG)
    first, *_ = found = json.loads(run("models", "--json").out)
    assert first == {
        "model": "mini",
        "aliases": ["fast"],
        "provider": "alpha",
        "upstream_model": "v/mini",
        "tier": "standard",
        "rate_unit": "sats_per_1k_tokens",
        "input_rate": "0.15",
        "output_rate": "0.6",
        "cached_input_rate": "0.05",
        "base_fee": "0",
        "context_tokens": 128_000,
        "max_output_tokens": 16_384,
        "not_used": None,
    }
    assert [one["model"] for one in found if one["not_used"] is None] == ["mini", "big", "big", None]


def test_it_is_said_when_there_are_none(run: Callable, write: Callable) -> None:
    write("")
    assert run("models").out == "No models configured.\n"
    assert json.loads(run("models", "--json").out) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(5), "5"),
        (Fraction(3, 2), "1.5"),
        (Fraction(1, 400), "0.0025"),
        (Fraction(0), "0"),
        (Fraction(1, 3), "0.333333333333333333"),
    ],
)
def test_decimal_is_exact_where_there_is_one(value: Fraction, text: str) -> None:
    assert format_decimal(value) == text
