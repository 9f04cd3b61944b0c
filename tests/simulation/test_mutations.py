"""That the simulation bites: every defect of the lists of mutations is found within 200 seeds."""

from __future__ import annotations

import pytest

from arbstr.sim import draw, run
from tests.simulation.core_mutations import OF_TWO_PROCESSES
from tests.simulation.mutations import OF_REQUESTS, Mutation
from tests.simulation.vault_mutations import OF_THE_VAULT

SEEDS = 200


@pytest.mark.parametrize(
    "mutation", [*OF_REQUESTS, *OF_THE_VAULT, *OF_TWO_PROCESSES], ids=lambda mutation: mutation.__name__
)
def test_a_defect_is_found_within_200_seeds(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    found = next((report for report in (run(draw(seed)) for seed in range(SEEDS)) if report.wrong), None)
    assert found is not None
    # A law says so, or what is left at the end: no mutation only breaks the run itself.
    assert "the run ended with" not in found.wrong[0]
