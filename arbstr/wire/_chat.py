"""A chat completion request: read once, kept as the client's own bytes.

Lenient on purpose: only what decides routing, price and relay is read and checked. Every other member, known to
OpenAI or not, null or not, goes to the provider as it came.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from json import JSONDecodeError, JSONDecoder
from typing import NoReturn

from attrs import field, frozen

from arbstr.errors import InvalidRequest
from arbstr.wire._json import (
    MAX_MEMBERS,
    STRICT,
    ConstantRefused,
    Edit,
    Member,
    TooManyMembers,
    refuse_constant,
    scan_object,
    set_member,
    skip_space,
    utf8_len,
    with_member,
)

MAX_TOKEN_COUNT = 2**32 - 1
"""The largest number of tokens that is taken seriously (contract section 4.1: an unsigned 32-bit integer)."""

MAX_CHOICES = 128
"""OpenAI's own bound on ``n``."""

_READ_MEMBERS = frozenset(
    (
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "tools",
        "functions",
        "response_format",
    )
)
_PROMPT_MEMBERS = ("tools", "functions", "response_format")
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_MEDIA_PARTS = frozenset(
    (
        "image_url",
        "image",
        "input_image",
        "input_audio",
        "audio",
        "audio_url",
        "video_url",
        "video",
        "file",
        "input_file",
        "document",
    )
)


class Endpoint(StrEnum):
    """What a model is asked for: the path below ``/v1/``, ours and the provider's alike."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


@frozen
class ModelCall:
    """A parsed request to a model. Made by ``parse_chat``; ``body`` is what the client sent, byte for byte.

    ``max_tokens`` is ``max_completion_tokens`` where the client gave that, else ``max_tokens``, else None.
    ``messages_text_bytes`` is the UTF-8 length of everything that becomes prompt text: contents, text parts, names,
    tool calls, and the JSON text of ``tools``, ``functions`` and ``response_format``. ``images`` counts parts that are
    not text (images, audio, video, files); their data is not in ``messages_text_bytes``. ``last_user_text`` is the text
    of the last message whose role is ``user``: its string content or its first text part, else empty. ``texts`` has one
    such text for each message, whatever its role.
    """

    model: str
    stream: bool
    max_tokens: int | None
    n: int
    include_usage: bool
    messages_text_bytes: int
    messages: int
    images: int
    last_user_text: str
    body: bytes = field(repr=False)
    endpoint: Endpoint = Endpoint.CHAT
    texts: tuple[str, ...] = field(default=(), repr=False)
    _splice: tuple[int, int, bytes] | None = field(default=None, repr=False, eq=False)

    def upstream_body(self, model: str | None = None) -> bytes:
        """What the provider gets: the client's bytes, for a stream with ``stream_options.include_usage`` true.

        ``model`` replaces the name of the model, where the provider has another one for it. Only these members are
        spliced in, everything else keeps its bytes; nothing is copied when nothing changes.
        """
        body = self.body
        if self.stream and not self.include_usage:
            begin, end, text = self._splice or _splice_of(body)
            body = b"".join((body[:begin], text, body[end:]))
        return body if model is None or model == self.model else with_member(body, "model", model)


def parse_chat(body: bytes) -> ModelCall:
    """Read a chat request.

    Raises InvalidRequest: status 400 for what is not one JSON object in UTF-8, 422 for a member that is missing, given
    twice or of the wrong type; ``param`` names it.
    """
    try:
        text, at, found = _read(body)
        return _call_of(body, text, at, found)
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except TooManyMembers:
        message = f"Invalid request: an object of the body has more than {MAX_MEMBERS} members"
        raise InvalidRequest(message, reason="invalid_json") from None


def _read(body: bytes) -> tuple[str, int, list[Member]]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 at byte {error.start}") from None
    at = skip_space(text, 0)
    if at == len(text):
        raise _not_json("it is empty")
    try:
        if text[at] != "{":
            STRICT.decode(text)
            raise InvalidRequest("Invalid request: the body must be a JSON object", reason="invalid_json")
        found, end = scan_object(text, at, STRICT, _SPECIAL)
        end = skip_space(text, end)
        if end != len(text):
            raise JSONDecodeError("Extra data", text, end)
    except JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ConstantRefused as error:
        raise _not_json(f"{error} is not a JSON number") from None
    except ValueError as error:  # more digits than Python reads into an int
        raise _not_json(str(error)) from None
    return text, at, found


def _not_json(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid request: the body is not JSON: {why}", reason="invalid_json")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in ``messages``: two members of one name are two texts, of which each reader counts another one."""
    members = dict(pairs)
    if len(members) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        _refuse_duplicate(repeated, "messages")
    return members


_SPECIAL = {"messages": JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=_unique)}


