"""What is allowed but probably not meant: warnings about a valid configuration. Pure, but for the file's mode."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from fractions import Fraction
from ipaddress import ip_address
from itertools import groupby, pairwise
from pathlib import Path

from arbstr.config._rules import shown
from arbstr.config._schema import MIN_TOKEN_LENGTH, Config, ProviderConfig
from arbstr.units import Price

SUSPICIOUS_RATIO = 100
"""Real providers of one model differ by a factor of 10 or so; a mistaken unit makes it 1,000."""


def open_mode(path: Path) -> int | None:
    """Permission bits of a file that are more than owner may read and write, else None.

    The whole mode is returned (``0o644``). Systems without such modes and files that are gone give None.
    """
    if os.name != "posix":
        return None
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return mode if mode & 0o177 else None


def mode_warning(path: Path, mode: int) -> str:
    """The sentence about a file with keys in it that others may read."""
    return f"{path} has mode {mode:04o} and holds a key in plain text; run: chmod 600 {path}"


def exposure_warning(config: Config) -> str | None:
    """Reachable from other machines, and anybody may spend."""
    if config.vault is not None or config.server.auth_token is not None:
        return None
    host = config.server.listen.rpartition(":")[0].strip("[]")
    try:
        local = ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        local = host == "localhost"
    if local:
        return None
    return (
        f"listens on {config.server.listen} without [server] auth_token and without [vault]: whoever reaches it "
        "spends your sats; set auth_token or listen on 127.0.0.1"
    )


def short_admin_warning(config: Config) -> str | None:
    """Agents could be made and given money by whoever guesses it."""
    token = config.server.admin_token
    if config.vault is None or token is None or len(token.reveal()) >= MIN_TOKEN_LENGTH:
        return None
    return (
        f"[server] admin_token is shorter than {MIN_TOKEN_LENGTH} characters: it sees everything, but agents, "
        "deposits, policies and approvals cannot be managed with it over HTTP; write a longer random text"
    )


def shared_variable_warnings(used: Iterable[tuple[str, str]]) -> Iterator[str]:
    """For (variable, provider) pairs: two providers that are given one key because their names fold together."""
    ordered = sorted(used)
    for variable, group in groupby(ordered, key=lambda pair: pair[0]):
        providers = [provider for _, provider in group]
        if len(providers) > 1:
            yield (
                f"providers {', '.join(map(shown, providers))} are all given the key in {variable}; "
                "write api_key for each if that is not meant"
            )


def price_warnings(providers: Iterable[ProviderConfig]) -> Iterator[str]:
    """Providers of one model whose prices are so far apart that a unit was probably mistaken.

    Per model the prices are put in order; a step of ``SUSPICIOUS_RATIO`` between neighbours is named. Free is not
    suspicious: a local model may cost nothing.
    """
    providers = list(providers)
    steps: dict[tuple[str, str], tuple[Fraction, list[str]]] = {}
    for model in dict.fromkeys(name for provider in providers for name in _model_names(provider)):
        levels = [(level, provider.name) for provider in providers if (level := _level_of(provider, model))]
        for (low, cheap), (high, dear) in pairwise(sorted(levels)):
            if high >= SUSPICIOUS_RATIO * low:
                steps.setdefault((cheap, dear), (high / low, []))[1].append(model)
    units = {provider.name: provider.rate_unit for provider in providers}
    for (cheap_name, dear_name), (ratio, affected) in steps.items():
        yield (
            f"provider {shown(dear_name)} asks {int(ratio)} times what {shown(cheap_name)} asks for "
            f"{', '.join(affected)}; is rate_unit right? {shown(dear_name)} is read in {units[dear_name]}, "
            f"{shown(cheap_name)} in {units[cheap_name]}"
        )


def _model_names(provider: ProviderConfig) -> list[str]:
    return [model.id for model in provider.models] or ["any model"]


def _level_of(provider: ProviderConfig, model: str) -> Fraction | None:
    """What it asks for a model, as one number; None when it does not serve it, or nobody knows."""
    listed = next((one for one in provider.models if one.id == model), None)
    if listed is None and not provider.any_model:
        return None
    price = provider.price if listed is None or listed.price is None else listed.price
    return None if price is None else _level(price)


def _level(price: Price) -> Fraction:
    """One number to compare prices by: prompt and completion rate together."""
    return Fraction(price.prompt + price.completion, price.denominator)
