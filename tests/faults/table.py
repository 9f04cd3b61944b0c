"""What a provider may do wrong, and what must come of it: for each fault what it plays, and what is expected of a plain
and of a streamed request, with nobody else to turn to and with another provider that is well.

Data only: ``test_matrix`` plays every cell of it, and ``page`` makes docs/faults.md of it. Amounts are msat, worked out
here by hand from tokens and rates, and not by the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from attrs import evolve, field, frozen

from tests.contract.upstream import (
    CLOSE,
    DONE,
    HANG,
    RESET,
    Answer,
    Flood,
    Pause,
    Piece,
    answer,
    chat,
    chunk_object,
    error,
    faults,
    json_answer,
    redirect,
    sse,
    stream,
    trickle,
    usage_of,
)

RETRIES = 1
"""Further rounds over the providers."""
LONG_LINE_BYTES = 100 << 20
SLOW_S = 0.3
"""What is slow and still in time."""
SHORT_S = 0.6
"""A limit that is certain to be reached."""
AMPLE_S = 30.0
"""A limit that nobody reaches, on a machine that has a lot to do."""

TEXT = "forty bytes of prompt make fourteen here"
MAX_TOKENS = 100
PROMPT_COUNTED = 14
"""Of a prompt of 40 bytes in one message, when nobody reports it: a quarter of its bytes, and 4 for the message."""
PROMPT_MOST = 120
"""What it can be at most: its bytes, 16 for the message, and 64."""
LONGEST_ANSWER = 262_144
"""What nobody writes more tokens than; believed where the client sets no limit."""
FAULTY_RATES, HEALTHY_RATES = (1, 2), (10, 20)
"""Msat per token of prompt and completion, which is sats per 1,000."""
REPORTED = (10, 20)
"""Usage, as the providers report it when they do."""
WELL = "well"
"""What the healthy provider says."""
DEPOSIT_MSAT = 1_000_000


class Mode(StrEnum):
    PLAIN = "plain"
    STREAM = "streamed"


class Others(StrEnum):
    """Who else could answer."""

    NOBODY = "nobody"
    HEALTHY = "a healthy provider"
    ITSELF = "the same, well again"
    """Where it is asked again."""


class End(StrEnum):
    """How the client's answer ends."""

    COMPLETE = "complete"
    """A plain answer with its length, or a stream with ``[DONE]``."""
    ERROR_BODY = "error body"
    """An error as the whole answer: nothing of a provider's answer has gone out."""
    ERROR_EVENT = "error event"
    """A stream that ends with an error, without ``[DONE]``."""


@frozen
class Expected:
    """One cell. ``breaker`` and ``failures`` are the faulty provider's; ``tries`` say how each call of it ended."""

    status: int
    end: End
    reason: str = ""
    """Of the error; of one that is passed on, the provider's own code."""
    text: str = ""
    """What the client has of the model's words."""
    breaker: str = "closed"
    failures: int = 0
    charged: int = 0
    estimated: bool = False
    tries: tuple[str, ...] = ()
    """At the faulty provider."""
    rescued: bool = False
    """The healthy provider answered, after these."""
    retry_after: str | None = None
    garbled: int = 0
    """Events that are not JSON have passed, for they came between some that are."""

    @property
    def is_passed_on(self) -> bool:
        """The error is the provider's own."""
        return self.end is End.ERROR_BODY and self.failures == 0 and self.reason == f"c{self.status}"


@frozen
class Pair:
    """Of one kind of request: with nobody else, with a healthy provider behind the faulty one, and with nobody else and
    a fault that has passed at the second try."""

    nobody: Expected
    healthy: Expected
    itself: Expected | None = None

    @property
    def by_others(self) -> dict[Others, Expected]:
        both = {Others.NOBODY: self.nobody, Others.HEALTHY: self.healthy}
        return both if self.itself is None else {**both, Others.ITSELF: self.itself}


@frozen
class Settings:
    """Seconds, of the faulty provider; ``deadline_s`` is the request's. ``max_tokens`` is what the client allows."""

    first_byte_s: float = AMPLE_S
    idle_s: float = AMPLE_S
    total_s: float | None = None
    deadline_s: float = 2 * AMPLE_S
    max_tokens: int | None = MAX_TOKENS


