"""What answers as a provider does? An OpenAI-compatible answerer on raw Trio sockets, plain and SSE.

Run as ``python -m bench.upstream``. It answers with exactly ``max_tokens`` tokens; a stream carries one token per
event, one event per write, ``--gap-ms`` apart, so that a proxy has to pass on each by itself.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import trio
from attrs import frozen

from bench.http1 import ProtocolError, RequestReader

RECEIVE_BYTES = 64 * 1024
IDLE_S = 120.0
MAX_TOKENS = 100_000


@frozen
class Call:
    """What a request asks for."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    stream: bool
    include_usage: bool


def read_call(body: bytes) -> Call:
    """Raises ValueError for anything that is not a chat request."""
    fields = json.loads(body)
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
        raise ValueError("not a chat request")  # noqa: TRY004 - the peer's fault, as is bad JSON, not a wrong call
    text_bytes = sum(len(str(message.get("content", "")).encode()) for message in fields["messages"])
    tokens = fields.get("max_completion_tokens") or fields.get("max_tokens") or 16
    options = fields.get("stream_options") or {}
    return Call(
        model=str(fields.get("model", "")),
        prompt_tokens=-(-text_bytes // 4),
        completion_tokens=min(int(tokens), MAX_TOKENS),
        stream=bool(fields.get("stream")),
        include_usage=bool(options.get("include_usage")),
    )


def usage(call: Call) -> dict[str, int]:
    total = call.prompt_tokens + call.completion_tokens
    return {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens, "total_tokens": total}


def plain_answer(call: Call) -> bytes:
    """Head and body of a plain answer."""
    message = {"role": "assistant", "content": "tok " * call.completion_tokens}
    body = _json(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 0,
            "model": call.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage(call),
        }
    )
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def token_event(call: Call, text: str = "tok ") -> bytes:
    """The event of one token."""
    return _event(call, [{"index": 0, "delta": {"content": text}, "finish_reason": None}])


def last_events(call: Call) -> bytes:
    """Finish reason, usage when asked for, and ``[DONE]``."""
    finish = _event(call, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    told = _event(call, [], usage(call)) if call.include_usage else b""
    return finish + told + b"data: [DONE]\n\n"


def _event(call: Call, choices: list[dict[str, object]], told: dict[str, int] | None = None) -> bytes:
    payload: dict[str, object] = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": call.model,
        "choices": choices,
    }
    if told is not None:
        payload["usage"] = told
    return b"data: " + _json(payload) + b"\n\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def serve_connection(stream: trio.SocketStream, gap_s: float) -> None:
    """Answer request after request until the peer closes, errs or is idle for too long."""
    async with stream:
        try:
            with trio.move_on_after(IDLE_S) as idle:
                while await _serve_one(stream, gap_s):
                    idle.deadline = trio.current_time() + IDLE_S
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _serve_one(stream: trio.SocketStream, gap_s: float) -> bool:
    reader = RequestReader()
    try:
        while not reader.complete:
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                return False
            reader.feed(bytes(data))
        call = read_call(reader.take_body())
    except (ProtocolError, ValueError) as error:
        body = _json({"error": {"message": str(error), "type": "invalid_request_error"}})
        head = f"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)
        return False
    if call.stream:
        await _send_stream(stream, call, gap_s)
    else:
        await stream.send_all(plain_answer(call))
    return True


async def _send_stream(stream: trio.SocketStream, call: Call, gap_s: float) -> None:
    event, due = chunk(token_event(call)), trio.current_time()
    await stream.send_all(STREAM_HEAD)
    for _ in range(call.completion_tokens):
        due += gap_s
        await trio.sleep_until(due)
        await stream.send_all(event)
    await stream.send_all(chunk(last_events(call)) + b"0\r\n\r\n")


async def serve(gap_s: float) -> None:
    """Listen on a free port of 127.0.0.1 and say which."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    await trio.serve_listeners(partial(serve_connection, gap_s=gap_s), listeners)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description=__doc__)
    parser.add_argument("--gap-ms", type=float, default=2.0, help="time between two events of a stream")
    trio.run(partial(serve, parser.parse_args().gap_ms / 1_000))


if __name__ == "__main__":
    main()
