"""A request to a model, whatever it is asked for: read once, kept as the client's own bytes.

Lenient on purpose: only what decides routing, price and relay is read and checked. Every other member, known to
OpenAI or not, null or not, goes to the provider as it came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import wraps
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
    dumps,
    scan_object,
    set_member,
    skip_space,
    utf8_len,
)

MAX_TOKEN_COUNT = 2**32 - 1
"""The largest number of tokens that is taken seriously (contract section 4.1: an unsigned 32-bit integer)."""

MAX_MODEL_NAME = 200
"""Characters. As the vault has it; and it is written down several times for each request."""

MAX_CHOICES = 128
"""OpenAI's own bound on ``n``."""


class Endpoint(StrEnum):
    """What a model is asked for: the path below ``/v1/``, ours and the provider's alike."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


Splice = tuple[int, int, bytes]
"""Put these bytes in place of those from begin to end."""


@frozen
class ModelCall:
    """A parsed request to a model. Made by one of the parsers; ``body`` is what the client sent, byte for byte.

    ``max_tokens`` is the limit of one choice, for a chat the larger of ``max_completion_tokens`` and ``max_tokens``;
    None where the client gave none. ``n`` counts the answers that are generated: choices, for completions those of
    every prompt and with ``best_of``. ``messages`` counts the messages, the prompts or the inputs.

    ``messages_text_bytes`` is the UTF-8 length of everything that becomes prompt text: contents, text parts, names,
    tool calls, and the JSON text of ``tools``, ``functions`` and ``response_format``; prompts and ``suffix``; inputs.
    A token that is given by its id counts ``BYTES_PER_TOKEN_ID``. ``images`` counts parts that are not text (images,
    audio, video, files); their data is not in ``messages_text_bytes``. ``last_user_text`` is the text of the last
    message whose role is ``user``: its string content or its first text part, else empty; of completions the last
    prompt. ``texts`` has one such text for each message, whatever its role, or prompt. What is to be embedded is data
    and not a wish: neither of the two has it.
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
    _places: tuple[Splice, Splice] | None = field(default=None, repr=False, eq=False)
    """Where the name of the model stands, and the edit that asks for usage."""

    def upstream_body(self, model: str | None = None) -> bytes:
        """What the provider gets: the client's bytes, for a stream with ``stream_options.include_usage`` true.

        ``model`` replaces the name of the model, where the provider has another one for it. Only these members are
        spliced in, everything else keeps its bytes; nothing is copied when nothing changes.
        """
        wants_usage = self.stream and not self.include_usage
        renamed = model if model is not None and model != self.model else None
        if not wants_usage and renamed is None:
            return self.body
        named, usage = self._places or _places_in(self.body)
        splices = [usage] if wants_usage else []
        if renamed is not None:
            splices.append((named[0], named[1], dumps(renamed)))
        return _spliced(self.body, sorted(splices))


BYTES_PER_TOKEN_ID = 4
"""What a token given by its id counts as prompt text. The expectation takes four bytes for a token and is exact with
this; the bound takes a token for one byte, so that it holds with room to spare."""


@frozen
class Body:
    """A request body, read as one JSON object."""

    data: bytes
    text: str
    at: int
    """Index of the ``{`` in ``text``."""
    found: list[Member]
    members: dict[str, Member]

    def value(self, name: str) -> object:
        """None for what is absent."""
        member = self.members.get(name)
        return None if member is None else member.value

    def text_bytes(self, name: str) -> int:
        """UTF-8 length of a member's JSON text."""
        member = self.members[name]
        return utf8_len(self.text[member.begin : member.end])

    def byte_at(self, index: int) -> int:
        """The place in ``data`` of a character of ``text``."""
        return index if len(self.text) == len(self.data) else utf8_len(self.text[:index])

    def model_place(self) -> Splice:
        member = self.members["model"]
        return self.byte_at(member.begin), self.byte_at(member.end), b""

    def splice(self, edit: Edit) -> Splice:
        return self.byte_at(edit.begin), self.byte_at(edit.end), edit.text.encode("ascii")


def parser(read: Callable[[bytes], ModelCall]) -> Callable[[bytes], ModelCall]:
    """Make what Python's reader raises at hostile input a refusal."""

    @wraps(read)
    def parse(body: bytes) -> ModelCall:
        try:
            return read(body)
        except RecursionError:
            raise not_json("it is nested too deeply") from None
        except TooManyMembers:
            message = f"Invalid request: an object of the body has more than {MAX_MEMBERS} members"
            raise InvalidRequest(message, reason="invalid_json") from None

    return parse