@frozen
class Row:
    """One fault. ``answers`` and ``expected`` have no entry for a kind of request for which it has no meaning."""

    name: str
    what: str
    answers: dict[Mode, Answer]
    expected: dict[Mode, Pair]
    settings: Settings = Settings()
    listens: bool = True


@frozen
class Section:
    title: str
    rows: tuple[Row, ...]


@frozen
class Cell:
    """One test."""

    row: Row
    mode: Mode
    others: Others
    expected: Expected = field(init=False)

    @expected.default
    def _expected(self) -> Expected:
        return self.row.expected[self.mode].by_others[self.others]

    @property
    def id(self) -> str:
        return f"{self.row.name}-{self.mode}-{self.others.name.lower()}"


# Prices


def cost(rates: tuple[int, int], tokens: tuple[int, int]) -> int:
    return rates[0] * tokens[0] + rates[1] * tokens[1]


def counted(completion_tokens: int) -> int:
    """At the faulty provider, when it has not reported: the prompt as expected, and what came of the completion."""
    return cost(FAULTY_RATES, (PROMPT_COUNTED, completion_tokens))


AS_REPORTED = cost(FAULTY_RATES, REPORTED)
RESCUED = Expected(200, End.COMPLETE, text=WELL, charged=cost(HEALTHY_RATES, REPORTED), rescued=True)

# What may come of a fault


def missed(
    *tries: str,
    status: int = 502,
    reason: str = "provider_failed",
    breaker: str = "closed",
    failures: int = 1,
    retry_after: str | None = None,
) -> Pair:
    """Nothing has reached the client: it gets an error when nobody else is left. ``tries``: with nobody else, each.

    Before the same provider is asked again everybody else has been, so that one try is all if somebody else is well.
    """
    nobody = Expected(
        status,
        End.ERROR_BODY,
        reason,
        breaker=breaker,
        failures=failures,
        tries=tries,
        retry_after=retry_after,
    )
    return Pair(nobody, evolve(RESCUED, breaker=breaker, failures=failures, tries=tries[:1]))


def twice(what: str) -> Pair:
    """As ``missed``, by a fault that may have passed a little later; one request counts once."""
    well = Expected(200, End.COMPLETE, text="pong", charged=AS_REPORTED, tries=(what, "success"))
    return evolve(missed(what, what), itself=well)


def passed_on(status: int) -> Pair:
    """The request is at fault: the client is told in the provider's words, and nobody else is asked."""
    told = Expected(status, End.ERROR_BODY, f"c{status}", tries=(f"status {status}",))
    return Pair(told, told)


def broken(
    what: str, text: str = "po", *, charged: int, reason: str = "provider_failed", estimated: bool = True
) -> Pair:
    """The client has had a beginning, so nobody else can answer; it pays for what it had."""
    cut = Expected(200, End.ERROR_EVENT, reason, text, failures=1, charged=charged, estimated=estimated, tries=(what,))
    return Pair(cut, cut)


def fine(text: str = "pong", *, charged: int = AS_REPORTED, estimated: bool = False, garbled: int = 0) -> Pair:
    """A whole answer, whatever was odd about it."""
    whole = Expected(
        200, End.COMPLETE, text=text, charged=charged, estimated=estimated, tries=("success",), garbled=garbled
    )
    return Pair(whole, whole)


def out_of_time() -> Pair:
    """The request's own deadline, most of it spent on this attempt, and no time to ask anybody else."""
    cut = "cut at the deadline of the request"
    told = Expected(504, End.ERROR_BODY, "deadline_exceeded", failures=1, tries=(cut,))
    return Pair(told, told)


# The faults

_KNOWN = faults(pause_s=SLOW_S, line_bytes=LONG_LINE_BYTES)


def _known(name: str, what: str, plain: Pair | None, streamed: Pair | None, **settings: float) -> Row:
    """A fault that the scripted provider has under that name."""
    fault = _KNOWN[name]
    answers = {Mode.PLAIN: fault.plain, Mode.STREAM: fault.stream}
    expected = {Mode.PLAIN: plain, Mode.STREAM: streamed}
    return Row(
        name,
        what,
        {mode: one for mode, one in answers.items() if one is not None},
        {mode: pair for mode, pair in expected.items() if pair is not None},
        Settings(**settings),
        fault.listens,
    )


