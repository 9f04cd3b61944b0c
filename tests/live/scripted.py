"""A provider that answers by a script, as OpenAI would: the same for whoever asks, directly or through the program."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-upstream-secret"
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 4},
}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"city":"Köln"}'}}


def chat_answer(body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "hello é", "refusal": None}
    if "tools" in body:
        message = {**message, "content": None, "tool_calls": [TOOL_CALL]}
    elif "response_format" in body:
        message["content"] = '{"city":"Köln","people":1085664}'
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tools" in body else "stop"}
    return {**_head("chat.completion", body), "choices": [{**choice, "logprobs": None}], "usage": USAGE}


def chat_chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, {"content": "hello"}, {"content": " é"}]
    if "tools" in body:
        function = TOOL_CALL["function"]
        deltas = [
            {"role": "assistant", "content": None},
            {"tool_calls": [{"index": 0, **TOOL_CALL, "function": {**function, "arguments": ""}}]},  # type: ignore[dict-item]  # a dict of dicts
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '"Köln"}'}}]},
        ]
    chunks = [
        {**_head("chat.completion.chunk", body), "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if "tools" in body else "stop"}
    return [*chunks, {**_head("chat.completion.chunk", body), "choices": [end]}, *_usage_chunk(body)]


def completion_answer(body: dict[str, Any]) -> dict[str, Any]:
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    choices = [
        {"index": index, "text": f"after {prompt}", "finish_reason": "length", "logprobs": None}
        for index, prompt in enumerate(prompts)
    ]
    return {**_head("text_completion", body), "choices": choices, "usage": USAGE}


def completion_chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    chunks = [
        {**_head("text_completion", body), "choices": [{"index": 0, "text": text, "finish_reason": None}]}
        for text in ("once", " upon")
    ]
    return [*chunks, *_usage_chunk(body)]


def embeddings_answer(body: dict[str, Any]) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = [0.5, -0.25]
    if body.get("encoding_format") == "base64":  # what the SDK asks for by itself
        vector = "AAAAPwAAgL4="
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, _ in enumerate(texts)],
        "model": body["model"],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }


def _head(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "answer-1", "object": kind, "created": 1, "model": body["model"], "system_fingerprint": "fp_1"}


def _usage_chunk(body: dict[str, Any]) -> list[dict[str, Any]]:
    if not (body.get("stream_options") or {}).get("include_usage"):
        return []
    kind = "chat.completion.chunk" if "messages" in body else "text_completion"
    return [{**_head(kind, body), "choices": [], "usage": USAGE}]


ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "bad-request": (
        400,
        {
            "message": "temperature must be at most 2",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "decimal_above_max_value",
        },
    ),
    "too-long": (
        400,
        {
            "message": "too long",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "unprocessable": (422, {"message": "no", "type": "invalid_request_error", "param": None, "code": None}),
    "no-such-model": (
        404,
        {"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "model_not_found"},
    ),
    "limited": (429, {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}),
}
"""By model: what is answered to every request for it."""

MODELS = ("m", *ERRORS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)
        if self.headers["authorization"] != f"Bearer {KEY}":
            error = {"message": "wrong key", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
            return self._send(401, {"error": error})
        if body["model"] in ERRORS:
            status, error = ERRORS[body["model"]]
            return self._send(status, {"error": error}, retry_after=status == 429)
        kind = self.path.removeprefix("/v1/")
        if body.get("stream"):
            chunks = chat_chunks(body) if kind == "chat/completions" else completion_chunks(body)
            return self._stream(chunks)
        answers = {"chat/completions": chat_answer, "completions": completion_answer, "embeddings": embeddings_answer}
        return self._send(200, answers[kind](body))

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "created": 1, "owned_by": "script"} for name in MODELS]
        name = self.path.removeprefix("/v1/models").lstrip("/")
        found = next((model for model in models if model["id"] == name), None)
        if not name:
            self._send(200, {"object": "list", "data": models})
        elif found is not None:
            self._send(200, found)
        else:
            error = {"message": "no", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
            self._send(404, {"error": error})

    def _send(self, status: int, body: dict[str, Any], *, retry_after: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if retry_after:
            self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, chunks: list[dict[str, Any]]) -> None:
        data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def provider(self, *, output_rate: str = "15") -> str:
        models = ", ".join(f'"{model}"' for model in MODELS)
        return (
            f'[[providers]]\nname = "scripted"\nurl = "{self.url}"\napi_key = "{KEY}"\n'
            f"models = [{models}]\ninput_rate = 5\noutput_rate = {output_rate}\n"
        )
