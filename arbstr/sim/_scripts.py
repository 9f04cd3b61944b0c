"""What a provider does when it is called, as a value that a seed can draw and a story can tell."""

from __future__ import annotations

import random
from typing import Literal

from attrs import frozen

Fault = Literal["refuses", "connect", "reset", "hangs", "cut", "stalls", "breaks", "garbles", "ends_early"]

_WORDS: dict[Fault, str] = {
    "refuses": "answers with status {status}",
    "connect": "cannot be reached",
    "reset": "breaks off before its answer",
    "hangs": "never answers",
    "cut": "breaks off after {after} pieces",
    "stalls": "falls silent after {after} pieces",
    "breaks": "reports an error after {after} pieces",
    "garbles": "answers what nobody can read",
    "ends_early": "ends without an end after {after} pieces",
}


@frozen
class Script:
    """``pieces`` are bytes of text; a plain answer has them in one. ``claims`` are the prompt and completion tokens
    that the provider says it used, whether or not that is true; None: it says nothing."""

    pieces: tuple[int, ...]
    claims: tuple[int, int] | None = None
    delay_s: float = 0.0
    pause_s: float = 0.0
    """Between two pieces."""
    fault: Fault | None = None
    after: int = 0
    status: int = 200
    retry_after_s: int | None = None

    def sentence(self) -> str:
        if self.fault is not None:
            what = _WORDS[self.fault].format(status=self.status, after=self.after)
        else:
            what = f"answers {len(self.pieces)} pieces of {sum(self.pieces)} bytes"
            if self.pause_s:
                what += f", one each {self.pause_s:g} s"
            what += " and says nothing of usage" if self.claims is None else f" and claims {self.claims} tokens"
        return f"after {self.delay_s:g} s {what}" if self.delay_s else what


def draw_script(dice: random.Random) -> Script:
    pieces = tuple([dice.choice((1, 4, 30, 120)) for _ in range(dice.choice((1, 2, 3, 5, 8, 14)))])
    fault: Fault | None = None
    if dice.random() < 0.35:
        fault = dice.choice(tuple(_WORDS))
    claims: tuple[int, int] | None = None
    if dice.random() < 0.7:
        lies = dice.random() < 0.2
        claims = (dice.randrange(100_000), dice.randrange(100_000)) if lies else (10, -(-sum(pieces) // 4))
    return Script(
        pieces=pieces,
        claims=claims,
        delay_s=dice.choice((0.0, 0.0, 0.2, 1.0, 4.0)),
        pause_s=dice.choice((0.0, 0.0, 0.3, 1.5, 3.0)),
        fault=fault,
        after=dice.randrange(len(pieces) + 1),
        status=dice.choice((400, 401, 404, 408, 429, 429, 500, 502, 503)) if fault == "refuses" else 200,
        retry_after_s=dice.choice((None, None, 2, 90)),
    )
