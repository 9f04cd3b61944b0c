"""Amounts and prices: integers of millisatoshi, exact rationals, one rounding.

Rule M1: an amount is an integer number of millisatoshi (msat); a price is an exact rational; a cost is computed
exactly and rounded up to one msat, once. No float ever takes part.

This module imports nothing of ours.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import NewType, Self

from attrs import field, frozen

Msat = NewType("Msat", int)
"""An integer number of millisatoshi."""

MSAT_PER_SAT = 1_000

RATE_UNITS: dict[str, int] = {"sats_per_1k_tokens": 1_000, "sats_per_1m_tokens": 1_000_000}
"""Tokens that one rate buys, by the name the configuration uses."""


def _exact(value: int | Decimal | Fraction) -> Fraction:
    if isinstance(value, float):
        raise TypeError(f"a price must not be a float, got {value!r}; write Decimal(str(value))")
    return Fraction(value)


@frozen
class Price:
    """What one provider asks for one model, as exact integers over a common denominator.

    ``cost_msat(p, c)`` is ``ceil((p * prompt + c * completion + base) / denominator)`` msat, where prompt tokens that
    the provider had cached cost ``cached`` instead of ``prompt``. Build it with ``Price.of``; the fields are the
    already multiplied out numerators.
    """

    prompt: int = field()
    completion: int = field()
    base: int = field()
    denominator: int = field()
    cached: int = field()

    @cached.default
    def _as_prompt(self) -> int:
        return self.prompt

    @classmethod
    def of(
        cls,
        input_rate: int | Decimal | Fraction,
        output_rate: int | Decimal | Fraction,
        base_fee: int | Decimal | Fraction = 0,
        *,
        cached_input_rate: int | Decimal | Fraction | None = None,
        unit: str = "sats_per_1k_tokens",
    ) -> Self:
        """Make a price from rates in sats per ``unit`` and a base fee in sats per request.

        ``cached_input_rate`` is for prompt tokens that the provider had cached; without one they cost ``input_rate``.

        Raises ValueError for a negative or non-finite number and for an unknown unit.
        """
        if unit not in RATE_UNITS:
            raise ValueError(f"unknown rate unit {unit!r}; one of {', '.join(RATE_UNITS)}")
        try:
            rates = (input_rate, output_rate, input_rate if cached_input_rate is None else cached_input_rate)
            prompt, completion, cached = (_exact(rate) * MSAT_PER_SAT / RATE_UNITS[unit] for rate in rates)
            base = _exact(base_fee) * MSAT_PER_SAT
        except (ValueError, OverflowError) as error:  # Fraction(Decimal("nan")) and ("inf")
            raise ValueError(f"a rate must be a finite number: {error}") from None
        if min(prompt, completion, base, cached) < 0:
            raise ValueError("a rate and a base fee must not be negative")
        scale = lcm(prompt.denominator, completion.denominator, base.denominator, cached.denominator)
        return cls(int(prompt * scale), int(completion * scale), int(base * scale), scale, int(cached * scale))

    def cost_msat(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Msat:
        """Cost of a request with these token counts, rounded up to 1 msat.

        ``cached_tokens`` of the prompt tokens were cached; it must not be more than there are.
        """
        exact = prompt_tokens * self.prompt + completion_tokens * self.completion + self.base
        if cached_tokens:
            exact += cached_tokens * (self.cached - self.prompt)
        return Msat(-(-exact // self.denominator))

    def output_rate_sats(self, unit: str) -> Fraction:
        """The completion rate in sats per ``unit``, exact."""
        return Fraction(self.completion * RATE_UNITS[unit], self.denominator * MSAT_PER_SAT)

    def input_rate_sats(self, unit: str) -> Fraction:
        """The prompt rate in sats per ``unit``, exact."""
        return Fraction(self.prompt * RATE_UNITS[unit], self.denominator * MSAT_PER_SAT)

    def cached_input_rate_sats(self, unit: str) -> Fraction:
        """The rate of cached prompt tokens in sats per ``unit``, exact."""
        return Fraction(self.cached * RATE_UNITS[unit], self.denominator * MSAT_PER_SAT)

    @property
    def base_fee_msat(self) -> Fraction:
        """The fee per request in msat, exact."""
        return Fraction(self.base, self.denominator)


def format_sats(amount_msat: int) -> str:
    """Render msat as sats in shortest exact decimal form: ``1500 -> '1.5'``, ``3 -> '0.003'``."""
    sign = "-" if amount_msat < 0 else ""
    whole, rest = divmod(abs(amount_msat), MSAT_PER_SAT)
    return f"{sign}{whole}" if rest == 0 else f"{sign}{whole}.{rest:03d}".rstrip("0")
