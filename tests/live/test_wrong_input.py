"""What the program answers to what it cannot use: a clear error, in the right shape, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live.program import Household, Program, arbstr, mock_provider, serving

CHAT = "/v1/chat/completions"
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def http(market: Program) -> Iterator[httpx.Client]:
    with market.client() as client:
        yield client


def error_of(answer: httpx.Response) -> dict[str, object]:
    """The error of a refusal, after checking the shape that every one has."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-arbstr-request-id"]
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


def post(http: httpx.Client, body: object, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(CHAT, content=content, headers={"content-type": "application/json", **headers})


def test_body_that_is_not_json(http: httpx.Client) -> None:
    answer = post(http, b'{"model": bad')
    assert answer.status_code == 400
    assert "JSON" in str(error_of(answer)["message"])


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_member_is_named(http: httpx.Client, missing: str) -> None:
    answer = post(http, {key: value for key, value in HELLO.items() if key != missing})
    assert answer.status_code == 422
    assert error_of(answer)["param"] == missing


def test_unknown_model(http: httpx.Client) -> None:
    answer = post(http, {**HELLO, "model": "nosuch"})
    assert answer.status_code == 400
    assert "No providers available" in str(error_of(answer)["message"])


def test_body_of_40_megabytes(http: httpx.Client) -> None:
    answer = post(http, b'{"x":"' + b"a" * (40 << 20) + b'"}')
    assert answer.status_code == 413
    error_of(answer)


def test_wrong_content_type(http: httpx.Client) -> None:
    answer = http.post(CHAT, content=b"model=x", headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 415
    error_of(answer)


@pytest.mark.parametrize("bearer", ["Bearer nope", "bearer vtk_x", "Basic abc", "Bearer"])
def test_bad_bearer(http: httpx.Client, bearer: str) -> None:
    answer = post(http, HELLO, authorization=bearer)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"


def test_unknown_path_and_wrong_method(http: httpx.Client) -> None:
    assert error_of(http.get("/nope"))["code"] == 404
    answer = http.get(CHAT)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    error_of(answer)


def test_half_a_request_then_silence_is_given_up(household: Household) -> None:
    household.write_config(mock_provider("one"), server="body_timeout_s = 0.3")
    token = household.add_agent("a", "10")
    with household.serve() as program:
        with socket.create_connection(("127.0.0.1", program.port), timeout=20) as peer:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
            peer.sendall(head.encode() + b'content-type: application/json\r\ncontent-length: 100\r\n\r\n{"model"')
            answer = peer.makefile("rb").read()
        program.stop()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"error"' in answer


def test_port_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = arbstr("serve", "--mock", "-l", f"127.0.0.1:{taken.getsockname()[1]}", cwd=tmp_path)
    assert done.returncode == 1
    assert str(taken) or done.stderr
    assert "Error: " in done.stderr
    assert "in use" in done.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ('[server]\nlisen = "127.0.0.1:0"\n', "listen"),
        ('rate_unit = "sats_per_token"\n', "sats_per_1k_tokens"),
        (mock_provider("a") + mock_provider("a"), "already on line 2"),
        ('[[providers]]\nname = "a"\nurl = "http://127.0.0.1"\napi_key = "${NOT_SET_HERE}"\n', "NOT_SET_HERE"),
        ('[[providers]]\nname = "a"\nurl = "ftp://x"\n', "ftp"),
        ("[server\n", "line 1"),
    ],
    ids=["unknown key", "bad unit", "duplicate provider", "missing variable", "bad url", "syntax"],
)
def test_wrong_configuration_names_line_value_and_fix(tmp_path: Path, change: str, named: str) -> None:
    (tmp_path / "config.toml").write_text(change)
    for verb in ("check", "serve"):
        done = arbstr(verb, cwd=tmp_path)
        assert done.returncode == 1
        assert named in done.stderr
        assert "config.toml" in done.stderr


def test_database_of_a_later_version_is_left_alone(household: Household) -> None:
    household.write_config(mock_provider("one"))
    household.add_agent("a", "10")
    database = household.path / "books.db"
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = database.read_bytes()
    done = arbstr("serve", cwd=household.path)
    assert done.returncode == 1
    assert "schema version 99" in done.stderr
    assert database.read_bytes() == before


def test_database_in_use_by_another_arbstr_is_refused(household: Household) -> None:
    household.write_config(mock_provider("one"))
    household.add_agent("a", "10")
    with household.serve() as program:
        done = arbstr("serve", cwd=household.path)
        assert done.returncode == 1
        assert f"process {program.process.pid}" in done.stderr
        listed = arbstr("agents", "list", cwd=household.path)
        assert "ag_" in listed.stdout, "reading goes on beside a running program"
        assert program.stop() == 0


def test_full_disk_refuses_before_anything_is_spent_and_says_so(household: Household) -> None:
    household.write_config(mock_provider("one"))
    token = household.add_agent("a", "1000")
    room = (household.path / "books.db").stat().st_size + (1 << 18)

    def limit() -> None:
        # A file that may not grow is a full disk for whoever writes to it.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 200}], "max_tokens": 1}
    with household.serve(preexec=limit) as program, program.client(token) as http:
        for _ in range(600):
            answer = http.post(CHAT, json=body)
            if answer.status_code != 200:
                break
        assert answer.status_code == 503
        assert error_of(answer)["reason"] == "ledger_unavailable"
        assert http.get("/v1/models").status_code == 200
        assert program.stop() == 0
    with household.serve() as program:  # with room again, what was left open is resolved
        with program.client(token) as http:
            assert http.post(CHAT, json=body).status_code == 200
        program.stop()
    assert household.check().open_holds == 0


def test_mock_needs_no_file_and_leaves_none(tmp_path: Path) -> None:
    with serving("--mock", "-l", "127.0.0.1:0", cwd=tmp_path) as program:
        program.wait_for_token()
        with httpx.Client(base_url=program.address) as nobody:
            assert nobody.post(CHAT, json=HELLO).status_code == 200, "a local peer without a bearer is the demo agent"
        program.stop(signal.SIGINT)
    assert os.listdir(tmp_path) == []
