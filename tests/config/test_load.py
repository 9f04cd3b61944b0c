"""From TOML to a configuration, and the reports about what cannot become one."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import (
    Config,
    ConfigError,
    DatabaseConfig,
    Problem,
    ProviderConfig,
    ServerConfig,
    Strategy,
    Tier,
    VaultConfig,
    load,
    load_database,
    loads,
    with_listen,
)
from arbstr.units import Price

PROVIDER = '[[providers]]\nname = "a"\nurl = "https://a.example/v1"\n'
FOUNDING = """
    [server]
    listen = "127.0.0.1:8080"

    [[providers]]
    name = "provider-alpha"
    url = "https://api.alpha.example/v1"
    api_key = "alpha-key"
    models = ["gpt-4o", "claude-3.5-sonnet"]
    input_rate = 10
    output_rate = 30
    base_fee = 1
    tier = "frontier"

    [policies]
    default = "cheapest"

    [[policies.rules]]
    name = "code_generation"
    allowed_models = ["claude-3.5-sonnet", "gpt-4o"]
    strategy = "lowest_cost"
    max_sats_per_1k_output = 50
    keywords = ["code", "function", "implement"]
"""


def read(text: str, **environ: str) -> Config:
    return loads(dedent(text), source="c.toml", environ=environ)


def problems(text: str, **environ: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        read(text, **environ)
    return caught.value.problems


def problem(text: str, **environ: str) -> Problem:
    (only,) = problems(text, **environ)
    return only


def test_everything_is_read_when_the_file_is_that_of_the_founding_document() -> None:
    config = read(FOUNDING)
    (provider,) = config.providers
    assert provider.name == "provider-alpha"
    assert provider.price == Price.of(10, 30, 1)
    assert provider.tier is Tier.FRONTIER
    assert [model.id for model in provider.models] == ["gpt-4o", "claude-3.5-sonnet"]
    assert provider.api_key is not None
    assert provider.api_key.reveal() == "alpha-key"
    (rule,) = config.policies.rules
    assert rule.strategy is Strategy.CHEAPEST
    assert rule.max_output_rate == 50
    assert rule.keywords == ("code", "function", "implement")
    assert config.vault is None
    assert config.warnings == ()


def test_defaults_hold_when_the_file_is_empty() -> None:
    config = read("")
    assert config.server == ServerConfig()
    assert config.server.listen == "127.0.0.1:8080"
    assert config.database == DatabaseConfig(Path("arbstr.db"), "full")
    assert config.vault is None
    assert config.providers == ()
    assert config.policies.default is Strategy.CHEAPEST
    assert "no [[providers]]" in config.warnings[0]


def test_accounts_are_on_when_the_vault_table_is_there_but_empty() -> None:
    assert read("[vault]").vault == VaultConfig(4096, 120)


def test_every_plain_key_reaches_its_field_when_given() -> None:
    config = read("""
        [server]
        listen = "[::1]:0"
        max_body_bytes = 2048
        body_timeout_s = 1
        max_requests = 2
        shutdown_grace_s = 0
        stream_cost_event = true
        [database]
        path = "x/y.db"
        durability = "process"
        [vault]
        default_reserve_tokens = 7
        hold_lease_s = 8.5
        [[providers]]
        name = "a"
        url = "http://localhost:9/v1/"
        connect_timeout_s = 1
        first_byte_timeout_s = 2
        idle_timeout_s = 3
        total_timeout_s = 4.5
        max_concurrent = 5
        http2 = true
        breaker_failures = 6
        breaker_open_s = 7
        [logging]
        level = "debug"
        """)
    assert config.server == ServerConfig(
        "[::1]:0", max_body_bytes=2048, body_timeout_s=1, max_requests=2, shutdown_grace_s=0, stream_cost_event=True
    )
    assert config.database == DatabaseConfig(Path("x/y.db"), "process")
    assert config.vault == VaultConfig(7, 8.5)
    assert config.providers == (
        ProviderConfig(
            "a",
            "http://localhost:9/v1/",
            connect_timeout_s=1,
            first_byte_timeout_s=2,
            idle_timeout_s=3,
            total_timeout_s=4.5,
            max_concurrent=5,
            http2=True,
            breaker_failures=6,
            breaker_open_s=7,
        ),
    )
    assert config.logging.level == "debug"


# Units


def test_price_is_exact_when_rates_are_decimals() -> None:
    (provider,) = read(PROVIDER + "input_rate = 0.1\noutput_rate = 0.3\nbase_fee = 0.001").providers
    assert provider.price is not None
    assert provider.price.input_rate_sats("sats_per_1k_tokens") == Fraction(1, 10)
    assert provider.price.base_fee_msat == 1


def test_unit_of_the_file_holds_when_the_provider_names_none() -> None:
    text = 'rate_unit = "sats_per_1m_tokens"\n' + PROVIDER + "input_rate = 5000\noutput_rate = 15000\n"
    text += PROVIDER.replace('"a"', '"b"') + 'rate_unit = "sats_per_1k_tokens"\ninput_rate = 5\noutput_rate = 15'
    first, second = read(text).providers
    assert first.price == second.price == Price.of(5, 15)
    assert (first.rate_unit, second.rate_unit) == ("sats_per_1m_tokens", "sats_per_1k_tokens")


@pytest.mark.parametrize(
    ("key", "rate"), [("max_sats_per_1k_output = 2.5", "2.5"), ("max_sats_per_1m_output = 2.5", "0.0025")]
)
@pytest.mark.parametrize("unit", ["sats_per_1k_tokens", "sats_per_1m_tokens"])
def test_cap_is_in_the_unit_its_key_names_whatever_the_rate_unit(key: str, rate: str, unit: str) -> None:
    config = read(f'rate_unit = "{unit}"\n[[policies.rules]]\nname = "r"\n{key}')
    assert config.policies.rules[0].max_output_rate == Fraction(rate)


@pytest.mark.parametrize("given", ["", "input_rate = 1", "output_rate = 1"])
def test_price_is_unknown_and_warned_about_when_a_rate_is_missing(given: str) -> None:
    config = read(PROVIDER + given)
    assert config.providers[0].price is None
    (warning,) = config.warnings
    assert warning.startswith('c.toml:1: providers[0]: provider "a": no ')
    assert "not used" in warning


def test_price_is_free_when_both_rates_are_zero() -> None:
    config = read(PROVIDER + "input_rate = 0\noutput_rate = 0.0")
    assert config.providers[0].price == Price.of(0, 0)
    assert config.warnings == ()


# Names that mean the same


@pytest.mark.parametrize("key", ["default", "default_strategy"])
@pytest.mark.parametrize("word", ["round_robin", "lowest_latency", "cheapest", "lowest_cost"])
def test_default_strategy_is_read_under_either_name(key: str, word: str) -> None:
    assert read(f'[policies]\n{key} = "{word}"').policies.default is Strategy(word)


def test_one_is_refused_when_two_names_of_a_key_are_given() -> None:
    both = problem('[policies]\ndefault = "cheapest"\ndefault_strategy = "cheapest"')
    assert (both.line, both.key) == (3, "policies.default_strategy")
    caps = problem('[[policies.rules]]\nname = "r"\nmax_sats_per_1k_output = 1\nmax_sats_per_1m_output = 1000')
    assert (caps.line, caps.key) == (4, "policies.rules[0].max_sats_per_1m_output")


# What is wrong is reported


def test_all_problems_are_reported_with_their_lines_when_there_are_many() -> None:
    found = problems("""\
        listen = "x"
        [server]
        listen = "localhost"
        [[providers]]
        name = "a"
        url = "ftp://a"
        input_rate = -1
        [[providers]]
        name = "a"
        url = "https://b"
        models = [
          "x",
          3,
        ]
        teir = "local"
        [[providers]]
        url = "https://c"
        [policies]
        default = "best"
        """)
    assert [(each.line, each.key) for each in found] == [
        (1, "listen"),
        (3, "server.listen"),
        (6, "providers[0].url"),
        (7, "providers[0].input_rate"),
        (9, "providers[1].name"),
        (11, "providers[1].models"),
        (15, "providers[1].teir"),
        (16, "providers[2].name"),
        (19, "policies.default"),
    ]
    assert str(found[6]) == 'c.toml:15: providers[1].teir: provider "a": unknown key; did you mean tier?'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nlisten = 8080", ["8080 is a number", "in quotes"]),
        ('[server]\nlisten = "localhost"', ['"localhost" is not host:port']),
        ('[server]\nlisten = ":8080"', ["host:port"]),
        ('[server]\nlisten = "h:65536"', ["host:port"]),
        ("[server]\nmax_requests = 0", ["0 is out of range", "from 1 to"]),
        ("[server]\nmax_requests = true", ["true is a boolean"]),
        ("[server]\nmax_requests = 1.0", ["1.0 is a number", "integer"]),
        ("[server]\nmax_requests = 1979-05-27", ["1979-05-27 is a date"]),
        ("[server]\nbody_timeout_s = 0", ["0 is out of range"]),
        ("[server]\nbody_timeout_s = inf", ["inf is out of range"]),
        ("[server]\nbody_timeout_s = nan", ["nan is out of range"]),
        ("[server]\nbody_timeout_s = '3'", ['"3" is text']),
        ("[server]\nstream_cost_event = 1", ["true or false"]),
        ('[server]\nauth_token = ""', ["is empty"]),
        ("server = 3", ["[server]"]),
        ("[[server]]", ["[server]"]),
        ("[providers]\nname = 'a'", ["[[providers]]"]),
        ("providers = [3]", ["3 is not a table"]),
        ('[database]\npath = ":memory:"', ["not a file"]),
        ('[database]\npath = ""', ["not a path"]),
        ('[database]\ndurability = "none"', ['"none" is not one of full, process']),
        ("[vault]\nhold_lease_s = 0", ["out of range"]),
        ("[vault]\ninternal_token = ''", ["is empty"]),
        (f"[vault]\ninternal_token = '{'x' * 31}'", ["shorter than 32"]),
        (f"[vault]\nwebhook_secret = '{'x' * 15}'", ["shorter than 16"]),
        ("[vault]\nwebhook_url = 'ftp://h/x'", ["is not a URL"]),
        ("[vault]\nwebhook_url = 'https://h:x/'", ["is not a URL"]),
        (f"[vault]\ninternal_token = '{'x' * 32}'\nurl = 'x'", ["must start with"]),
        (f"[vault]\ninternal_token = '{'x' * 32}'\nurl = 'mock://x'", ["is no vault"]),
        ("[vault]\nurl = 'http://h:1'", ["internal_token", "is missing"]),
        (f"[vault]\nurl = 'http://h:1'\ninternal_token = '{'x' * 32}'\nhold_lease_s = 9", ["no effect beside url"]),
        ('[logging]\nlevel = "warn"', ["debug, info, warning, error", 'did you mean "warning"']),
        ('rate_unit = "sats"', ["sats_per_1k_tokens, sats_per_1m_tokens"]),
        ('rate_unit = "usd_per_1m_tokens"', ["not in this version"]),
        ('[policies]\ndefault = "cheap"', ["cheapest, lowest_latency, round_robin", 'did you mean "cheapest"']),
        ("[[policies.rules]]\nname = 'r'\nkeywords = ['']", ["match every message"]),
        ("[[policies.rules]]\nname = 'r'\nkeywords = 'code'", ["array of texts"]),
        ("[[policies.rules]]\nname = 'r'\n[[policies.rules]]\nname = 'r'", ["already on line 2"]),
        ("[[policies.rules]]\nstrategy = 'cheapest'", ["is missing"]),
    ],
)
def test_message_says_what_and_how_to_fix_it_when_a_value_is_wrong(text: str, words: list[str]) -> None:
    found = problem(text)
    for word in words:
        assert word in found.message
    assert found.line is not None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tier = 'gold'", ["local, standard, frontier"]),
        ("input_rate = -0.5", ["-0.5 is negative"]),
        ("output_rate = nan", ["not a finite number"]),
        ("output_rate = -inf", ["not a finite number"]),
        ("base_fee = 1e400", ["out of range"]),
        ("base_fee = 1e-400", ["out of range"]),
        ("base_fee = 1e999999999999999999999", ["not a finite number"]),
        ("base_fee = 1000000001", ["out of range"]),
        ("base_fee = '1'", ['"1" is text']),
        ("rate_unit = 'sat'", ["not one of"]),
        ("models = 'gpt-4o'", ["array of texts"]),
        ("models = ['']", ["not a name"]),
        ("max_concurrent = 0", ["out of range"]),
        ("breaker_failures = 0", ["out of range"]),
        ("total_timeout_s = -1", ["out of range"]),
    ],
)
def test_message_names_the_provider_when_its_value_is_wrong(line: str, words: list[str]) -> None:
    found = problem(PROVIDER + line)
    assert found.line == 4
    assert found.message.startswith('provider "a": ')
    for word in words:
        assert word in found.message


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "empty URL"),
        ("api.example.com/v1", "must start with"),
        ("ftp://x", "must start with"),
        ("https://", "not a URL"),
        ("https://x:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://a b/", "not a URL"),
        ("https://user:hunter2@x/v1", "user or password"),
        ("https://x/v1?key=hunter2", "query"),
        ("mock:", "not a mock URL"),
        ("mock://a/path", "not a mock URL"),
        ("mock://a?ttft=5", "did you mean ttft_ms"),
        ("mock://a?zzz=5", "known are ttft_ms"),
        ("mock://a?fail", "bad query"),
        ("mock://a?fail=1.1", "from 0 to 1"),
        ("mock://a?fail=-1", "from 0 to 1"),
        ("mock://a?fail=nan", "from 0 to 1"),
        ("mock://a?cut=x", "from 0 to 1"),
        ("mock://a?hang=2", "from 0 to 1"),
        ("mock://a?status=200", "from 400 to 599"),
        ("mock://a?status=500.5", "an integer"),
        ("mock://a?seed=-1", "an integer"),
        ("mock://a?ttft_ms=600001", "from 0 to 600000"),
        ("mock://a?tokens_per_s=", "a number"),
        ("mock://a?seed=1&seed=2", "twice"),
    ],
)
def test_url_is_refused_without_showing_secrets_when_it_cannot_be_called(url: str, word: str) -> None:
    found = problem(f"[[providers]]\nname = 'a'\nurl = '{url}'")
    assert word in found.message
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "https://x",
        "http://127.0.0.1:9/v1/",
        "https://[::1]:8/v1",
        "mock://a",
        "mock://a?ttft_ms=0&tokens_per_s=0&fail=0.5&cut=1&status=429&seed=3&hang=0",
    ],
)
def test_url_is_taken_as_written_when_it_is_good(url: str) -> None:
    (provider,) = read(f"[[providers]]\nname = 'a'\nurl = '{url}'").providers
    assert provider.url == url


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[servr]", "did you mean server?"),
        ("[server]\nlsten = 'x'", "did you mean listen?"),
        ("[server]\nhold_lease_s = 3", "in [vault]"),
        ("[server]\ninternal_token = 'x'", "in [vault]"),
        ("[server]\nrate_unit = 'x'", "at the top of the file"),
        ("[server]\nzzz = 1", "known here: listen"),
        ("[routing]\nstandard_threshold = 1", "complexity_threshold_low; remove it"),
        ("[routing.complexity_weights]\ncode_block = 1", "did you mean code_blocks?"),
        (PROVIDER + "models = [{id = 'm', context = 1}]", "did you mean context_tokens?"),
    ],
)
def test_unknown_key_is_refused_with_a_hint_and_only_warned_about_when_lenient(text: str, hint: str) -> None:
    found = problem(text)
    assert "unknown key" in found.message
    assert hint in found.message
    lenient = loads(text, source="c.toml", environ={}, lenient=True)
    assert any(hint in warning for warning in lenient.warnings)


def test_lenient_stays_strict_when_a_value_is_wrong() -> None:
    with pytest.raises(ConfigError):
        loads("[server]\nlisten = 3", source="c.toml", environ={}, lenient=True)


def test_repeated_name_is_refused_even_when_the_provider_is_otherwise_wrong() -> None:
    found = problems(PROVIDER + "[[providers]]\nname = 'a'\nurl = ''")
    assert [each.key for each in found] == ["providers[1].name", "providers[1].url"]


def test_line_and_column_of_the_parser_are_kept_when_the_text_is_not_toml() -> None:
    found = problem("[server]\nlisten 3\n")
    assert found.line == 2
    assert "Failed to parse config:" in found.message
    assert "line 2, column 8" in found.message


@pytest.mark.parametrize("text", ["a = " + "9" * 5_000, "a = " + "[" * 5_000 + "]" * 5_000])
def test_error_is_reported_when_the_parser_itself_gives_up(text: str) -> None:
    assert "Failed to parse config:" in problem(text).message


@given(st.text(alphabet="abl=[]{}\"'#.\\\n 1-${}_server"))
def test_text_becomes_a_configuration_or_an_error_and_nothing_else(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(loads(text, source="c.toml", environ={}), Config)


# Files


def test_path_and_reason_are_named_when_the_file_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=r"Failed to read config file .*none\.toml: No such file") as caught:
        load(path, {})
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ConfigError, match="Failed to read config file"):
        load(tmp_path, {})


def test_line_is_named_when_the_file_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"[server]\nlisten = '\xff'\n")
    with pytest.raises(ConfigError, match=r"c\.toml:2: .*not UTF-8"):
        load(path, {})


def test_file_is_read_when_it_starts_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf[vault]\n")
    assert load(path, {}).vault is not None


def test_only_the_database_is_read_when_providers_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(PROVIDER + "api_key = '${UNSET}'\n[database]\npath = 'x.db'\n[vault]\ninternal_token = '${UNSET}'")
    assert load_database(path) == (DatabaseConfig(Path("x.db")), VaultConfig())
    path.write_text("[database]\npath = 3\n[server]\nlisten = 3")
    with pytest.raises(ConfigError) as caught:
        load_database(path)
    assert [each.key for each in caught.value.problems] == ["database.path"]


def test_listen_address_is_replaced_and_checked_when_an_option_overrides_it() -> None:
    config = with_listen(read(FOUNDING), "0.0.0.0:1", source="--listen")
    assert config.server.listen == "0.0.0.0:1"
    assert any("spends your sats" in warning for warning in config.warnings)
    assert with_listen(config, "127.0.0.1:1", source="--listen").warnings == ()
    with pytest.raises(ConfigError, match=r'^--listen: "nowhere" is not host:port'):
        with_listen(config, "nowhere", source="--listen")


# Values made by hand


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ServerConfig(listen="x"), "listen"),
        (lambda: ServerConfig(max_requests=0), "max_requests"),
        (lambda: ProviderConfig("a", "ftp://x"), "url"),
        (lambda: ProviderConfig("é", "https://x"), "name"),
        (lambda: ProviderConfig("a", "https://x", idle_timeout_s=float("nan")), "idle_timeout_s"),
        (lambda: Config(providers=(ProviderConfig("a", "mock://a"), ProviderConfig("a", "mock://b"))), "providers"),
    ],
)
def test_value_error_names_the_field_when_a_value_is_made_by_hand(make: object, field: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=f"^{field}: "):
        make()


def test_type_error_is_raised_when_one_text_is_given_for_several() -> None:
    with pytest.raises(TypeError, match="several models"):
        ProviderConfig("a", "mock://a", models="gpt-4o")
