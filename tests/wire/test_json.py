"""JSON bodies whose other bytes must survive."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.wire import with_member

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", b'{"p":"a"}'),
        (b" { }\n", b' {"p":"a" }\n'),
        (b'{"x":1.0}', b'{"p":"a","x":1.0}'),
        (b'{"x":1e400, "p" : {"p":1} , "y":[]}', b'{"x":1e400, "p" : "a" , "y":[]}'),
        (b'{"p":1,"p":2}', b'{"p":"a","p":"a"}'),
        (b'{"\\u0070":1}', b'{"\\u0070":"a"}'),
        ('{"é":"ü","p":0}'.encode(), '{"é":"ü","p":"a"}'.encode()),
        (b'{"x":NaN}', b'{"p":"a","x":NaN}'),
        (b'{"x":' + b"9" * 5_000 + b"}", b'{"p":"a","x":' + b"9" * 5_000 + b"}"),
    ],
)
def test_one_member_is_set_and_all_other_bytes_stay_when_the_body_is_an_object(body: bytes, expected: bytes) -> None:
    assert with_member(body, "p", "a") == expected


@pytest.mark.parametrize(
    "body",
    [b"", b"[1,2]", b'"p"', b"null", b"{", b'{"x":}', b'{"x":1} x', b'{"x":1,}', b"\xff{}", b'{"x":' + b"[" * 10**5],
)
def test_the_body_passes_as_it_is_when_it_is_no_object(body: bytes) -> None:
    assert with_member(body, "p", "a") == body


@given(st.dictionaries(st.text(), JSON), st.text(), st.text())
def test_the_object_has_just_that_member_more_when_it_is_read_again(
    members: dict[str, Any], key: str, value: str
) -> None:
    body = json.dumps(members, ensure_ascii=False).encode("utf-8", "backslashreplace")
    assert json.loads(with_member(body, key, value)) == {**members, key: value}


@given(st.dictionaries(st.text(), JSON, min_size=1), st.sampled_from(["", " ", "\n\t"]), st.text(), st.text())
def test_the_bytes_are_the_same_when_the_object_is_known_to_be_sound(
    members: dict[str, Any], space: str, key: str, value: str
) -> None:
    body = (space + json.dumps(members)).encode()
    assert with_member(body, key, value, sound=True) == with_member(body, key, value)
