"""The command, run in this process and in an empty directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from arbstr.cli import main
from arbstr.store import ReceiptOnly, ReceiptRow, Store


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


CONFIG = """
[database]
path = "books.db"
durability = "process"
[aliases]
fast = "small"
[[providers]]
name = "alpha"
url = "mock://a"
input_rate = 2.5
output_rate = 10
[[providers.models]]
id = "big"
[[providers.models]]
id = "small"
upstream_id = "vendor/small"
input_rate = 0.5
output_rate = 1
cached_input_rate = 0.1
context_tokens = 1000
max_output_tokens = 100
[[providers]]
name = "beta"
url = "mock://b"
models = ["big", "small"]
input_rate = 2
output_rate = 20
base_fee = 0.5
"""
"""Two providers with two models, and an alias for one of these."""


@pytest.fixture
def books(write: Callable[..., Path], tmp_path: Path) -> Iterator[Store]:
    """The database of a written configuration, held as by a running arbstr."""
    write(CONFIG)
    with Store.open(tmp_path / "books.db", durability="process") as store:
        yield store


@pytest.fixture
def file(books: Store) -> Callable[..., None]:
    """File a receipt; what is not named is of an ordinary one. Times are seconds ago."""
    now_ns = time.time_ns()

    def file(request_id: str, ago_s: float = 10, **changes: Any) -> None:
        values = {
            "agent_id": None,
            "correlation_id": None,
            "hold_id": None,
            "started_ns": now_ns - int(ago_s * 1_000_000_000),
            "duration_us": 2_500,
            "model": "big",
            "provider": "alpha",
            "policy": None,
            "stream": False,
            "outcome": "ok",
            "http_status": 200,
            "error": None,
            "prompt_tokens": 1_000,
            "completion_tokens": 100,
            "estimated": False,
            "expected_msat": 4_000,
            "cost_msat": 3_500,
            "saved_median_msat": 500,
            "saved_dearest_msat": 1_000,
        }
        books.commit_now(ReceiptOnly(ReceiptRow(request_id, **{**values, **changes})))

    return file
