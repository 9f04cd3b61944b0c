"""The list of models."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Model

from arbstr.units import Price
from arbstr.wire import ModelEntry, ModelOffer, model_body, models_body
from arbstr.wire._models import exact_text


def test_the_list_has_openais_shape_and_exact_prices_when_models_are_on_offer() -> None:
    price = Price.of(Decimal("0.000000001"), 15, Decimal("0.1"), cached_input_rate=0)
    offers = (
        ModelOffer("a", price, "standard", context_tokens=8_000, max_output_tokens=500),
        ModelOffer("b", None, "local", context_tokens=32_000, excluded="its answers are bad"),
    )
    body = models_body([ModelEntry("m", 1_700_000_000, "arbstr", offers, price), ModelEntry("é", 0, "arbstr")])
    pricing = {
        "input_msat_per_1m_tokens": "0.001",
        "cached_input_msat_per_1m_tokens": "0",
        "output_msat_per_1m_tokens": "15000000",
        "base_fee_msat": "100",
    }
    assert json.loads(body) == {
        "object": "list",
        "data": [
            {
                "id": "m",
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "arbstr",
                "context_tokens": 32_000,
                "max_output_tokens": 500,
                "providers": ["a", "b"],
                "pricing": pricing,
                "offers": [
                    {
                        "provider": "a",
                        "tier": "standard",
                        "pricing": pricing,
                        "context_tokens": 8_000,
                        "max_output_tokens": 500,
                        "excluded": None,
                    },
                    {
                        "provider": "b",
                        "tier": "local",
                        "pricing": None,
                        "context_tokens": 32_000,
                        "max_output_tokens": None,
                        "excluded": "its answers are bad",
                    },
                ],
            },
            {
                "id": "é",
                "object": "model",
                "created": 0,
                "owned_by": "arbstr",
                "context_tokens": None,
                "max_output_tokens": None,
                "providers": [],
                "pricing": None,
                "offers": [],
            },
        ],
    }


def test_one_model_alone_is_as_in_the_list() -> None:
    entry = ModelEntry("m", 5, "arbstr", (ModelOffer("a"),))
    assert json.loads(model_body(entry)) == json.loads(models_body([entry]))["data"][0]


def test_the_list_is_empty_when_nothing_is_on_offer() -> None:
    assert models_body([]) == b'{"object":"list","data":[]}'


def test_the_official_sdk_reads_each_entry_when_it_has_our_members() -> None:
    [entry] = json.loads(models_body([ModelEntry("m", 5, "arbstr", (ModelOffer("a"),))]))["data"]
    model = Model.model_validate(entry)
    assert (model.id, model.created, model.owned_by) == ("m", 5, "arbstr")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(100), "100"),
        (Fraction(1, 2), "0.5"),
        (Fraction(1, 3), "1/3"),
        (Fraction(1, 10**40), "0." + "0" * 39 + "1"),
        (Fraction(10**40), "1" + "0" * 40),
    ],
)
def test_a_number_is_exact_when_it_is_written(value: Fraction, text: str) -> None:
    assert exact_text(value) == text


@given(
    st.fractions(min_value=0) | st.decimals(min_value=0, allow_nan=False, allow_infinity=False, places=12).map(Fraction)
)
def test_the_same_number_is_read_when_it_was_written(value: Fraction) -> None:
    assert Fraction(exact_text(value)) == value