def read_body(data: bytes, names: frozenset[str], special: Mapping[str, JSONDecoder] | None = None) -> Body:
    """Read a body of which the members ``names`` matter; ``special`` has decoders for some.

    Raises InvalidRequest: status 400 for what is not one JSON object in UTF-8, 422 for one of ``names`` given twice, or
    with capitals.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_json(f"it is not UTF-8 at byte {error.start}") from None
    at = skip_space(text, 0)
    if at == len(text):
        raise not_json("it is empty")
    try:
        if text[at] != "{":
            STRICT.decode(text)
            raise InvalidRequest("Invalid request: the body must be a JSON object", reason="invalid_json")
        found, end = scan_object(text, at, STRICT, special)
        end = skip_space(text, end)
        if end != len(text):
            raise JSONDecodeError("Extra data", text, end)
    except JSONDecodeError as error:
        raise not_json(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ConstantRefused as error:
        raise not_json(f"{error} is not a JSON number") from None
    except ValueError as error:  # more digits than Python reads into an int
        raise not_json(str(error)) from None
    members = {member.key: member for member in found}
    if len(members) != len(found):
        check_duplicates(found, names, "")
    if names:
        check_spelling(members, names)
    return Body(data, text, at, found, members)


def not_json(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid request: the body is not JSON: {why}", reason="invalid_json")


# Members that several endpoints have


def model_of(body: Body) -> str:
    model = body.value("model")
    if not isinstance(model, str) or not model:
        refuse(body, "model", "must be a non-empty string")
    if len(model) > MAX_MODEL_NAME:
        refuse(body, "model", f"must have at most {MAX_MODEL_NAME} characters")
    if not model.isprintable():  # nor half a surrogate pair: it is logged to terminals, sent and stored
        refuse(body, "model", "must be of printable characters")
    return model


def flag_of(body: Body, name: str) -> bool:
    value = body.value(name)
    if value is not None and not isinstance(value, bool):
        refuse(body, name, "must be true, false or null")
    return value is True


def count_of(body: Body, name: str, least: int, most: int) -> int | None:
    value = body.value(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:  # a bool is an int to isinstance
        refuse(body, name, f"must be an integer from {least} to {most}, or null")
    return value


def usage_option(body: Body) -> tuple[bool, Splice]:
    """Whether the client asks for usage, and the edit that makes it so when it does not."""
    options = body.members.get("stream_options")
    if options is None or options.value is None:
        return False, _ask_for_usage(body, options)
    if not isinstance(options.value, dict):
        refuse(body, "stream_options", "must be an object or null")
    wanted = options.value.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        name = "stream_options.include_usage"
        raise unprocessable(f"{name} must be true, false or null, not {shown(wanted)}", name)
    inner, _ = scan_object(body.text, options.begin, STRICT)
    check_duplicates(inner, frozenset(("include_usage",)), "stream_options.")
    return wanted is True, body.splice(set_member(inner, options.begin, "include_usage", "true")[0])


def _ask_for_usage(body: Body, options: Member | None) -> Splice:
    """The edit where there are no ``stream_options``, or null."""
    if options is not None:
        return body.splice(set_member(body.found, body.at, "stream_options", '{"include_usage":true}')[0])
    begin = body.byte_at(body.at + 1)
    return begin, begin, _USAGE_FIRST if body.found else _USAGE_FIRST[:-1]


_USAGE_FIRST = b'"stream_options":{"include_usage":true},'


def _places_in(data: bytes) -> tuple[Splice, Splice]:
    """For a ModelCall that was not made by a parser."""
    body = read_body(data, frozenset())
    return body.model_place(), usage_option(body)[1]


def _spliced(data: bytes, splices: list[Splice]) -> bytes:
    """Apply splices that are in ascending order and do not overlap."""
    pieces: list[bytes] = []
    at = 0
    for begin, end, new in splices:
        pieces += (data[at:begin], new)
        at = end
    pieces.append(data[at:])
    return b"".join(pieces)


# Refusals


def check_duplicates(found: list[Member], names: frozenset[str], prefix: str) -> None:
    seen: set[str] = set()
    for member in found:
        if member.key in seen and member.key in names:
            refuse_duplicate(member.key, prefix + member.key)
        seen.add(member.key)


def check_spelling(members: Iterable[str], names: frozenset[str]) -> None:
    """Some providers' readers (Go's) take ``Model`` for ``model``, and would do another thing than is paid for."""
    for key in members:
        if not (key.isascii() and key.islower()) and (meant := key.casefold()) in names:
            raise unprocessable(f"{key[:64]!r} is no member of a request; write {meant}, in small letters", meant)


def refuse_duplicate(name: str, param: str) -> NoReturn:
    raise unprocessable(f"{name[:64]} is given twice in one object; leave one", param, "duplicate_field")


def refuse(body: Body, name: str, rule: str) -> NoReturn:
    if name not in body.members:
        raise unprocessable(f"{name} is missing; it {rule}", name, "missing_field")
    raise unprocessable(f"{name} {rule}, not {shown(body.members[name].value)}", name)


def unprocessable(message: str, param: str, reason: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid request: {message}", status=422, param=param, reason=reason)


def shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
