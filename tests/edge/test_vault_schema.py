"""The shapes of what the vault is sent: the contract's words for each issue, and never an exception of another kind."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.edge._vault_schema import (
    MAX_ISSUES,
    MAX_SAFE_INTEGER,
    Choice,
    Flag,
    Integer,
    Invalid,
    Maybe,
    Nullable,
    Object,
    Shape,
    Text,
    TextList,
    TextMap,
    number_of,
    read_part,
)

AMOUNT = Integer(positive=True)


def issue(shape: Shape, *value: object) -> str:
    """What is said of one value of a field ``f``, or of its absence."""
    with pytest.raises(Invalid) as caught:
        read_part("body", Object({"f": shape}), {"f": value[0]} if value else {})
    return caught.value.message.removeprefix("body/f ")


def accepted(shape: Shape, *value: object) -> object:
    return read_part("body", Object({"f": shape}), {"f": value[0]} if value else {})["f"]


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (None, "null"),
        ("5", "string"),
        (True, "boolean"),
        ([], "array"),
        ({}, "object"),
        (math.nan, "NaN"),
        (math.inf, "number"),
    ],
)
def test_type_is_named_when_it_is_no_number(value: object, received: str) -> None:
    assert issue(AMOUNT, value) == f"Invalid input: expected number, received {received}"


def test_undefined_is_received_when_a_field_is_missing() -> None:
    assert issue(AMOUNT) == "Invalid input: expected number, received undefined"
    assert issue(Text()) == "Invalid input: expected string, received undefined"


@pytest.mark.parametrize(
    ("shape", "value", "text"),
    [
        (AMOUNT, 1.5, "Invalid input: expected int, received number"),
        (AMOUNT, 0, "Too small: expected number to be >0"),
        (AMOUNT, -5, "Too small: expected number to be >0"),
        (Integer(minimum=0), -1, "Too small: expected number to be >=0"),
        (Integer(maximum=100), 101, "Too big: expected number to be <=100"),
        (AMOUNT, 2**53, "Too big: expected int to be <=9007199254740991"),
        (AMOUNT, 10**400, "Too big: expected int to be <=9007199254740991"),
        (Integer(), -(2**53), "Too small: expected int to be >=-9007199254740991"),
        (Text(1), "", "Too small: expected string to have >=1 characters"),
        (Text(0, 2), "abc", "Too big: expected string to have <=2 characters"),
        (Text(prefix="ag_"), "foo", 'Invalid string: must start with "ag_"'),
        (Choice(("a", "b")), "c", 'Invalid option: expected one of "a"|"b"'),
        (Choice(("a", "b")), None, 'Invalid option: expected one of "a"|"b"'),
        (Flag(), 1, "Invalid input: expected boolean, received number"),
        (Maybe(Text()), None, "Invalid input: expected string, received null"),
        (TextList(Text(), 1), ["a", "b"], "Too big: expected array to have <=1 items"),
        (TextMap(Text(), Text(), 3), [], "Invalid input: expected record, received array"),
    ],
)
def test_issue_is_told_in_the_contracts_words(shape: Shape, value: object, text: str) -> None:
    assert issue(shape, value) == text


def test_nested_path_is_told_when_a_value_of_a_map_is_wrong() -> None:
    message = issue(TextMap(Text(0, 9), Text(), 3), {"a": 1, "b": "fine", "c": None})
    assert message == (
        "body/f/a Invalid input: expected string, received number, "
        "body/f/c Invalid input: expected string, received null"
    ).removeprefix("body/f ")


def test_all_issues_of_a_part_are_told_in_the_order_of_the_fields() -> None:
    shape = Object({"name": Text(1), "metadata": Maybe(TextMap(Text(0, 9), Text(), 3))})
    with pytest.raises(Invalid) as caught:
        read_part("body", shape, {"metadata": {"a": 1}, "name": 5})
    assert caught.value.message == (
        "body/name Invalid input: expected string, received number, "
        "body/metadata/a Invalid input: expected string, received number"
    )


@pytest.mark.parametrize(("value", "received"), [(None, "null"), ("text", "string"), ([], "array"), (3, "number")])
def test_body_itself_is_named_when_it_is_no_object(value: object, received: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_part("body", Object(), value)
    assert caught.value.message == f"body/ Invalid input: expected object, received {received}"


def test_length_is_counted_in_utf16_units() -> None:
    assert accepted(Text(0, 4), "\N{GRINNING FACE}" * 2) == "\N{GRINNING FACE}" * 2
    assert issue(Text(0, 3), "\N{GRINNING FACE}" * 2).startswith("Too big")


def test_what_is_valid_is_given_back() -> None:
    assert accepted(AMOUNT, 1.0) == 1
    assert isinstance(accepted(AMOUNT, 1.0), int)
    assert accepted(AMOUNT, MAX_SAFE_INTEGER) == MAX_SAFE_INTEGER
    assert accepted(Maybe(AMOUNT, 7)) == 7
    assert accepted(Maybe(AMOUNT, nullable=True), None) is None
    assert accepted(Nullable(AMOUNT), None) is None
    assert accepted(TextList(Text(), 3), ["b", "a", "b"]) == ("b", "a")
    assert read_part("body", Object({"a": Text()}), {"a": "x", "extra": 1}) == {"a": "x"}


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), (" 7 ", 7), ("0x1F", 31), ("1e2", 100.0), ("-3", -3), ("1.5", 1.5), ("9" * 20, int("9" * 20))],
)
def test_query_text_becomes_the_number_that_javascript_makes_of_it(text: str, number: float) -> None:
    assert number_of(text) == number


@pytest.mark.parametrize("text", ["abc", "1_000", "1,5", "--1", "0x", "9" * 401, ["1", "2"], "\u0663"])
def test_query_text_is_nan_when_it_is_no_number(text: object) -> None:
    assert math.isnan(number_of(text))  # type: ignore[arg-type]  # NaN is a float


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SHAPE = Object(
    {
        "amount": Integer(positive=True, maximum=1_000),
        "name": Text(1, 3),
        "kind": Maybe(Choice(("a", "b"))),
        "flag": Maybe(Flag(), False),
        "list": Maybe(TextList(Text(1, 2), 2), ()),
        "map": Maybe(TextMap(Text(0, 2), Text(0, 2), 2)),
        "count": Maybe(Integer(minimum=0, from_text=True)),
    }
)


@given(JSON | st.dictionaries(st.sampled_from(list(SHAPE.fields)), JSON))
def test_any_value_is_either_read_or_refused_with_issues_of_the_grammar(value: Any) -> None:
    try:
        read = read_part("body", SHAPE, value)
    except Invalid as refused:
        issues = (", " + refused.message).split(", body/")[1:]
        assert 0 < len(issues) <= MAX_ISSUES
        assert all(re.search("Invalid|Too small|Too big", one) for one in issues)
    else:
        assert isinstance(read["amount"], int)
        assert 0 < read["amount"] <= 1_000
        assert read["amount"] == value["amount"]
        assert set(read) == set(SHAPE.fields)
        json.dumps(read)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_number_is_accepted_exactly_when_it_is_a_whole_amount_in_range(number: float) -> None:
    valid = number == int(number) and 0 < number <= MAX_SAFE_INTEGER
    try:
        assert accepted(AMOUNT, number) == number
        assert valid
    except Invalid:
        assert not valid


@given(st.text() | st.lists(st.text()))
def test_number_of_never_raises_and_always_gives_a_number(text: object) -> None:
    assert isinstance(number_of(text), int | float)
