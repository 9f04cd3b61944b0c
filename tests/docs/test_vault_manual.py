"""The manual of the vault's API names the routes, the members of bodies and policies, and the bounds there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arbstr.edge import VAULT_ROUTES
from arbstr.edge._vault import MAX_BODY_BYTES
from arbstr.edge._vault_routes import POLICY_FIELDS
from arbstr.edge._vault_schema import MAX_SAFE_INTEGER

MANUAL = (Path(__file__).parents[2] / "docs" / "vault.md").read_text()


def test_every_route_is_in_the_manual_in_order_with_who_may_use_it() -> None:
    rows = re.findall(r"^\| ([A-Z]+) \| `(/[^`]*)` \| (\w+) \| 20[01]( \+)? \|$", MANUAL, re.MULTILINE)
    assert rows == [(one.method, one.path, one.auth.value, " +" if one.ours else "") for one in VAULT_ROUTES]


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_every_member_of_a_policy_is_in_the_manual(name: str) -> None:
    assert re.search(rf"^\| `{name}`( \+)? \|", MANUAL, re.MULTILINE)


def test_members_of_bodies_are_in_the_manual() -> None:
    for route in VAULT_ROUTES:
        shapes = [route.query, *([route.body] if route.body else [])]
        for name in [name for shape in shapes for name in shape.fields]:
            assert f"`{name}`" in MANUAL, (route.path, name)


@pytest.mark.parametrize("number", [MAX_BODY_BYTES, MAX_SAFE_INTEGER])
def test_bounds_in_the_manual_are_the_real_ones(number: int) -> None:
    assert str(number) in MANUAL