def _call_of(body: bytes, text: str, at: int, found: list[Member]) -> ModelCall:
    members = {member.key: member for member in found}
    if len(members) != len(found):
        _check_duplicates(found, _READ_MEMBERS, "")
    values: dict[str, object] = {key: member.value for key, member in members.items()}
    model = _model_of(values)
    prompt = _Prompt(_messages_of(values))
    for key in _PROMPT_MEMBERS:
        if values.get(key) is not None:
            prompt.text_bytes += utf8_len(text[members[key].begin : members[key].end])
    stream = _stream_of(values)
    include_usage, edit = _usage_option(text, at, found, members.get("stream_options"))
    limit = _count_of(values, "max_completion_tokens", 0, MAX_TOKEN_COUNT)
    older_limit = _count_of(values, "max_tokens", 0, MAX_TOKEN_COUNT)
    n = _count_of(values, "n", 1, MAX_CHOICES)
    return ModelCall(
        model,
        stream,
        older_limit if limit is None else limit,
        1 if n is None else n,
        include_usage,
        prompt.text_bytes,
        prompt.messages,
        prompt.images,
        prompt.last_user_text,
        body,
        texts=tuple([_first_text(message.get("content")) for message in prompt.of]),
        splice=_in_bytes(text, edit) if stream and edit else None,
    )


def _model_of(values: Mapping[str, object]) -> str:
    model = values.get("model")
    if not isinstance(model, str) or not model:
        _refuse(values, "model", "must be a non-empty string")
    try:
        model.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, by an escape: cannot be logged, sent or stored
        _refuse(values, "model", "must be valid Unicode")
    return model


def _messages_of(values: Mapping[str, object]) -> list[dict[str, object]]:
    messages = values.get("messages")
    if not isinstance(messages, list):
        _refuse(values, "messages", "must be an array of objects")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise _unprocessable(f"messages[{index}] must be an object, not {_shown(message)}", f"messages[{index}]")
    return messages


def _stream_of(values: Mapping[str, object]) -> bool:
    stream = values.get("stream")
    if stream is not None and not isinstance(stream, bool):
        _refuse(values, "stream", "must be true, false or null")
    return stream is True


def _count_of(values: Mapping[str, object], key: str, least: int, most: int) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:  # a bool is an int to isinstance
        _refuse(values, key, f"must be an integer from {least} to {most}, or null")
    return value


def _usage_option(text: str, at: int, found: list[Member], options: Member | None) -> tuple[bool, Edit | None]:
    """Whether the client asks for usage, and the edit that makes it so when it does not."""
    if options is None or options.value is None:
        return False, set_member(found, at, "stream_options", '{"include_usage":true}')[0]
    if not isinstance(options.value, dict):
        _refuse({"stream_options": options.value}, "stream_options", "must be an object or null")
    wanted = options.value.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        name = "stream_options.include_usage"
        _refuse({name: wanted}, name, "must be true, false or null")
    inner, _ = scan_object(text, options.begin, STRICT)
    _check_duplicates(inner, frozenset(("include_usage",)), "stream_options.")
    return wanted is True, set_member(inner, options.begin, "include_usage", "true")[0]


def _splice_of(body: bytes) -> tuple[int, int, bytes]:
    """For a ModelCall that was not made by ``parse_chat``."""
    text, at, found = _read(body)
    _, edit = _usage_option(text, at, found, {member.key: member for member in found}.get("stream_options"))
    assert edit is not None
    return _in_bytes(text, edit)


def _in_bytes(text: str, edit: Edit) -> tuple[int, int, bytes]:
    begin = utf8_len(text[: edit.begin])
    return begin, begin + utf8_len(text[edit.begin : edit.end]), edit.text.encode("ascii")


class _Prompt:
    """Counts what the messages put into the prompt. Whatever has an unknown shape counts with its JSON text."""

    def __init__(self, messages: list[dict[str, object]]) -> None:
        self.of = messages
        self.messages = len(messages)
        self.text_bytes = 0
        self.images = 0
        for message in messages:
            self._add(message)
        last = next((message for message in reversed(messages) if message.get("role") == "user"), {})
        self.last_user_text = _first_text(last.get("content"))

    def _add(self, message: dict[str, object]) -> None:
        for key, value in message.items():
            if type(value) is str:
                if key != "role" or value not in _ROLES:
                    self.text_bytes += utf8_len(value)
            elif key == "content" and isinstance(value, list):
                for part in value:
                    self._add_part(part)
            elif value is not None:
                self.text_bytes += _json_bytes(value)

    def _add_part(self, part: object) -> None:
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else ("text", part)
        media = isinstance(kind, str) and kind in _MEDIA_PARTS
        self.images += media
        if isinstance(text, str) and (media or kind == "text"):
            self.text_bytes += utf8_len(text)
        elif not media:
            self.text_bytes += _json_bytes(part)


def _first_text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return texts[0] if texts and isinstance(texts[0], str) else ""


def _json_bytes(value: object) -> int:
    return utf8_len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _check_duplicates(found: list[Member], names: frozenset[str], prefix: str) -> None:
    seen: set[str] = set()
    for member in found:
        if member.key in seen and member.key in names:
            _refuse_duplicate(member.key, prefix + member.key)
        seen.add(member.key)


def _refuse_duplicate(name: str, param: str) -> NoReturn:
    raise _unprocessable(f"{name[:64]} is given twice in one object; leave one", param, "duplicate_field")


def _refuse(values: Mapping[str, object], name: str, rule: str) -> NoReturn:
    if name not in values:
        raise _unprocessable(f"{name} is missing; it {rule}", name, "missing_field")
    raise _unprocessable(f"{name} {rule}, not {_shown(values[name])}", name)


def _unprocessable(message: str, param: str, reason: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid request: {message}", status=422, param=param, reason=reason)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
