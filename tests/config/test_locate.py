"""The locator finds keys in any layout that TOML allows, and answers with what is around them when it cannot."""

from __future__ import annotations

import tomllib
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config._locate import Locator


def lines(text: str) -> Locator:
    text = dedent(text)
    tomllib.loads(text)  # only valid TOML is promised an answer
    return Locator(text)


def test_header_and_keys_are_found_when_tables_are_plain() -> None:
    found = lines("""\
        top = 1

        [server]
        # a comment
        listen = "x"  # another
        """)
    assert found.line_of(("top",)) == 1
    assert found.line_of(("server",)) == 3
    assert found.line_of(("server", "listen")) == 5


def test_each_element_has_its_own_lines_when_there_is_an_array_of_tables() -> None:
    found = lines("""\
        [[providers]]
        name = "a"
        [[providers]]
        name = "b"
        [providers.extra]
        deep = 1
        [[providers.parts]]
        x = 1
        [[providers.parts]]
        x = 2
        [[providers]]
        name = "c"
        """)
    assert [found.line_of(("providers", n, "name")) for n in range(3)] == [2, 4, 12]
    assert [found.line_of(("providers", n)) for n in range(3)] == [1, 3, 11]
    assert found.line_of(("providers", 1, "extra", "deep")) == 6
    assert found.line_of(("providers", 1, "parts", 1, "x")) == 10


def test_nested_array_of_tables_is_found_when_its_parent_has_no_header() -> None:
    found = lines("""\
        [[policies.rules]]
        name = "a"
        [[policies.rules]]
        name = "b"
        """)
    assert found.line_of(("policies",)) == 1
    assert found.line_of(("policies", "rules", 1, "name")) == 4


def test_explicit_header_wins_when_the_table_was_implied_before() -> None:
    found = lines("[a.b]\nx = 1\n[a]\ny = 1\n")
    assert found.line_of(("a",)) == 3


def test_following_key_is_found_when_strings_hold_what_looks_like_toml() -> None:
    found = lines("""\
        a = \"\"\"
        [server]
        listen = "fooled"  # ]] \\\"""
        \"\"\"\"\"
        b = '''
        c = 'x' [[
        '''
        c = "x # no comment = \\" ["
        d = 'back\\'
        e = 1
        """)
    assert [found.line_of((key,)) for key in "abcde"] == [1, 5, 8, 9, 10]
    assert found.line_of(("server",)) is None


def test_elements_and_following_key_are_found_when_an_array_spans_lines() -> None:
    found = lines("""\
        models = [  # the list ]
            "gpt-4o",
            [1, 2,
             3],
            { name = "x", list = [
                "y" ] },
        ]
        after = 1979-05-27 07:32:00
        last = true
        """)
    assert found.line_of(("models", 0)) == 2
    assert found.line_of(("models", 1, 2)) == 4
    assert found.line_of(("models", 2, "list", 0)) == 6
    assert found.line_of(("after",)) == 8
    assert found.line_of(("last",)) == 9


def test_parts_are_found_when_keys_are_dotted_or_quoted() -> None:
    found = lines("""\
        server.listen = "x"
        "ser=ver"."a.b" = 1
        'it#s' = 2
        "\\u0061" = 3
        [ "x]" . y ]
        z . w = 4
        """)
    assert found.line_of(("server", "listen")) == 1
    assert found.line_of(("server",)) == 1
    assert found.line_of(("ser=ver", "a.b")) == 2
    assert found.line_of(("it#s",)) == 3
    assert found.line_of(("a",)) == 4
    assert found.line_of(("x]", "y", "z", "w")) == 6


def test_line_of_the_table_is_given_when_the_key_is_not_there() -> None:
    found = lines("[[providers]]\nname = 'a'\n[[providers]]\nname = 'b'\n")
    assert found.line_of(("providers", 1, "url")) == 3
    assert found.line_of(("nowhere", "at", "all")) is None


def test_lines_are_right_when_they_end_with_carriage_return_and_line_feed() -> None:
    assert Locator("a = '''\r\n\r\n'''\r\nb = 1\r\n").line_of(("b",)) == 4


@pytest.mark.parametrize("text", ["a = [1\n", "a = 'x\nb = 2", "[a\nb = 1", "= 3", "a = ", "[[[[", 'a = """x'])
def test_nothing_is_raised_when_the_text_is_not_toml(text: str) -> None:
    assert Locator("first = 1\n" + text).line_of(("first",)) == 1


VALUES = st.sampled_from(
    [
        "1",
        "true",
        "-1.5e3",
        "1979-05-27T07:32:00Z",
        '"text # = [[x]]"',
        "'lit\\'",
        '""',
        "''",
        '""""""',
        '"""\nk0 = 1\n[[t]]\n"""',
        '"""a\\"""b""x\n"""""',
        "'''\n# k1 = 2\n''x'''''",
        "[]",
        "[\n  1, # ]\n  2\n]",
        '[ { a = "}" }, { a = [\n"]" ] } ]',
        "{}",
        "{ a.b = 1, \"c]\" = '}' }",
    ]
)
FILLERS = st.sampled_from(["", "\n", "# k0 = 1\n", "   \t\n# [t]\n"])


@given(st.lists(st.tuples(st.booleans(), FILLERS, VALUES), max_size=12))
def test_every_key_is_found_on_its_line_whatever_stands_before_it(pieces: list[tuple[bool, str, str]]) -> None:
    text, tables = "", 0
    expected: dict[tuple[str | int, ...], int] = {}
    for number, (opens, filler, value) in enumerate(pieces):
        text += filler
        if opens:
            tables += 1
            text += "[[t]]\n"
        path: tuple[str | int, ...] = ("t", tables - 1) if tables else ()
        expected[(*path, f"k{number}")] = text.count("\n") + 1
        text += f"k{number} = {value}\n"
    tomllib.loads(text)
    found = Locator(text)
    assert {path: found.line_of(path) for path in expected} == expected
