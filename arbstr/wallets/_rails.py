"""Which rail a payment takes (contract: vault, section 15.5). The choice is pure; ``Rails`` knows the wallets."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import field, frozen

from arbstr.wallets._wallet import Wallet, WalletState

SIMULATED = "simulated"
LIGHTNING = "lightning"
CASHU = "cashu"

CASHU_THRESHOLD_MSAT = 1_000_000
"""From here on Lightning, where there are both (contract: vault, section 2)."""

_OTHER = {LIGHTNING: CASHU, CASHU: LIGHTNING}


def choose_rail(
    rails: Collection[str],
    amount_msat: int,
    preferred: str | None = None,
    *,
    threshold_msat: int = CASHU_THRESHOLD_MSAT,
) -> str:
    """The rail to try first. The hint counts only where there is a choice; without a real rail it is a simulation."""
    real = [rail for rail in (LIGHTNING, CASHU) if rail in rails]
    if len(real) < 2:
        return real[0] if real else SIMULATED
    if preferred in real:
        return str(preferred)
    return CASHU if amount_msat < threshold_msat else LIGHTNING


def fallback_rail(rails: Collection[str], first: str, tried: str, state: WalletState) -> str | None:
    """Where to try once more: on the other rail, when the first one has definitely failed; else None.

    Nothing that may have been paid (pending, unknown) is ever tried again elsewhere.
    """
    other = _OTHER.get(tried)
    if state is not WalletState.FAILED or tried != first or other not in rails:
        return None
    return other


@frozen
class Rails:
    """The wallets by rail, and the rule between them."""

    wallets: Mapping[str, Wallet]
    threshold_msat: int = field(default=CASHU_THRESHOLD_MSAT, kw_only=True)

    def choose(self, amount_msat: int, preferred: str | None = None) -> str:
        return choose_rail(self.wallets, amount_msat, preferred, threshold_msat=self.threshold_msat)

    def fallback(self, first: str, tried: str, state: WalletState) -> str | None:
        return fallback_rail(self.wallets, first, tried, state)

    def wallet(self, rail: str) -> Wallet | None:
        """None when this rail is not configured (any more)."""
        return self.wallets.get(rail)
