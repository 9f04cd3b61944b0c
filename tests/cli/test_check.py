"""``arbstr check``: the report, line by line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

FREE = "input_rate = 0\noutput_rate = 0\n"


def provider(name: str, extra: str = "", url: str = "https://x.example/v1") -> str:
    return f'[[providers]]\nname = "{name}"\nurl = "{url}"\n{FREE}{extra}\n'


def test_report_has_every_key_status_when_the_file_is_valid(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "secret-from-env")
    monkeypatch.setenv("ARBSTR_THREE_X_API_KEY", "secret-by-convention")
    write(
        provider("one", 'api_key = "secret-literal"')
        + provider("two", 'api_key = "${A}"')
        + provider("three x")
        + provider("four-x")
        + provider("five", url="mock://five")
    )
    result = run("check")
    assert result.code == 0
    assert result.out == (
        "config.toml: configuration is valid\n"
        "  Listen: 127.0.0.1:8080\n"
        "  Providers: 5\n"
        "  Policy rules: 0\n"
        "\n"
        "Provider key status:\n"
        "  one: key from config-literal\n"
        "    WARNING: Plaintext key. Set ARBSTR_ONE_API_KEY and remove it, "
        'or write api_key = "${ARBSTR_ONE_API_KEY}"\n'
        "  two: key from env-expanded\n"
        "  three x: key from convention (ARBSTR_THREE_X_API_KEY)\n"
        "  four-x: no key (set ARBSTR_FOUR_X_API_KEY or add api_key to config)\n"
        "  five: no key needed (mock)\n"
    )
    assert "secret" not in result.out + result.err


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, True), (0o600, False), (0o400, False)])
def test_mode_is_warned_about_once_when_it_is_too_open(run: Callable, write: Callable, mode: int, warns: bool) -> None:
    write(provider("a", 'api_key = "literal"'), mode)
    lines = run("check").out.splitlines()
    assert [line for line in lines if f"{mode:04o}" in line] == (
        [f"WARNING: config.toml has mode {mode:04o}, which allows more than 0600"] if warns else []
    )
    assert ("  chmod 600 config.toml" in lines) is warns


def test_other_warnings_follow_the_report_when_there_are_some(run: Callable, write: Callable) -> None:
    write('[[providers]]\nname = "a"\nurl = "mock://a"\n')
    out = run("check").out
    assert "\nWarnings:\n  config.toml:1: providers[0]: " in out


def test_every_problem_has_its_own_line_when_the_file_is_wrong(run: Callable, write: Callable) -> None:
    path = write("[server]\nlisten = 3\nzzz = 1")
    result = run("check", "--config", str(path))
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert first.startswith(f"Configuration error: {path}:2: server.listen: ")
    assert second.startswith(f"Configuration error: {path}:3: server.zzz: ")


def test_one_line_and_a_way_out_are_given_when_there_is_no_file(run: Callable) -> None:
    result = run("check")
    first, _, hint = result.err.splitlines()
    assert result.code == 1
    assert first.startswith("Configuration error: config.toml: Failed to read config file config.toml")
    assert "config.example.toml" in hint


def test_unknown_key_is_a_warning_when_lenient(run: Callable, write: Callable) -> None:
    write(provider("a") + "teir = 1")
    assert run("check").code == 1
    result = run("check", "--lenient")
    assert result.code == 0
    assert "did you mean tier?" in result.out