def _both(name: str, what: str, pair: Pair, **settings: float) -> Row:
    return _known(name, what, pair, pair, **settings)


def _own(
    name: str,
    what: str,
    plain: tuple[Answer, Pair] | None,
    streamed: tuple[Answer, Pair] | None,
    settings: Settings | None = None,
) -> Row:
    """One that is only played here."""
    both = {mode: one for mode, one in ((Mode.PLAIN, plain), (Mode.STREAM, streamed)) if one is not None}
    answers, expected = {mode: one[0] for mode, one in both.items()}, {mode: one[1] for mode, one in both.items()}
    return Row(name, what, answers, expected, settings or Settings())


def _status(status: int, pair: Pair) -> Row:
    return _both(f"status_{status}", f"status {status}", pair)


_TIMEOUT = {"status": 504, "reason": "provider_timeout"}
_SAYS_NOTHING: tuple[Piece, ...] = (b": \n\n", Pause(0.02)) * 500
_BLANKS: tuple[Piece, ...] = (b" ", Pause(0.02)) * 500
_NOT_JSON = b"data: {not json\n\n"
_NOT_UTF8 = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'
_NOT_HTTP = Answer((b"220 ready when you are\r\n\r\n", CLOSE))
_ZEROS: dict[str, object] = usage_of((0, 0))


