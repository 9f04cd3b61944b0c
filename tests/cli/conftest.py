"""The command, run in this process and in an empty directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from arbstr.cli import main


@frozen
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in an empty directory; what argparse exits with is a code like any other."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Result:
        try:
            code = main(argv)
        except SystemExit as leave:
            code = int(leave.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a ``config.toml`` into the working directory."""

    def write(text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write
