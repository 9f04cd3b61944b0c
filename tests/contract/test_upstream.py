"""The scripted upstream itself: what it says it does is what arrives."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator

import pytest

from tests.contract.client import Answer, open_request, send
from tests.contract.upstream import (
    CLOSE,
    RESET,
    Pause,
    Upstream,
    answer,
    chat,
    chunk_object,
    error,
    faults,
    models,
    sse,
    stream,
)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def ask(upstream: Upstream, name: str, body: bytes = b'{"model": "m"}', path: str = "/chat/completions") -> Answer:
    url = upstream.backend(name).url
    return send(upstream.address, "POST", url.removeprefix(upstream.address) + path, body=body)


def test_script_is_played_in_order_and_its_last_answer_is_repeated(upstream: Upstream) -> None:
    upstream.backend("order").replies(error(503), chat("then"))
    assert [ask(upstream, "order").status for _ in range(4)] == [503, 200, 200, 200]
    assert ask(upstream, "order").json["choices"][0]["message"]["content"] == "then"


def test_request_is_recorded_whole_when_it_has_been_answered(upstream: Upstream) -> None:
    ask(upstream, "record", b'{"model": "m", "seed": 12345678901234567890}')
    (seen,) = upstream.backend("record").wait_for_calls(1)
    assert (seen.method, seen.path, seen.body) == (
        "POST",
        "/chat/completions",
        b'{"model": "m", "seed": 12345678901234567890}',
    )
    assert seen.headers["content-length"] == "44"
    assert seen.answered.wait(10)
    assert not seen.left.is_set()


def test_other_paths_have_scripts_of_their_own(upstream: Upstream) -> None:
    upstream.backend("paths").on("/models", models("a", "b"))
    assert [one["id"] for one in ask(upstream, "paths", path="/models?limit=2").json["data"]] == ["a", "b"]
    assert upstream.backend("paths").calls("/models")[0].query == "limit=2"
    assert ask(upstream, "paths", path="/elsewhere").status == 404


def test_stream_waits_for_the_gate_that_the_test_opens(upstream: Upstream) -> None:
    gate = threading.Event()
    upstream.backend("gate").replies(stream("one", gate, "two"))
    with open_request(upstream.address, "POST", "/gate/v1/chat/completions", body=b"{}") as exchange:
        assert b"two" not in exchange.read_until(b"one")
        gate.set()
        rest = exchange.rest()
    assert rest.complete
    assert rest.text == "onetwo"
    assert rest.payloads[-1] == "[DONE]"


def test_client_that_leaves_is_noticed_while_a_gate_is_shut(upstream: Upstream) -> None:
    upstream.backend("leaver").replies(stream("one", threading.Event(), "two"))
    with open_request(upstream.address, "POST", "/leaver/v1/chat/completions", body=b"{}") as exchange:
        exchange.read_until(b"one")
        exchange.leave()
    assert upstream.backend("leaver").calls()[0].left.wait(10)


def test_connection_is_kept_after_a_whole_answer_only() -> None:
    assert chat().keep
    assert stream().keep
    assert not stream(ending=CLOSE).keep
    assert not answer(b"{}", length=9).keep


def test_refused_url_refuses(upstream: Upstream) -> None:
    with pytest.raises(ConnectionRefusedError):
        send(upstream.refused_url().removesuffix("/v1"), "GET", "/")


def test_every_fault_of_the_list_is_there() -> None:
    names = set(faults())
    assert {
        f"status_{status}" for status in (400, 401, 402, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 520)
    } < names
    assert {
        *("refused", "reset_before_headers", "slow_headers", "bad_json", "empty_body", "wrong_content_type"),
        *("truncated_body", "reset_mid_body", "no_done", "no_usage", "usage_late", "usage_wrong", "long_line"),
        *("error_event_mid_stream", "invalid_utf8", "trickle", "hang"),
    } < names


SMALL = faults(pause_s=0.2, line_bytes=1 << 20)
SILENT = {"hang", "hang_mid_body"}
CUT = {"truncated_body", "reset_mid_body", "bad_json", "long_line"}


@pytest.mark.parametrize("name", [name for name, fault in SMALL.items() if fault.listens and name not in SILENT])
@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_fault_does_what_it_is_called(upstream: Upstream, name: str, kind: str) -> None:
    script = getattr(SMALL[name], kind)
    if script is None:
        assert kind == "plain"
        return
    upstream.backend(f"{name}-{kind}").replies(script)
    if name.endswith("before_headers"):
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            ask(upstream, f"{name}-{kind}")
        return
    got = ask(upstream, f"{name}-{kind}")
    assert got.status == (int(name.split("_")[1]) if name.startswith("status_") else 200)
    whole = name not in CUT or (name, kind) in {("bad_json", "plain"), ("long_line", "plain"), ("long_line", "stream")}
    assert got.complete == whole
    if name == "long_line":
        assert len(got.body) >= 1 << 20
    if name == "status_429_with_retry_after":
        assert got.headers["retry-after"] == "7"


@pytest.mark.parametrize("name", sorted(SILENT))
@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_silence_lasts_until_the_client_leaves(upstream: Upstream, name: str, kind: str) -> None:
    backend = upstream.backend(f"{name}-{kind}")
    backend.replies(getattr(SMALL[name], kind))
    with open_request(upstream.address, "POST", f"/{name}-{kind}/v1/chat/completions", body=b"{}") as exchange:
        (seen,) = backend.wait_for_calls(1)
        assert not seen.left.is_set()
        exchange.leave()
    assert seen.left.wait(10)


def test_cut_stream_has_no_last_chunk_and_a_reset_is_one(upstream: Upstream) -> None:
    upstream.backend("cut").replies(stream("po", ending=CLOSE), sse(chunk_object("po"), Pause(0.05), ending=RESET))
    assert not ask(upstream, "cut").complete
    assert not ask(upstream, "cut").complete
