"""The examples of docs/api.md, asked of the started program as they stand there."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import httpx
import pytest

from tests.live.program import Program

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
EXAMPLES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", MANUAL, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def asked_by_curl(command: str) -> httpx.Request:
    """What ``curl`` would send; no other options than these are in the manual."""
    words = iter(shlex.split(os.path.expandvars(command)))
    assert next(words) == "curl"
    url, headers, body = "", {}, None
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word != "-s":
            assert not word.startswith("-"), command
            url = word
    return httpx.Request("GET" if body is None else "POST", url, headers=headers, content=body)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("command", EXAMPLES)
def test_an_example_of_the_manual_works(market: Program, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    with market.client() as http:
        bought = http.post("/v1/chat/completions", json=HELLO)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{market.address}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", market.token or "")
        monkeypatch.setenv("REQUEST_ID", bought.headers["x-arbstr-request-id"])
        answer = http.send(asked_by_curl(command))
    assert answer.status_code == 200, answer.text
    assert answer.json()
