"""Fixtures of the vault's black-box suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.vault.treasury import Vault, treasury


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """A program that the tests of a module share; each makes its own agents."""
    with treasury(tmp_path_factory.mktemp("vault")) as vault:
        yield vault
