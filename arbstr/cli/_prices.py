"""Who serves a model at which price, by the configuration alone: no breaker, policy or market has a say."""

from __future__ import annotations

from fractions import Fraction

from attrs import frozen

from arbstr.cli._amounts import format_decimal
from arbstr.config import Config, Model, ProviderConfig
from arbstr.units import MSAT_PER_SAT, Price


@frozen
class Serving:
    """One provider and a model of it."""

    provider: ProviderConfig
    model: Model | None
    """None: the provider takes any model, and this one is not on its list."""

    @property
    def price(self) -> Price | None:
        """None: not known."""
        return self.provider.price if self.model is None or self.model.price is None else self.model.price

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be bought there; None when it can."""
        if self.model is not None and self.model.excluded is not None:
            return self.model.excluded
        return "its price is not known" if self.price is None else None

    def fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether a request of this length is within the model's limits, as far as they are known."""
        if self.model is None:
            return True
        context, longest = self.model.context_tokens, self.model.max_output_tokens
        return (context is None or prompt_tokens + completion_tokens <= context) and (
            longest is None or completion_tokens <= longest
        )


def serving(config: Config, model: str) -> list[Serving]:
    """All who serve a model that is asked for by this name, an alias included."""
    name = config.aliases.get(model, model)
    found = []
    for provider in config.providers:
        listed = next((one for one in provider.models if one.id == name), None)
        if listed is not None or provider.any_model:
            found.append(Serving(provider, listed))
    return found


def everything_served(config: Config) -> list[Serving]:
    """Each model of each provider, and each provider that takes any."""
    found = []
    for provider in config.providers:
        found += [Serving(provider, model) for model in provider.models]
        if provider.any_model:
            found.append(Serving(provider, None))
    return found


def typical_cost(price: Price) -> Fraction:
    """To compare prices by, in msat: 1,000 prompt and 1,000 completion tokens, exact."""
    return Fraction(1_000 * (price.prompt + price.completion) + price.base, price.denominator)


def written_rates(price: Price | None, unit: str) -> dict[str, str | None]:
    """As they would be written in the configuration: exact decimals, by key. None: not known."""
    if price is None:
        return dict.fromkeys(("input_rate", "output_rate", "cached_input_rate", "base_fee"))
    return {
        "input_rate": format_decimal(price.input_rate_sats(unit)),
        "output_rate": format_decimal(price.output_rate_sats(unit)),
        "cached_input_rate": format_decimal(price.cached_input_rate_sats(unit)),
        "base_fee": format_decimal(price.base_fee_msat / MSAT_PER_SAT),
    }
