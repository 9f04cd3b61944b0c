"""What a mock provider says: a chat request in, the bytes of an OpenAI answer out. Pure.

Every token of the answer is one word with the space before it; of a tool call, a few characters of its arguments. Words
and their JSON are made once for the process, so that an answer of any length costs a slice and a join.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Final

from attrs import field, frozen

DEFAULT_COMPLETION_TOKENS: Final = 48
MAX_COMPLETION_TOKENS: Final = 4_096
MAX_CHOICES: Final = 16
BYTES_PER_TOKEN: Final = 4
_ECHO_WORDS: Final = 12
_ECHO_CHARACTERS: Final = 120
_ARGUMENT_CHARACTERS: Final = 4
_FINGERPRINT: Final = "fp_mock"

_FILLER: Final = (
    "Nothing of this was thought by a model: these are plain words from a fixed list, as many as were asked for, so"
    " that a client, a meter and a ledger have something to count."
)

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode  # json.dumps makes one on each call


def dump(value: object) -> bytes:
    """Compact UTF-8 JSON; a lone surrogate, which is legal in JSON text, becomes a question mark."""
    return _dumps(value).encode("utf-8", "replace")


def _content_delta(text: str) -> bytes:
    return b'{"content":' + dump(text) + b"}"


_FILLER_WORDS: Final = tuple(islice(cycle([" " + word for word in _FILLER.split()]), MAX_COMPLETION_TOKENS))
_FILLER_DELTAS: Final = tuple(
    islice(cycle([_content_delta(" " + word) for word in _FILLER.split()]), MAX_COMPLETION_TOKENS)
)


class Refused(Exception):
    """The request is answered with an error of this status and body."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param=param, code=code)


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """An error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return dump({"error": {"message": message, "type": kind, "param": param, "code": code}})


@frozen
class MockCall:
    """The part of a chat request that a mock answer depends on."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    tool: Mapping[str, Any] | None
    """The function to call; None for an answer in words."""


@frozen
class MockAnswer:
    """One answer, decided before its first byte; every choice says the same."""

    id: str
    created: int
    model: str
    choices: int
    deltas: Sequence[bytes] = field(repr=False)
    """One JSON object for each token, in order."""
    message: Mapping[str, Any]
    finish_reason: str
    prompt_tokens: int

    def body(self) -> bytes:
        """The whole answer as one chat.completion."""
        choices = [
            {"index": index, "message": self.message, "logprobs": None, "finish_reason": self.finish_reason}
            for index in range(self.choices)
        ]
        return dump({**self._envelope("chat.completion"), "choices": choices, "usage": self._usage()})

    def frames(self, include_usage: bool) -> MockFrames:
        """The answer as server-sent events, one chunk for each token."""
        envelope = dump(self._envelope("chat.completion.chunk"))[:-1]
        usage = b',"usage":null' if include_usage else b""
        prefixes = tuple(
            b'data: %b,"choices":[{"index":%d,"delta":' % (envelope, index) for index in range(self.choices)
        )
        end = b',"logprobs":null,"finish_reason":%b}]%b}\n\n'
        going_on = end % (b"null", usage)
        role = b'{"role":"assistant","content":"","refusal":null}'
        if "tool_calls" in self.message:
            role = b'{"role":"assistant","content":null,"refusal":null}'
        finish = b"{}" + end % (dump(self.finish_reason), usage)
        last = b""
        if include_usage:
            last = b'data: %b,"choices":[],"usage":%b}\n\n' % (envelope, dump(self._usage()))
        return MockFrames(
            head=b"".join(prefix + role + going_on for prefix in prefixes),
            prefixes=prefixes,
            suffix=going_on,
            deltas=self.deltas,
            tail=b"".join(prefix + finish for prefix in prefixes) + last + b"data: [DONE]\n\n",
        )

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": _FINGERPRINT,
        }

    def _usage(self) -> dict[str, int]:
        completion_tokens = len(self.deltas) * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }


@frozen
class MockFrames:
    """The events of one stream: ``head``, then any number of ``tokens`` slices in order, then ``tail``."""

    head: bytes
    prefixes: tuple[bytes, ...]
    suffix: bytes
    deltas: Sequence[bytes]
    tail: bytes

    def tokens(self, start: int, end: int) -> bytes:
        """The events of the tokens ``start`` to ``end - 1``, for every choice."""
        deltas = self.deltas[start:end]
        if not deltas:
            return b""
        if len(self.prefixes) == 1:
            prefix = self.prefixes[0]
            return prefix + (self.suffix + prefix).join(deltas) + self.suffix
        return b"".join(prefix + delta + self.suffix for delta in deltas for prefix in self.prefixes)


