"""What a provider says it serves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.providers import DiscoveredModel, UndecodableModels, parse_models


def parsed(*entries: Any) -> tuple[DiscoveredModel, ...]:
    return parse_models(json.dumps({"object": "list", "data": entries}).encode())


def test_reads_the_ids_in_order_when_it_is_openais_shape() -> None:
    found = parsed({"id": "b", "object": "model", "owned_by": "x"}, {"id": "a"})
    assert found == (DiscoveredModel("b"), DiscoveredModel("a"))


def test_reads_a_bare_array_when_that_is_what_it_sends() -> None:
    assert parse_models(b'[{"id":"a"}]') == (DiscoveredModel("a"),)


@pytest.mark.parametrize(
    ("entry", "context_tokens", "max_output_tokens"),
    [
        ({"context_length": 8_192}, 8_192, None),
        ({"max_model_len": 4_096}, 4_096, None),
        ({"context_window": 100, "max_output_tokens": 10}, 100, 10),
        ({"context_length": 9, "top_provider": {"max_completion_tokens": 5}}, 9, 5),
        ({"context_length": "8192", "max_output_tokens": 0}, None, None),
        ({"context_length": True, "max_output_tokens": 1e3}, None, None),
        ({"context_length": -1, "max_model_len": 7, "top_provider": []}, 7, None),
        ({"context_length": 1 << 40}, None, None),
    ],
)
def test_reads_the_limits_when_they_make_sense(
    entry: dict[str, Any], context_tokens: int | None, max_output_tokens: int | None
) -> None:
    assert parsed({"id": "m", **entry}) == (DiscoveredModel("m", context_tokens, max_output_tokens),)


def test_leaves_out_an_entry_when_its_id_is_of_no_use() -> None:
    bad = [None, "a", 7, {}, {"id": ""}, {"id": 7}, {"id": " a"}, {"id": "a\n"}, {"id": "x" * 129}]
    assert parsed(*bad, {"id": "good"}, {"id": "good", "context_length": 5}) == (DiscoveredModel("good"),)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"null", b"7", b'"x"', b"{}", b'{"data":{}}', b'{"data":null}', b"[" * 100_000]
)
def test_refuses_a_body_when_it_is_no_list(body: bytes) -> None:
    with pytest.raises(UndecodableModels):
        parse_models(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "data", "context_length", "x"]), inner),
    )
)
def test_reads_or_refuses_whatever_comes(value: Any) -> None:
    try:
        found = parse_models(json.dumps(value).encode())
    except UndecodableModels:
        return
    assert len({model.id for model in found}) == len(found)