def _slowly(whole: Answer) -> Answer:
    """In about 50 pieces and more than a second."""
    size = sum(len(step) for step in whole.steps if isinstance(step, bytes))
    return trickle(whole, every_s=0.02, size=size // 50)


def _hinted(whole: Answer) -> Answer:
    return evolve(whole, steps=(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", *whole.steps))


_LIMITED_FOR_A_SECOND = evolve(
    missed(
        "status 429",
        "status 429",
        status=429,
        reason="rate_limited",
        breaker="open (rate_limited)",
        failures=0,
        retry_after="1",
    ),
    itself=Expected(200, End.COMPLETE, text="pong", charged=AS_REPORTED, tries=("status 429", "success")),
)


SECTIONS = (
    Section(
        "Connections and time",
        (
            _both("refused", "the connection is refused", missed("connect", "connect")),
            _both("reset_before_headers", "a reset before the headers", twice("reset")),
            _both("close_before_headers", "the connection ends before the headers", twice("reset")),
            _own(
                "not_http",
                "what is not HTTP",
                (_NOT_HTTP, twice("reset")),
                (_NOT_HTTP, twice("reset")),
            ),
            _own(
                "early_hints",
                "an interim status before the answer",
                (_hinted(chat()), fine()),
                (_hinted(stream()), fine()),
            ),
            _both("slow_headers", "headers that are slow and in time", fine()),
            _both("hang", "no headers", missed("first_byte_timeout", **_TIMEOUT), first_byte_s=SHORT_S),
            _own(
                "hang_before_content",
                "headers, then silence",
                None,
                (sse(ending=HANG), missed("idle_timeout", **_TIMEOUT)),
                Settings(idle_s=SHORT_S),
            ),
            _known(
                "hang_mid_body",
                "silence in the middle of the answer",
                missed("idle_timeout", **_TIMEOUT),
                broken("idle_timeout", charged=counted(1), reason="provider_timeout"),
                idle_s=SHORT_S,
            ),
            _own(
                "trickle",
                "the whole answer, a few bytes at a time, and never silent for long",
                (_slowly(chat()), fine()),
                (_slowly(stream()), fine()),
                Settings(idle_s=0.9),
            ),
            _own(
                "trickle_beyond_total",
                "bytes again and again, and no end within `total_timeout_s`",
                (sse(*_BLANKS, content_type="application/json"), missed("total_timeout", **_TIMEOUT)),
                (
                    sse(chunk_object("po"), *_SAYS_NOTHING),
                    broken("total_timeout", charged=counted(1), reason="provider_timeout"),
                ),
                Settings(total_s=SHORT_S),
            ),
            _own(
                "trickle_beyond_deadline",
                "bytes again and again, and nothing to pass on within `deadline_s`",
                (sse(*_BLANKS, content_type="application/json"), out_of_time()),
                (sse(*_SAYS_NOTHING), out_of_time()),
                Settings(deadline_s=2 * SHORT_S),
            ),
        ),
    ),
    Section(
        "Statuses",
        (
            *(_status(status, passed_on(status)) for status in (400, 404, 413, 422)),
            *(_status(status, missed(f"status {status}", breaker="open (denied)")) for status in (401, 402, 403)),
            *(_status(status, twice(f"status {status}")) for status in (408, 409, 500, 502, 503, 504, 520)),
            _both(
                "status_404_without_error_body",
                "status 404 without an error body: the address and not the model is wrong",
                missed("status 404"),
            ),
            _status(
                429,
                missed("status 429", status=429, reason="rate_limited", breaker="open (rate_limited)", failures=0),
            ),
            _both(
                "status_429_with_retry_after",
                "status 429 with a `Retry-After` behind the deadline of the request",
                missed(
                    "status 429",
                    status=429,
                    reason="rate_limited",
                    breaker="open (rate_limited)",
                    failures=0,
                    retry_after="7",
                ),
                deadline_s=6.5,
            ),
            _own(
                "status_429_for_a_second",
                "status 429 with a `Retry-After` that can be waited for",
                (error(429, retry_after="1"), _LIMITED_FOR_A_SECOND),
                (error(429, retry_after="1"), _LIMITED_FOR_A_SECOND),
            ),
            *(
                _own(
                    f"status_{status}",
                    f"status {status}",
                    (error(status), missed(f"status {status}")),
                    (error(status), missed(f"status {status}")),
                )
                for status in (405, 415)
            ),
            _own(
                "redirect_elsewhere",
                "a redirect to another address",
                (redirect("http://127.0.0.1:1/v1/chat/completions", 307), missed("redirect")),
                (redirect("http://127.0.0.1:1/v1/chat/completions", 307), missed("redirect")),
            ),
        ),
    ),
    Section(
        "Bodies",
        (
            _known("bad_json", "JSON that breaks off with the connection", missed("not JSON"), missed("reset")),
            _own(
                "bad_json_and_done",
                "an event that is not JSON, and `[DONE]`",
                None,
                (sse(_NOT_JSON, DONE), missed("sent what is not JSON")),
            ),
            _own(
                "bad_json_mid_stream",
                "events that are not JSON among good ones: passed on and counted",
                None,
                (
                    sse(_NOT_JSON, chunk_object("po"), _NOT_JSON, chunk_object("ng"), DONE),
                    fine(charged=counted(4), estimated=True, garbled=2),
                ),
            ),
            _known("invalid_utf8", "invalid UTF-8", missed("not JSON"), missed("sent what is not JSON")),
            _own(
                "invalid_utf8_mid_stream",
                "an event in invalid UTF-8 among good ones: passed on and counted",
                None,
                (
                    sse(chunk_object("po"), _NOT_UTF8, chunk_object("ng"), DONE),
                    fine(charged=counted(3), estimated=True, garbled=1),
                ),
            ),
            _known("empty_body", "nothing", missed("not JSON"), missed("ended its stream early")),
            _known(
                "wrong_content_type",
                "a page of HTML",
                missed("not JSON"),
                missed("content type 'text/html'"),
            ),
            _own(
                "other_kind",
                "a stream where a plain answer was asked for, a plain answer where a stream was",
                (stream(), missed("not JSON")),
                (chat(), missed("content type 'application/json'")),
            ),
            _known(
                "truncated_body",
                "the connection ends in the middle",
                missed("reset"),
                broken("reset", charged=counted(1)),
            ),
            _known("reset_mid_body", "a reset in the middle", missed("reset"), broken("reset", charged=counted(1))),
            _own(
                "cut_before_content",
                "headers and a comment, then the connection ends",
                None,
                (sse(b": thinking\n\n", ending=CLOSE), missed("reset")),
            ),
            _own(
                "reset_before_content",
                "headers, then a reset",
                None,
                (sse(Pause(0.05), ending=RESET), missed("reset")),
            ),
            _own(
                "reset_after_done",
                "a reset behind `[DONE]`",
                None,
                (
                    sse(chunk_object("po"), DONE, Pause(0.05), ending=RESET),
                    fine("po", charged=counted(1), estimated=True),
                ),
            ),
            _known(
                "long_line",
                "100 MB in one line; of a plain answer, as its announced length",
                missed("too_large"),
                broken("event too large", charged=counted(1)),
            ),
            _own(
                "endless_body",
                "100 MB without an announced length",
                (sse(Flood(LONG_LINE_BYTES), content_type="application/json"), missed("too_large")),
                None,
            ),
            _own(
                "endless_comment",
                "100 MB in one comment",
                None,
                (sse(b": ", Flood(LONG_LINE_BYTES), b"\n\n", DONE), missed("event too large")),
            ),
            _own(
                "content_encoding",
                "a content encoding that was not asked for",
                (
                    answer(b"\x1f\x8b\x08", headers={"content-encoding": "gzip"}),
                    missed("encoding"),
                ),
                (
                    answer(b"\x1f\x8b\x08", content_type="text/event-stream", headers={"content-encoding": "gzip"}),
                    missed("encoding"),
                ),
            ),
            _own(
                "no_choices",
                "no choices: JSON without them, or nothing but `[DONE]`",
                (json_answer({"id": "chatcmpl-1"}), fine("", charged=counted(0), estimated=True)),
                (sse(DONE), fine("", charged=counted(0), estimated=True)),
            ),
            _known("error_in_200", "an error with status 200", missed("error in a 200"), missed("reported an error")),
            _known(
                "error_event_mid_stream",
                "an error event, after good ones",
                None,
                broken("reported an error", charged=counted(1)),
            ),
            _known(
                "no_done",
                "everything but `[DONE]`",
                None,
                broken("ended its stream early", "pong", charged=AS_REPORTED, estimated=False),
            ),
        ),
    ),
    Section(
        "Usage",
        (
            _known(
                "no_usage",
                "no usage",
                fine(charged=counted(1), estimated=True),
                fine(charged=counted(2), estimated=True),
            ),
            _known("usage_late", "usage a while after the last word", None, fine("po")),
            _known(
                "usage_after_done",
                "usage behind `[DONE]`",
                None,
                fine("po", charged=counted(1), estimated=True),
            ),
            _known(
                "usage_wrong",
                "a thousand million tokens of prompt and of completion",
                fine(charged=cost(FAULTY_RATES, (PROMPT_MOST, MAX_TOKENS))),
                fine("po", charged=cost(FAULTY_RATES, (PROMPT_MOST, MAX_TOKENS))),
            ),
            _own(
                "usage_wrong_without_limit",
                "the same when the client has set no limit: believed as far as the longest answer there is",
                (
                    chat(usage=(10**9, 10**9)),
                    fine(charged=cost(FAULTY_RATES, (PROMPT_MOST, LONGEST_ANSWER))),
                ),
                (
                    stream("po", usage=(10**9, 10**9)),
                    fine("po", charged=cost(FAULTY_RATES, (PROMPT_MOST, LONGEST_ANSWER))),
                ),
                Settings(max_tokens=None),
            ),
            _known(
                "usage_malformed",
                "usage that counts nothing: negative, or in words",
                fine(charged=counted(1), estimated=True),
                fine("po", charged=counted(1), estimated=True),
            ),
            _own(
                "usage_zero",
                "no tokens at all",
                (chat(usage=(0, 0)), fine(charged=counted(1), estimated=True)),
                (stream("po", usage=(0, 0)), fine("po", charged=counted(1), estimated=True)),
            ),
            _own(
                "usage_zero_until_the_end",
                "no tokens at all with each piece, and the count at the end",
                None,
                (
                    sse(
                        chunk_object("po", **_ZEROS),
                        chunk_object("ng", **_ZEROS),
                        chunk_object(**usage_of(REPORTED)),
                        DONE,
                    ),
                    fine(),
                ),
            ),
            _own(
                "usage_zero_and_cut",
                "no tokens at all with each piece, and the connection ends before the count",
                None,
                (
                    sse(chunk_object("po", **_ZEROS), chunk_object("ng", **_ZEROS), ending=CLOSE),
                    broken("reset", "pong", charged=counted(2)),
                ),
            ),
        ),
    ),
)

ROWS = {row.name: row for section in SECTIONS for row in section.rows}
KNOWN = frozenset(_KNOWN)
"""The faults of the scripted provider; none of them may be left out."""


def cells() -> Iterator[Cell]:
    for row in ROWS.values():
        for mode in row.expected:
            for others in row.expected[mode].by_others:
                yield Cell(row, mode, others)
