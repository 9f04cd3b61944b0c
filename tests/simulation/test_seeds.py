"""Some of the seeds that CI runs by the thousand, and that they are not idle."""

from __future__ import annotations

from collections import Counter

import pytest

from arbstr.sim import draw, run

SEEDS_PER_BATCH = 50
HAPPENS = (
    "calls",
    "clients that left",
    "crashes",
    "deposit",
    "extend",
    "HoldRenewal",
    "promises",
    "release",
    "reserve",
    "resolve",
    "settle",
    "status 200",
    "status 402",
    "status 503",
)
IN_THE_VAULT = (
    "alert",
    "approval",
    "budget",
    "crashes of cores",
    "decided approved",
    "events",
    "freeze",
    "lookup failed",
    "lookup pending",
    "lookup succeeded",
    "lookup unknown",
    "orders",
    "payment denied",
    "payment failed",
    "payment pending_approval",
    "payment succeeded",
    "payment unknown",
    "policy",
    "token",
    "tokens that have ended",
    "told failed",
    "told succeeded",
)


@pytest.mark.parametrize("batch", range(2))
def test_no_law_is_broken_and_enough_happens_when_seeds_are_run(batch: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(batch * SEEDS_PER_BATCH, (batch + 1) * SEEDS_PER_BATCH):
        report = run(draw(seed))
        assert not report.wrong, "\n".join((*report.wrong, *report.scenario.story()))
        counts.update(report.counts)
    assert all(counts[what] > 5 for what in HAPPENS), counts
    assert all(counts[what] > 0 for what in IN_THE_VAULT), counts
