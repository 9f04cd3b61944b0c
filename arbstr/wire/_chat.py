"""A chat completion request."""

from __future__ import annotations

import json
from collections import Counter
from json import JSONDecoder

from arbstr.wire._call import (
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
    refuse_duplicate,
    shown,
    unprocessable,
    usage_option,
)
from arbstr.wire._json import refuse_constant, utf8_len

_PROMPT_MEMBERS = ("tools", "functions", "response_format")
_READ_MEMBERS = frozenset(
    (
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        *_PROMPT_MEMBERS,
    )
)
_PART_MEMBERS = frozenset(("type", "text"))
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


@parser
def parse_chat(body: bytes) -> ModelCall:
    """Read a chat request.

    Raises InvalidRequest: status 400 for what is not one JSON object in UTF-8, 422 for a member that is missing, given
    twice or of the wrong type; ``param`` names it.
    """
    read = read_body(body, _READ_MEMBERS, _SPECIAL)
    model = model_of(read)
    prompt = _Prompt(_messages_of(read))
    for key in _PROMPT_MEMBERS:
        if read.value(key) is not None:
            prompt.text_bytes += read.text_bytes(key)
    stream = flag_of(read, "stream")
    include_usage, usage_splice = usage_option(read)
    limit = count_of(read, "max_completion_tokens", 0, MAX_TOKEN_COUNT)
    older_limit = count_of(read, "max_tokens", 0, MAX_TOKEN_COUNT)
    return ModelCall(
        model,
        stream,
        # Providers obey one or the other, and none is paid for more than the limit.
        max((each for each in (limit, older_limit) if each is not None), default=None),
        count_of(read, "n", 1, MAX_CHOICES) or 1,
        include_usage,
        prompt.text_bytes,
        prompt.messages,
        prompt.images,
        prompt.last_user_text,
        body,
        texts=tuple([_first_text(message.get("content")) for message in prompt.of]),
        places=(read.model_place(), usage_splice),
    )


def content_bytes(call: ModelCall) -> int:
    """Length of the contents as the predecessor counts it for a quote (contract section 11.3): text by its UTF-8 bytes,
    a list of parts by its compact JSON text, nothing else. Of anything but a chat, its text."""
    if call.endpoint is not Endpoint.CHAT:
        return call.messages_text_bytes
    contents = [message.get("content") for message in json.loads(call.body)["messages"]]
    return sum(
        utf8_len(
            content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        )
        for content in contents
        if isinstance(content, str | list)
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in ``messages``: two members of one name are two texts, of which each reader counts another one."""
    members = dict(pairs)
    if len(members) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        refuse_duplicate(repeated, "messages")
    return members


_SPECIAL = {"messages": JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=_unique)}


def _messages_of(body: Body) -> list[dict[str, object]]:
    messages = body.value("messages")
    if not isinstance(messages, list):
        refuse(body, "messages", "must be an array of objects")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise unprocessable(f"messages[{index}] must be an object, not {shown(message)}", f"messages[{index}]")
    return messages


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
        if kind == "text" and isinstance(part, dict) and len(part) > 2 and _is_ambiguous(part):
            kind = None
        media = isinstance(kind, str) and kind in _MEDIA_PARTS
        self.images += media
        if isinstance(text, str) and (media or kind == "text"):
            self.text_bytes += utf8_len(text)
        elif not media:
            self.text_bytes += _json_bytes(part)


def _is_ambiguous(part: dict[str, object]) -> bool:
    """Some providers' readers (Go's) take ``Text`` for ``text``."""
    return not _PART_MEMBERS.isdisjoint(key.casefold() for key in part if key not in _PART_MEMBERS)


def _first_text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return texts[0] if texts and isinstance(texts[0], str) else ""


def _json_bytes(value: object) -> int:
    return utf8_len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
