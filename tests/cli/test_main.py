"""Verbs, exit codes, and what goes to which stream."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arbstr.cli._amounts import parse_amount_msat


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_printed_when_asked_for(run: Callable, option: str) -> None:
    result = run(option)
    assert (result.code, result.out) == (0, "arbstr 0.1.0\n")


def test_same_program_runs_when_started_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "arbstr", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "arbstr 0.1.0\n"


@pytest.mark.parametrize("argv", [["help"], ["-h"], ["--help"]])
def test_usage_is_on_stdout_when_help_is_asked_for(run: Callable, argv: list[str]) -> None:
    result = run(*argv)
    assert result.code == 0
    for verb in ("serve", "check", "providers", "models", "stats", "requests", "replay", "agents"):
        assert verb in result.out


@pytest.mark.parametrize(
    "argv",
    [[], ["sell"], ["serve", "--moc"], ["check", "--mock"], ["agents"], ["agents", "add"], ["agents", "deposit", "a"]],
)
def test_usage_is_on_stderr_with_code_2_when_the_line_is_not_understood(run: Callable, argv: list[str]) -> None:
    result = run(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("usage: arbstr")


@pytest.mark.parametrize("verb", ["serve", "providers", "models", "stats", "requests", "replay"])
def test_example_and_mock_are_named_when_there_is_no_configuration(run: Callable, verb: str) -> None:
    result = run(verb)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: config.toml: Failed to read config file config.toml: No such file")
    assert "\n\nCaused by:\n    [Errno 2]" in result.err
    assert "config.example.toml" in result.err
    assert "serve --mock" in result.err


def test_parser_error_is_given_as_the_cause_when_the_file_is_not_toml(run: Callable, write: Callable) -> None:
    write("listen 3")
    result = run("providers")
    assert result.code == 1
    assert result.err.startswith("Error: config.toml:1: Failed to parse config:")
    assert "Caused by:\n    Expected '='" in result.err


def test_cause_is_left_out_when_the_values_are_wrong(run: Callable, write: Callable) -> None:
    write("[server]\nlisten = 3\nmax_requests = 0")
    result = run("serve")
    assert result.code == 1
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == ["Error", "Error"]


def test_code_is_130_when_interrupted(run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("arbstr.cli._check.load", interrupt)
    assert run("check").code == 130


def test_nothing_is_complained_about_when_the_reader_leaves(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("".join(f"[[providers]]\nname = 'p{n}'\nurl = 'mock://{n}'\n" for n in range(3_000)))
    command = f"{sys.executable} -m arbstr providers -c {config} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Configured providers:\n", "")


@pytest.mark.parametrize(
    ("text", "msat"),
    [
        ("1", 1_000),
        ("1000", 1_000_000),
        ("0.5", 500),
        ("1.234", 1_234),
        ("0.001", 1),
        ("250msat", 250),
        ("250 msat", 250),
        ("2100000000000000", 2_100_000_000_000_000_000),
    ],
)
def test_amount_is_exact_when_it_is_one(text: str, msat: int) -> None:
    assert parse_amount_msat(text) == msat


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0.000", "-1", "+1", "1.2345", "1.", ".5", "1e3", "1,5", "nan", "inf", "0msat", "1.5msat", "1 sat"),
        "\N{ARABIC-INDIC DIGIT ONE}",
        "2100000000000000.001",
        "9" * 5_000,
    ],
)
def test_amount_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_amount_msat(text)


@pytest.mark.parametrize(
    "argv", [["models"], ["stats", "--group-by", "model"], ["requests"], ["requests", "1"], ["replay"]]
)
def test_tables_are_drawn_when_the_reader_is_a_person(
    run: Callable, file: Callable, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    file("a", selection='{"candidates":[["[red]alpha",1]],"left_out":[]}')
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("arbstr.cli._output.on_terminal", lambda: True)
    result = run(*argv)
    assert result.code == 0
    assert "─" in result.out
    assert "big" in result.out
