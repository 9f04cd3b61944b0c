"""Reading a provider's own list of models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import Model, ProviderConfig
from arbstr.market import FetchFailed, FoundModel, discover, parse_models, with_found
from arbstr.market._fetch import decode
from arbstr.secrets import Secret
from arbstr.units import Price
from tests.market.rig import World, ok


def ids(document: Any) -> list[str]:
    return [model.id for model in parse_models(document)]


def test_ids_keep_the_order_when_read() -> None:
    assert ids({"data": [{"id": "b", "object": "model"}, {"id": "a"}], "object": "list"}) == ["b", "a"]


def test_what_is_no_model_is_left_out_when_others_are() -> None:
    odd = [None, 3, "x", {}, {"id": 3}, {"id": ""}, {"id": " a"}, {"id": "a\n"}, {"id": "x" * 129}, {"id": "ok"}]

    assert ids({"data": [*odd, {"id": "ok"}]}) == ["ok"]


@pytest.mark.parametrize(
    "document", [None, [], {}, {"data": None}, {"data": {}}, {"data": []}, {"data": [{}]}, {"models": [{"id": "a"}]}]
)
def test_it_is_a_failure_and_no_empty_list_when_nothing_is_listed(document: Any) -> None:
    with pytest.raises(FetchFailed):
        parse_models(document)


def test_reading_ends_when_there_are_too_many() -> None:
    assert len(ids({"data": [{"id": f"m{n}"} for n in range(6_000)]})) == 5_000


@pytest.mark.parametrize(
    ("entry", "context", "output"),
    [
        ({"context_length": 8_192}, 8_192, None),
        ({"max_model_len": 4_096}, 4_096, None),
        ({"context_window": 100, "max_output_tokens": 7}, 100, 7),
        ({"context_length": 9, "top_provider": {"context_length": 8, "max_completion_tokens": 5}}, 9, 5),
        ({"top_provider": {"context_length": 8, "max_completion_tokens": None}}, 8, None),
        ({"context_length": "8192", "max_output_tokens": True}, None, None),
        ({"context_length": 0, "max_output_tokens": -1}, None, None),
        ({"context_length": 10**10}, None, None),
        ({"context_length": 8192.0}, None, None),
        ({"top_provider": [1]}, None, None),
    ],
)
def test_limits_are_taken_when_they_are_integers(entry: Any, context: int | None, output: int | None) -> None:
    document = decode(json.dumps({"data": [{"id": "m", **entry}]}).encode())

    assert parse_models(document) == (FoundModel("m", context, output),)


KEYS = ["data", "id", "context_length", "top_provider", "max_output_tokens"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["data", "id", "context_length", "top_provider", "max_output_tokens"]), inner
            )
        ),
        max_leaves=20,
    )
)
def test_anything_is_models_or_a_failure_when_parsed(document: Any) -> None:
    try:
        found = parse_models(document)
    except FetchFailed:
        return
    assert found
    assert ProviderConfig(name="a", url="https://a", models=[Model(one.id) for one in found]).models


async def test_the_list_is_asked_for_below_the_url_when_it_ends_with_slashes() -> None:
    world = World({"https://a.example/v1/models": ok({"data": [{"id": "m"}]})})

    assert await discover(world, "https://a.example/v1//", Secret("sk"), timeout_s=5) == (FoundModel("m"),)
    assert world.asked[0].headers["authorization"] == "Bearer sk"


# --- What becomes of a provider's own list ----------------------------------------------------------------------------


def provider(*models: str | Model, **more: Any) -> ProviderConfig:
    return ProviderConfig(name="a", url="https://a.example/v1", models=models, auto_discover=True, **more)


def test_the_found_list_replaces_the_written_one_when_it_is_known() -> None:
    changed = with_found(provider("old", "b"), [FoundModel("b"), FoundModel("a", 8_192, 100)])

    assert changed.models == (Model("b"), Model("a", context_tokens=8_192, max_output_tokens=100))
    assert not changed.any_model


def test_what_the_file_says_of_a_model_stays_when_it_is_found() -> None:
    price = Price.of(1, 2)
    written = [Model("fast", "org/m", price=price, context_tokens=5), Model("slow", "org/m")]
    changed = with_found(provider(*written), [FoundModel("org/m", 9, 3)])

    assert changed.models == (
        Model("fast", "org/m", price, context_tokens=5, max_output_tokens=3),
        Model("slow", "org/m", context_tokens=9, max_output_tokens=3),
    )


def test_an_alias_of_the_file_wins_when_the_provider_has_a_model_of_its_name() -> None:
    found = [FoundModel("fast"), FoundModel("org/m")]

    assert with_found(provider(Model("fast", "org/m")), found).models == (Model("fast", "org/m"),)


def test_the_list_stays_when_nothing_of_it_would_be_left() -> None:
    written = provider(Model("fast", "org/m"))

    assert with_found(written, [FoundModel("fast")]) == written


def test_a_wildcard_stays_one_when_its_list_is_found() -> None:
    assert with_found(provider(any_model=True), [FoundModel("m")]).any_model


def test_a_provider_serves_nothing_when_its_list_is_neither_written_nor_found() -> None:
    assert (provider().models, provider().any_model) == ((), False)
