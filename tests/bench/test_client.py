"""The client of the bench against the bench's own answerer, over real sockets in one Trio program."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bench.client import Ask, Client, Outcome, Target, filler, request_bytes
from bench.http1 import RequestReader
from bench.load import asks_of, closed_loop, open_loop
from bench.trace import generate
from bench.upstream import serve_connection

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Target]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield Target("127.0.0.1", listeners[0].socket.getsockname()[1], "m", "token")
        nursery.cancel_scope.cancel()


def scripted(*answers: bytes) -> Handler:
    """Answer each request on a connection with the next of ``answers``, then close."""

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            for answer in answers:
                reader = RequestReader()
                while not reader.complete:
                    reader.feed(bytes(await stream.receive_some()))
                await stream.send_all(answer)

    return handler


def http(status: int, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


async def once(target: Target, ask: Ask, timeout_s: float = 10.0) -> Outcome:
    async with Client(target, timeout_s) as client:
        return await client.request(ask)


SSE = "content-type: text/event-stream"


@pytest.mark.parametrize("stream", [False, True])
async def test_reports_tokens_and_times_when_an_answer_is_complete(stream: bool) -> None:
    async with serving(partial(serve_connection, gap_s=0.0)) as target:
        outcome = await once(target, Ask(0, 40, 7, stream))

    assert outcome.ok
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.cost_msat) == (40, 7, None)
    assert outcome.events == (9 if stream else 0)
    assert outcome.total_s is not None
    assert outcome.ttft_s is not None
    assert 0 <= outcome.ttft_s <= outcome.total_s


async def test_uses_one_connection_when_requests_follow_each_other() -> None:
    connections = 0

    async def counting(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await serve_connection(stream, 0.0)

    async with serving(counting) as target:
        result = await closed_loop(target, [Ask(n, 5, 3, n % 2 == 0) for n in range(10)], connections=1)

    assert all(outcome.ok for outcome in result.outcomes)
    assert (connections, result.most_at_once) == (1, 1)


async def test_opens_a_new_connection_when_the_server_has_closed_the_idle_one() -> None:
    body = json.dumps({"choices": []}).encode()
    async with serving(scripted(http(200, body))) as target, Client(target) as client:
        first = await client.request(Ask(0, 1, 1, False))
        await wait_all_tasks_blocked(0.01)
        second = await client.request(Ask(1, 1, 1, False))

    assert first.ok
    assert second.ok


async def test_reads_cost_and_provider_from_headers_when_the_answer_is_plain() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    body = json.dumps({"choices": [], "usage": usage}).encode()
    headers = ("x-arbstr-cost-msat: 12", "x-arbstr-provider: a", "x-arbstr-retries: 1/b", "x-arbstr-request-id: r")
    async with serving(scripted(http(200, body, *headers))) as target:
        outcome = await once(target, Ask(0, 1, 1, False))

    assert (outcome.kind, outcome.cost_msat, outcome.provider) == ("ok", 12, "a")
    assert (outcome.retries, outcome.request_id) == ("1/b", "r")


async def test_reads_cost_from_the_usage_chunk_when_the_answer_is_a_stream() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "arbstr": {"cost_msat": 12}}
    events = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    async with serving(scripted(http(200, events, SSE))) as target:
        outcome = await once(target, Ask(0, 1, 1, True))

    assert (outcome.kind, outcome.cost_msat, outcome.completion_tokens) == ("ok", 12, 4)


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (http(502, b'{"error":{"code":502,"reason":"provider_failed"}}'), "http_error", "provider_failed"),
        (http(404, b'{"error":{"code":"model_not_found"}}'), "http_error", "model_not_found"),
        (http(500, b"oops"), "http_error", None),
        (http(200, b"not json"), "protocol", None),
        (http(200, b'data: {"choices":[]}\n\n', SSE), "stream_cut", None),
        (http(200, b'data: {"error":{"reason":"idle_timeout"}}\n\n', SSE), "stream_error", "idle_timeout"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "connection", "closed within the body"),
        (b"", "connection", "closed before an answer"),
        (b"nonsense\r\n\r\n", "protocol", "not a status line: b'nonsense'"),
    ],
    ids=["502", "404", "not_openai", "not_json", "no_done", "error_event", "half", "nothing", "not_http"],
)
async def test_names_the_kind_of_failure_when_an_answer_is_not_one(
    answer: bytes, kind: str, reason: str | None
) -> None:
    async with serving(scripted(answer)) as target:
        outcome = await once(target, Ask(0, 1, 1, False))

    assert (outcome.kind, outcome.reason) == (kind, reason)


async def test_reports_a_refused_connection_when_nobody_listens() -> None:
    async with serving(scripted()) as target:
        pass
    outcome = await once(target, Ask(0, 1, 1, False))

    assert outcome.kind == "connection"
    assert outcome.reason is not None
    assert outcome.reason.startswith("refused")


async def test_gives_up_when_an_answer_takes_longer_than_the_timeout() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    async with serving(silent) as target:
        outcome = await once(target, Ask(0, 1, 1, False), timeout_s=0.01)

    assert outcome.kind == "timeout"


async def test_marks_the_rest_unfinished_when_the_overall_bound_is_reached() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    asks = [Ask(n, 1, 1, False) for n in range(5)]
    async with serving(silent) as target:
        result = await open_loop(target, asks, [0.0] * 5, concurrency=2, bound_s=0.05)

    assert [outcome.kind for outcome in result.outcomes] == ["unfinished"] * 5
    assert result.most_at_once == 2


async def test_never_has_more_at_once_than_allowed_when_all_arrive_together() -> None:
    asks = [Ask(n, 5, 5, n % 2 == 0) for n in range(40)]
    ended: list[int] = []
    async with serving(partial(serve_connection, gap_s=0.0)) as target:
        result = await open_loop(target, asks, [0.0] * 40, concurrency=4, bound_s=10.0, progress=ended.append)

    assert all(outcome.ok for outcome in result.outcomes)
    assert [outcome.ask for outcome in result.outcomes] == asks
    assert result.most_at_once == 4
    assert ended == list(range(1, 41))
    assert max(outcome.delay_s for outcome in result.outcomes) > 0


def test_prompt_has_about_four_bytes_per_token_when_a_request_is_built() -> None:
    data = request_bytes(Target("h", 1, "m", "secret"), Ask(17, 500, 3, True))
    reader = RequestReader()
    reader.feed(data)
    body = json.loads(reader.take_body())

    assert reader.headers["authorization"] == "Bearer secret"
    assert len(body["messages"][0]["content"]) == 2_000
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 3, True)
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("size", [1, 3, 100, 1_000_000])
def test_filler_has_exactly_the_size_when_asked_for(size: int) -> None:
    assert len(filler(123, size)) == size


def test_draws_the_same_streams_when_the_seed_is_the_same() -> None:
    arrivals = generate(200, seed=1)
    asks = asks_of(arrivals, stream_share=0.5, seed=1)

    assert asks == asks_of(arrivals, stream_share=0.5, seed=1)
    assert 60 < sum(ask.stream for ask in asks) < 140
    assert not any(ask.stream for ask in asks_of(arrivals, stream_share=0.0, seed=1))
    assert all(ask.stream for ask in asks_of(arrivals, stream_share=1.0, seed=1))


@pytest.mark.parametrize("url", ["http://127.0.0.1:81", "http://127.0.0.1:81/", "http://127.0.0.1:81/v1"])
def test_finds_the_path_when_an_address_is_given_in_any_form(url: str) -> None:
    assert Target.of(url, "m") == Target("127.0.0.1", 81, "m", None, "/v1/chat/completions")


def test_refuses_an_address_when_it_is_not_plain_http() -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Target.of("https://127.0.0.1", "m")
