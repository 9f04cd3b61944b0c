"""What a mock provider says: a request in, the bytes of an OpenAI answer out. Pure.

Chat completions, text completions and embeddings. Every token of an answer is one word with the space before it; of a
tool call, a few characters of its arguments. Words and their JSON are made once for the process, so that an answer of
any length costs a slice and a join.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import shake_256
from itertools import cycle, islice
from math import sqrt
from typing import Any, Final

from attrs import field, frozen

DEFAULT_COMPLETION_TOKENS: Final = 48
MAX_COMPLETION_TOKENS: Final = 4_096
MAX_CHOICES: Final = 16
MAX_TEXT_CHOICES: Final = 128
"""Prompts times choices of one text completion."""
MAX_INPUTS: Final = 2_048
"""Of one request for embeddings, as at OpenAI."""
EMBEDDING_NUMBERS: Final = 8
MAX_EMBEDDING_NUMBERS: Final = 4_096
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


def _text_delta(text: str) -> bytes:
    return dump(text)


_FILLER_WORDS: Final = tuple(islice(cycle([" " + word for word in _FILLER.split()]), MAX_COMPLETION_TOKENS))
_FILLER_DELTAS: Final = {
    delta: tuple(islice(cycle([delta(" " + word) for word in _FILLER.split()]), MAX_COMPLETION_TOKENS))
    for delta in (_content_delta, _text_delta)
}


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
    """The part of a request for a completion, chat or text, that a mock answer depends on."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    tool: Mapping[str, Any] | None = None
    """The function to call; None for an answer in words."""
    as_text: bool = False
    """It is a text completion; the prompts are in ``messages``."""
    prompt_tokens: int = 0
    """Of prompts that came as numbers, which have no text."""


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
    as_text: bool = False

    def body(self) -> bytes:
        """The whole answer as one chat.completion or text_completion."""
        said = {"text": self.message["content"]} if self.as_text else {"message": self.message}
        choices = [
            {"index": index, **said, "logprobs": None, "finish_reason": self.finish_reason}
            for index in range(self.choices)
        ]
        kind = "text_completion" if self.as_text else "chat.completion"
        return dump({**self._envelope(kind), "choices": choices, "usage": self._usage()})

    def frames(self, include_usage: bool) -> MockFrames:
        """The answer as server-sent events, one chunk for each token."""
        envelope = dump(self._envelope("text_completion" if self.as_text else "chat.completion.chunk"))[:-1]
        usage = b',"usage":null' if include_usage else b""
        member = b"text" if self.as_text else b"delta"
        prefixes = tuple(
            b'data: %b,"choices":[{"index":%d,"%b":' % (envelope, index, member) for index in range(self.choices)
        )
        end = b',"logprobs":null,"finish_reason":%b}]%b}\n\n'
        going_on = end % (b"null", usage)
        role = b'{"role":"assistant","content":"","refusal":null}'
        if "tool_calls" in self.message:
            role = b'{"role":"assistant","content":null,"refusal":null}'
        finish = (b'""' if self.as_text else b"{}") + end % (dump(self.finish_reason), usage)
        last = b""
        if include_usage:
            last = b'data: %b,"choices":[],"usage":%b}\n\n' % (envelope, dump(self._usage()))
        return MockFrames(
            head=b"" if self.as_text else b"".join(prefix + role + going_on for prefix in prefixes),
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
    call, model = _read(body, models)
    messages = call.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise Refused(400, "messages must be a list of objects that is not empty", param="messages")
    return MockCall(
        model=model,
        messages=messages,
        stream=call.get("stream") is True,
        include_usage=_includes_usage(call),
        max_tokens=_whole(call, "max_completion_tokens") or _whole(call, "max_tokens"),
        choices=_whole(call, "n", MAX_CHOICES) or 1,
        tool=_tool_to_call(call.get("tools"), call.get("tool_choice")),
    )


def parse_completion(body: bytes, models: Sequence[str]) -> MockCall:
    """Read a request for a text completion. Each prompt gets ``n`` choices, which all say the same. Raises Refused."""
    call, model = _read(body, models)
    prompts = _inputs(call, "prompt", empty=True)
    choices = len(prompts) * (_whole(call, "n", MAX_CHOICES) or 1)
    if choices > MAX_TEXT_CHOICES:
        raise Refused(400, f"prompts times n must be at most {MAX_TEXT_CHOICES}", param="prompt")
    return MockCall(
        model=model,
        messages=[{"role": "user", "content": prompt} for prompt in prompts if isinstance(prompt, str)],
        stream=call.get("stream") is True,
        include_usage=_includes_usage(call),
        max_tokens=_whole(call, "max_tokens"),
        choices=choices,
        as_text=True,
        prompt_tokens=sum(len(prompt) for prompt in prompts if not isinstance(prompt, str)),
    )


def embeddings_body(body: bytes, models: Sequence[str]) -> bytes:
    """The answer to a request for embeddings: for each input a vector of length 1, the same for the same input.

    It has ``dimensions`` numbers, 8 when none are asked for. Raises Refused.
    """
    call, model = _read(body, models)
    inputs = _inputs(call, "input")
    numbers = _whole(call, "dimensions", MAX_EMBEDDING_NUMBERS) or EMBEDDING_NUMBERS
    encoding = call.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise Refused(400, "encoding_format must be float or base64", param="encoding_format")
    as_base64 = encoding == "base64"
    vectors = (_vector(model, each, numbers) for each in inputs)
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(_tokens_of(each) if isinstance(each, str) else len(each) for each in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return dump({"object": "list", "data": data, "model": model, "usage": usage})


def answer_to(call: MockCall, *, provider: str, id: str, created: int) -> MockAnswer:
    """Decide the answer. The same call always gets the same words."""
    texts = [(message.get("role"), text_of(message.get("content"))) for message in call.messages]
    prompt_bytes = sum(_bytes_of(text) for _, text in texts)
    deltas, message, finish_reason = _tool_call(call.tool, id) if call.tool else _words(call, provider, texts)
    return MockAnswer(
        id=id,
        created=created,
        model=call.model,
        choices=call.choices,
        deltas=deltas,
        message=message,
        finish_reason=finish_reason,
        prompt_tokens=max(-(-prompt_bytes // BYTES_PER_TOKEN) + call.prompt_tokens, 1),
        as_text=call.as_text,
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
    delta = _text_delta if call.as_text else _content_delta
    deltas = [*map(delta, opening), *_FILLER_DELTAS[delta][:rest]]
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


def _read(body: bytes, models: Sequence[str]) -> tuple[Mapping[str, Any], str]:
    """The members of a request, and the model that it names."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(call, dict):
        raise Refused(400, "The body of a request is a JSON object.")
    model = call.get("model")
    if not isinstance(model, str):
        raise Refused(400, "you must provide a model parameter", param="model")
    if models and model not in models:
        raise Refused(404, f"The model `{model}` does not exist", param="model", code="model_not_found")
    return call, model


def _includes_usage(call: Mapping[str, Any]) -> bool:
    options = call.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _inputs(call: Mapping[str, Any], key: str, *, empty: bool = False) -> list[str | list[int]]:
    """A text, tokens, or an array of either; ``empty`` allows the empty text."""
    value = call.get(key)
    several: list[Any] = value if isinstance(value, list) and value and not _is_token(value[0]) else [value]
    if len(several) > MAX_INPUTS:
        raise Refused(400, f"{key} must have at most {MAX_INPUTS} elements", param=key)
    for each in several:
        if isinstance(each, str) and (each or empty):
            continue
        if not isinstance(each, list) or not each or not all(map(_is_token, each)):
            raise Refused(
                400, f"{key} must be a text that is not empty, an array of tokens, or an array of these", param=key
            )
    return several


def _is_token(value: object) -> bool:
    return type(value) is int and value >= 0


def _vector(model: str, value: str | list[int], numbers: int) -> list[float]:
    digest = shake_256(dump([model, value])).digest(4 * numbers)
    raw = [number / 2**31 for number in struct.unpack(f"<{numbers}i", digest)]
    length = sqrt(sum(number * number for number in raw)) or 1.0
    return [number / length for number in raw]


def _packed(vector: Sequence[float]) -> str:
    """As OpenAI's own clients ask for it: base64 of little-endian 32-bit floats."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _tokens_of(text: str) -> int:
    return max(-(-_bytes_of(text) // BYTES_PER_TOKEN), 1)


def _whole(call: Mapping[str, Any], key: str, most: int | None = None) -> int | None:
    value = call.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        raise Refused(400, f"{key} must be a positive integer" + (f" up to {most}" if most else ""), param=key)
    return value