def parse_call(body: bytes, models: Sequence[str]) -> MockCall:
    """Read a chat request. Raises Refused as a decent provider would: 400 for what is wrong, 404 for the model."""
    try:
        call = json.loads(body)
    except ValueError:
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(call, dict):
        raise Refused(400, "The body of a chat request is a JSON object.")
    model, messages = call.get("model"), call.get("messages")
    if not isinstance(model, str):
        raise Refused(400, "you must provide a model parameter", param="model")
    if models and model not in models:
        raise Refused(404, f"The model `{model}` does not exist", param="model", code="model_not_found")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise Refused(400, "messages must be a list of objects that is not empty", param="messages")
    options = call.get("stream_options")
    return MockCall(
        model=model,
        messages=messages,
        stream=call.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_whole(call, "max_completion_tokens") or _whole(call, "max_tokens"),
        choices=_whole(call, "n", MAX_CHOICES) or 1,
        tool=_tool_to_call(call.get("tools"), call.get("tool_choice")),
    )


def answer_to(call: MockCall, *, provider: str, id: str, created: int) -> MockAnswer:
    """Decide the answer. The same call always gets the same words."""
    texts = [(message.get("role"), text_of(message.get("content"))) for message in call.messages]
    prompt_bytes = sum(len(text.encode("utf-8", "replace")) for _, text in texts)
    deltas, message, finish_reason = _tool_call(call.tool, id) if call.tool else _words(call, provider, texts)
    return MockAnswer(
        id=id,
        created=created,
        model=call.model,
        choices=call.choices,
        deltas=deltas,
        message=message,
        finish_reason=finish_reason,
        prompt_tokens=max(-(-prompt_bytes // BYTES_PER_TOKEN), 1),
    )


def text_of(content: object) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _words(
    call: MockCall, provider: str, texts: Sequence[tuple[object, str]]
) -> tuple[Sequence[bytes], dict[str, Any], str]:
    wanted = min(call.max_tokens or DEFAULT_COMPLETION_TOKENS, MAX_COMPLETION_TOKENS)
    opening = ["Mock", *(" " + word for word in f"answer of {provider}.".split())]
    asked = next((text for role, text in reversed(texts) if role == "user"), "")
    echo = asked[:_ECHO_CHARACTERS].split()[:_ECHO_WORDS]
    if echo:
        opening += [" You", " said:", *(" " + word for word in echo), " …"]
    del opening[wanted:]
    rest = wanted - len(opening)
    deltas = [*map(_content_delta, opening), *_FILLER_DELTAS[:rest]]
    content = "".join(opening) + "".join(_FILLER_WORDS[:rest])
    finish_reason = "length" if call.max_tokens == wanted else "stop"
    return deltas, {"role": "assistant", "content": content, "refusal": None}, finish_reason


def _tool_call(tool: Mapping[str, Any], id: str) -> tuple[Sequence[bytes], dict[str, Any], str]:
    arguments = _dumps(_example(tool.get("parameters")))
    called = {"id": f"call_{id}", "type": "function", "function": {"name": tool["name"], "arguments": ""}}
    pieces = [arguments[at : at + _ARGUMENT_CHARACTERS] for at in range(0, len(arguments), _ARGUMENT_CHARACTERS)]
    deltas = [dump({"tool_calls": [{"index": 0, **called}]})]
    deltas += [dump({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces]
    whole = {**called, "function": {"name": tool["name"], "arguments": arguments}}
    return deltas, {"role": "assistant", "content": None, "refusal": None, "tool_calls": [whole]}, "tool_calls"


def _tool_to_call(tools: object, choice: object) -> Mapping[str, Any] | None:
    """The function that the request insists on: the named one, or the first when any is required."""
    if choice is None or choice in ("auto", "none"):
        return None
    functions = {}
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions[function["name"]] = function
    if choice == "required" and functions:
        return next(iter(functions.values()))
    named = choice.get("function") if isinstance(choice, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if isinstance(name, str) and name in functions:
        return functions[name]
    raise Refused(400, "tool_choice asks for a function that is not in tools", param="tool_choice")


def _example(schema: object) -> Any:
    """A value that fits a simple JSON schema: of an enum the first, of an object what it requires, else a plain one."""
    if not isinstance(schema, dict):
        return {}
    allowed = schema.get("enum")
    if isinstance(allowed, list) and allowed:
        return allowed[0]
    match schema.get("type"):
        case "string":
            return "mock"
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return []
        case "null":
            return None
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    return {name: _example(properties.get(name)) for name in required if isinstance(name, str)}


def _whole(call: Mapping[str, Any], key: str, most: int | None = None) -> int | None:
    value = call.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        raise Refused(400, f"{key} must be a positive integer" + (f" up to {most}" if most else ""), param=key)
    return value
