"""Warnings about what is allowed and probably not meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from arbstr.config import load, loads


def provider(name: str, rates: str, models: str = '["m"]', extra: str = "") -> str:
    prompt, completion = rates.split()
    return (
        f'[[providers]]\nname = "{name}"\nurl = "mock://{name}"\nmodels = {models}\n'
        f"input_rate = {prompt}\noutput_rate = {completion}\n{extra}\n"
    )


def warnings(text: str, **environ: str) -> tuple[str, ...]:
    return loads(text, source="c.toml", environ=environ).warnings


def test_unit_is_questioned_when_one_provider_is_a_thousand_times_dearer() -> None:
    (warning,) = warnings(provider("a", "5 15") + provider("b", "6 16") + provider("c", "5000 15000"))
    assert '"c" asks 909 times what "b" asks for m' in warning
    assert "rate_unit" in warning


def test_unit_is_questioned_when_one_provider_is_a_thousand_times_cheaper() -> None:
    rates = provider("a", "5 15", extra='rate_unit = "sats_per_1m_tokens"') + provider("b", "6 16")
    (warning,) = warnings(rates)
    assert '"a" in sats_per_1m_tokens' in warning


def test_models_are_listed_in_one_warning_when_they_share_the_providers() -> None:
    both = '["m", "n"]'
    (warning,) = warnings(provider("a", "1 1", both) + provider("b", "100 100", both))
    assert "for m, n;" in warning


def test_provider_of_any_model_is_compared_with_all() -> None:
    assert len(warnings(provider("a", "1 1", "[]") + provider("b", "500 500"))) == 1
    assert len(warnings(provider("a", "1 1", "[]") + provider("b", "500 500", "[]"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        provider("a", "1 1") + provider("b", "99 99"),
        provider("a", "0 0") + provider("b", "1000 1000"),
        provider("a", "1 1") + provider("b", "1000 1000", '["other"]'),
    ],
)
def test_nothing_is_said_when_prices_are_near_free_or_of_other_models(text: str) -> None:
    assert warnings(text) == ()


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "192.168.1.5:80", "example.org:80"])
def test_exposure_is_named_when_anybody_could_spend(address: str) -> None:
    text = f'[server]\nlisten = "{address}"\n' + provider("a", "1 1")
    (warning,) = warnings(text)
    assert "spends your sats" in warning
    assert warnings(text + "[vault]") == ()
    assert warnings(text.replace("\n", '\nauth_token = "t"\n', 1)) == ()


@pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "localhost:80", "127.8.0.1:0"])
def test_nothing_is_said_when_only_this_machine_can_connect(address: str) -> None:
    assert warnings(f'[server]\nlisten = "{address}"\n' + provider("a", "1 1")) == ()


def test_shared_variable_is_named_when_two_names_fold_into_one() -> None:
    text = provider("a-b", "1 1") + provider("a b", "1 1").replace("mock://a b", "mock://ab")
    (warning,) = warnings(text, ARBSTR_A_B_API_KEY="k")
    assert "ARBSTR_A_B_API_KEY" in warning
    assert warnings(text) == ()


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, True), (0o600, False), (0o400, False)])
@pytest.mark.parametrize(
    "key",
    [
        'api_key = "literal"',
        'api_key = "${K}"',
        'proxy = "http://me:literal@proxy.example"',
        'proxy = "http://proxy.example"',
        'proxy = "http://me:${K}@proxy.example"',
        "",
    ],
)
def test_mode_is_warned_about_when_others_may_read_a_literal_key(
    tmp_path: Path, mode: int, warns: bool, key: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(provider("a", "1 1", extra=key))
    path.chmod(mode)
    found = load(path, {"K": "k"}).warnings
    assert [f"{mode:04o}" in warning for warning in found] == ([True] if warns and "literal" in key else [])


def test_short_admin_token_is_named_when_there_are_accounts_to_manage() -> None:
    text = f"{provider('a', '1 1')}[server]\nadmin_token = '%s'\n"
    (warning,) = warnings(text % ("x" * 31) + "[vault]")
    assert "shorter than 32 characters" in warning
    assert "x" * 31 not in warning
    assert warnings(text % ("x" * 32) + "[vault]") == warnings(text % "x") == ()
