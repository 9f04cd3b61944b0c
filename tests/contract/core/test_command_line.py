"""Cases 4 and 108 to 112: ``check`` and ``providers``."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.contract.program import run, toml


def provider(name: str = "one", **more: object) -> dict[str, object]:
    url = "http://127.0.0.1:9/v1"
    return {"name": name, "url": url, "models": ["gpt-4o"], "input_rate": 5, "output_rate": 1.5, **more}


def check(
    directory: Path, *providers: dict[str, object], verb: str = "check", mode: int = 0o600, **environ: str
) -> CompletedProcess[str]:
    table = {"server": {"listen": "127.0.0.1:0"}, "providers": providers}
    return check_text(directory, toml(table), verb=verb, mode=mode, **environ)


def check_text(
    directory: Path, text: str, verb: str = "check", mode: int = 0o600, **environ: str
) -> CompletedProcess[str]:
    config = directory / "config.toml"
    config.write_text(text)
    config.chmod(mode)
    return run(verb, "-c", str(config), cwd=directory, **environ)


def test_every_section_has_defaults(tmp_path: Path) -> None:
    for text in ("", "[server]\n"):
        done = check_text(tmp_path, text)
        assert done.returncode == 0, done.stderr
        assert "  Providers: 0" in done.stdout
        assert "  Listen: 127.0.0.1:8080" in done.stdout


def test_variants_are_named_when_a_tier_is_unknown(tmp_path: Path) -> None:
    done = check(tmp_path, provider(tier="gold"))
    assert done.returncode == 1
    assert done.stderr.startswith("Configuration error: ")
    assert all(word in done.stderr for word in ("gold", "local", "standard", "frontier"))


def test_provider_is_named_when_its_url_is_empty(tmp_path: Path) -> None:
    done = check(tmp_path, provider("nameless", url=""))
    assert done.returncode == 1
    assert "nameless" in done.stderr


def test_name_is_refused_when_two_providers_have_it(tmp_path: Path) -> None:
    done = check(tmp_path, provider("alpha"), provider("alpha"), provider("beta"))
    assert done.returncode == 1
    assert "alpha" in done.stderr


def test_key_is_expanded_when_it_names_two_variables(tmp_path: Path) -> None:
    done = check(tmp_path, provider(api_key="${CONTRACT_A}-${CONTRACT_B}"), CONTRACT_A="sk-one", CONTRACT_B="two")
    assert done.returncode == 0, done.stderr
    assert "  one: key from env-expanded" in done.stdout
    assert "sk-one" not in done.stdout


def test_variable_and_provider_are_named_when_the_variable_is_not_set(tmp_path: Path) -> None:
    done = check(tmp_path, provider(api_key="${CONTRACT_NOT_SET}"))
    assert done.returncode == 1
    assert "CONTRACT_NOT_SET" in done.stderr
    assert "one" in done.stderr


def test_dollar_without_braces_is_literal(tmp_path: Path) -> None:
    done = check(tmp_path, provider(api_key="$CONTRACT_A"))
    assert done.returncode == 0, done.stderr
    assert "  one: key from config-literal" in done.stdout
    assert "WARNING: Plaintext key." in done.stdout
    assert "ARBSTR_ONE_API_KEY" in done.stdout


@pytest.mark.parametrize("key", ["${CONTRACT_A", "${}"])
def test_expansion_is_refused_when_it_is_not_well_formed(tmp_path: Path, key: str) -> None:
    done = check(tmp_path, provider(api_key=key), CONTRACT_A="x")
    assert done.returncode == 1
    assert "one" in done.stderr


def test_variable_goes_with_the_name_when_no_key_is_written(tmp_path: Path) -> None:
    found = check(tmp_path, provider("my-svc x"), ARBSTR_MY_SVC_X_API_KEY="sk-found")
    assert "  my-svc x: key from convention (ARBSTR_MY_SVC_X_API_KEY)" in found.stdout
    missing = check(tmp_path, provider("my-svc x"))
    assert "  my-svc x: no key (set ARBSTR_MY_SVC_X_API_KEY or add api_key to config)" in missing.stdout


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o600, False), (0o400, False)])
def test_mode_of_the_file_is_warned_about_when_others_may_read_it(tmp_path: Path, mode: int, warned: bool) -> None:
    done = check(tmp_path, provider(), mode=mode)
    assert done.returncode == 0, done.stderr
    assert ("0644" in done.stdout) == warned
    assert ("chmod 600" in done.stdout) == warned


def test_keys_are_masked_and_rates_are_short_when_providers_are_shown(tmp_path: Path) -> None:
    keyed = [provider("long", api_key="abcdefghijkl", base_fee=2), provider("short", api_key="short")]
    done = check(tmp_path, *keyed, verb="providers")
    assert done.returncode == 0, done.stderr
    assert "Key: abcdef...***" in done.stdout
    assert "Key: [REDACTED]" in done.stdout
    assert "abcdefghijkl" not in done.stdout
    assert "Base fee: 2 sats" in done.stdout
    assert "Rates: 5 sats/1k input, 1.5 sats/1k output" in done.stdout


def test_nobody_is_shown_when_there_are_no_providers(tmp_path: Path) -> None:
    assert check(tmp_path, verb="providers").stdout.strip() == "No providers configured."
