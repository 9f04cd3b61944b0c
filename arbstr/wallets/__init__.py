"""Where money really leaves: one interface, a simulation of it, and the rule that picks between rails.

Knows orders and keys, not agents. Whoever asks decides first, and has written down that it is about to ask.
"""

from arbstr.wallets._bolt11 import Bolt11, InvoiceUnreadable, read_invoice
from arbstr.wallets._rails import (
    CASHU,
    CASHU_THRESHOLD_MSAT,
    LIGHTNING,
    SIMULATED,
    Rails,
    choose_rail,
    fallback_rail,
)
from arbstr.wallets._simulated import (
    SETTLES,
    Answer,
    Behaviour,
    Script,
    SimulatedBook,
    SimulatedWallet,
    settle_at_once,
)
from arbstr.wallets._wallet import Invoice, PaymentOrder, Result, Wallet, WalletError, WalletState

__all__ = [
    "CASHU",
    "CASHU_THRESHOLD_MSAT",
    "LIGHTNING",
    "SETTLES",
    "SIMULATED",
    "Answer",
    "Behaviour",
    "Bolt11",
    "Invoice",
    "InvoiceUnreadable",
    "PaymentOrder",
    "Rails",
    "Result",
    "Script",
    "SimulatedBook",
    "SimulatedWallet",
    "Wallet",
    "WalletError",
    "WalletState",
    "choose_rail",
    "fallback_rail",
    "read_invoice",
    "settle_at_once",
]
