"""What a provider, a wallet or a webhook does when it is called: a value that a seed can draw and a story can tell."""

from __future__ import annotations

import random
from typing import Literal

from attrs import field, frozen

from arbstr.wallets import Answer, Behaviour, WalletState

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


@frozen
class WalletScript:
    """What becomes of one order. It is on its way for ``travels_s``, whatever becomes of who sent it, and the first
    ``lost_lookups`` are not answered."""

    behaviour: Behaviour = field(factory=Behaviour)
    travels_s: float = 0.0
    lost_lookups: int = 0

    def sentence(self) -> str:
        behaviour = self.behaviour
        match behaviour.outcome:
            case WalletState.SUCCEEDED:
                what = f"pays for a fee of {behaviour.fee_msat} msat"
            case WalletState.FAILED:
                what = "fails"
            case _:
                what = "never says what it did"
        if behaviour.after_s:
            what += f" after {behaviour.after_s:g} s"
        if self.travels_s:
            what += f", asked {self.travels_s:g} s late"
        if behaviour.answer is not Answer.TELLS:
            what += f" ({behaviour.answer.value})"
        doubts = behaviour.doubtful_lookups + self.lost_lookups
        return f"{what}, and answers no lookup before the {doubts + 1}." if doubts else what


def draw_wallet_script(dice: random.Random) -> WalletScript:
    outcome = dice.choice((WalletState.SUCCEEDED,) * 12 + (WalletState.FAILED,) * 7 + (WalletState.UNKNOWN,))
    behaviour = Behaviour(
        outcome=outcome,
        after_s=dice.choice((0.0, 0.0, 0.5, 4.0, 20.0, 20.0, 50.0)),
        answer=dice.choice((Answer.TELLS, Answer.TELLS, Answer.TELLS, *Answer)),
        doubtful_lookups=dice.choice((0, 0, 1, 3)),
        fee_msat=dice.choice((0, 1, 400, 1_000, 2_500)) if outcome is WalletState.SUCCEEDED else 0,
    )
    return WalletScript(behaviour, dice.choice((0.0, 0.0, 0.1, 3.0)), dice.choice((0, 0, 0, 1, 2)))


Hearing = Literal["takes", "refuses", "hangs", "breaks", "loses"]
"""What the operator's webhook does with one delivery. ``loses``: it takes the event, and its answer does not arrive."""


@frozen
class WebhookScript:
    """For deliveries in their order, over and over; in the end it takes everything."""

    hearings: tuple[Hearing, ...] = ("takes",)
    takes_s: float = 0.0

    def sentence(self) -> str:
        return f"the webhook {', '.join(self.hearings)} in turn, within {self.takes_s:g} s"


def draw_webhook_script(dice: random.Random) -> WebhookScript:
    if dice.random() < 0.4:
        return WebhookScript()
    kinds: tuple[Hearing, ...] = ("takes", "takes", "takes", "refuses", "hangs", "breaks", "loses")
    return WebhookScript(tuple([dice.choice(kinds) for _ in range(5)]), dice.choice((0.0, 0.5, 3.0)))
