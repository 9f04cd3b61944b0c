"""Requests that bring their text, or its tokens, without a conversation: legacy completions, and embeddings."""

from __future__ import annotations

from attrs import frozen

from arbstr.wire._call import (
    BYTES_PER_TOKEN_ID,
    MAX_CHOICES,
    MAX_TOKEN_COUNT,
    Body,
    Endpoint,
    ModelCall,
    count_of,
    flag_of,
    model_of,
    parser,
    read_body,
    refuse,
    shown,
    unprocessable,
    usage_option,
)
from arbstr.wire._chat import parse_chat
from arbstr.wire._json import utf8_len

_READ_BY_COMPLETIONS = frozenset(
    ("model", "prompt", "suffix", "stream", "stream_options", "max_tokens", "n", "best_of", "echo")
)
_READ_BY_EMBEDDINGS = frozenset(("model", "input"))
_RULE = "must be a string, an array of strings, an array of token ids, or an array of such arrays"


@parser
def parse_completion(body: bytes) -> ModelCall:
    """Read a legacy completion request. Without a ``prompt`` the model begins by itself, which is one empty prompt.

    Raises InvalidRequest as ``parse_chat`` does.
    """
    read = read_body(body, _READ_BY_COMPLETIONS)
    model = model_of(read)
    texts = _Texts((), 1, 0) if read.value("prompt") is None else _texts_of(read, "prompt")
    stream = flag_of(read, "stream")
    flag_of(read, "echo")
    include_usage, usage_splice = usage_option(read)
    choices = count_of(read, "n", 1, MAX_CHOICES) or 1
    generated = max(choices, count_of(read, "best_of", 1, MAX_CHOICES) or 1)
    return ModelCall(
        model,
        stream,
        count_of(read, "max_tokens", 0, MAX_TOKEN_COUNT),
        texts.count * generated,
        include_usage,
        texts.text_bytes + _suffix_bytes(read),
        texts.count,
        0,
        texts.of[-1] if texts.of else "",
        body,
        Endpoint.COMPLETIONS,
        texts.of,
        places=(read.model_place(), usage_splice),
    )


@parser
def parse_embeddings(body: bytes) -> ModelCall:
    """Read an embeddings request. It is never a stream. Raises InvalidRequest as ``parse_chat`` does."""
    read = read_body(body, _READ_BY_EMBEDDINGS)
    model = model_of(read)
    texts = _texts_of(read, "input")
    return ModelCall(
        model,
        False,
        None,
        1,
        False,
        texts.text_bytes,
        texts.count,
        0,
        "",
        body,
        Endpoint.EMBEDDINGS,
        places=(read.model_place(), (0, 0, b"")),  # never a stream: usage comes unasked
    )


@parser
def parse_any(body: bytes) -> ModelCall:
    """Read a request to any of the endpoints, told by its members: ``messages``, else ``input``, else ``prompt``.

    Raises InvalidRequest as ``parse_chat`` does.
    """
    members = read_body(body, frozenset()).members
    if "messages" not in members:
        if "input" in members:
            return parse_embeddings(body)
        if "prompt" in members:
            return parse_completion(body)
    return parse_chat(body)


@frozen
class _Texts:
    """Of a ``prompt`` or an ``input``: those that are text, how many there are in all, and what they count."""

    of: tuple[str, ...]
    count: int
    text_bytes: int


def _texts_of(body: Body, name: str) -> _Texts:
    value = body.value(name)
    if isinstance(value, str):
        return _Texts((value,), 1, utf8_len(value))
    if not isinstance(value, list) or not value:
        refuse(body, name, f"{_RULE}, and not empty" if value == [] else _RULE)
    # One pass over the types in C: an input may hold millions of ids.
    kinds = set(map(type, value))
    if kinds == {str}:
        return _Texts(tuple(value), len(value), sum(map(utf8_len, value)))
    if kinds == {int}:
        return _Texts((), 1, _ids(value, name))
    if kinds == {list}:
        return _Texts((), len(value), sum(_ids(ids, f"{name}[{index}]") for index, ids in enumerate(value)))
    odd = next(index for index, one in enumerate(value) if type(one) is not type(value[0]) or _is_odd(one))
    raise unprocessable(f"{name} {_RULE}, and {name}[{odd}] is {shown(value[odd])}", f"{name}[{odd}]")


def _is_odd(value: object) -> bool:
    return type(value) not in (str, int, list)


def _ids(ids: list[object], name: str) -> int:
    """The count of an array of token ids as text."""
    if set(map(type, ids)) - {int}:
        raise unprocessable(f"{name} must hold token ids only, which are integers", name)
    numbers = [one for one in ids if isinstance(one, int)]
    if numbers and not 0 <= min(numbers) <= max(numbers) <= MAX_TOKEN_COUNT:
        raise unprocessable(f"{name} must hold token ids from 0 to {MAX_TOKEN_COUNT}", name)
    return BYTES_PER_TOKEN_ID * len(ids)


def _suffix_bytes(body: Body) -> int:
    suffix = body.value("suffix")
    if suffix is not None and not isinstance(suffix, str):
        refuse(body, "suffix", "must be a string or null")
    return utf8_len(suffix) if suffix else 0
