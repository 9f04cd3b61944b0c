"""The import arrows of the whole project: who may import whom, and which library lives in which room.

A file imports only from rooms above its own in ``ROOMS``, or from its own room. The imports are read from the source,
so that those inside functions and behind ``TYPE_CHECKING`` count like all others.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "actors",
        "errors units secrets",
        "wire",
        "config",
        "store",
        "providers",
        "routing",
        "wallets",
        "accounts",
        "market",
        "quality",
        "requests",
        "telemetry",
        "edge",
        "assembly",
        "sim",
        "cli",
        "__main__",
    )
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}

WORDS = frozenset(("errors", "units", "secrets"))
"""The words everyone uses: they import nothing of ours, not even each other."""

LIBRARY_ROOMS = {
    "pykka": frozenset(("actors",)),
    "hypercorn": frozenset(("edge",)),
    "httpx": frozenset(("providers", "wallets", "market", "accounts", "sim")),
    "sqlite3": frozenset(("store",)),
    "sqlite_utils": frozenset(("store",)),
    "trio_websocket": frozenset(("market",)),
    "prometheus_client": frozenset(("telemetry",)),
    "structlog": frozenset(("telemetry",)),
    "opentelemetry": frozenset(("telemetry",)),
}

ACTORS_MAY_IMPORT = sys.stdlib_module_names | {"trio", "pykka", "actors"}

EXCEPTIONS = {
    "actors.testing.pytest_plugin": "pytest",  # loaded by pytest, and only by it
    "actors._reply": "typing_extensions",  # read by type checkers, which bring it along; never loaded
}
"""What may be named in one file of ``actors`` although importing ``actors`` must not load it."""

FACADE = "arbstr"
"""The room of ``arbstr/__init__.py``, which holds the version and imports nothing of ours."""


def room_of(module: str) -> str | None:
    """The room a dotted module name belongs to; None when it is not ours."""
    head, _, rest = module.partition(".")
    if head == "actors":
        return "actors"
    if head == "arbstr":
        return rest.partition(".")[0] or FACADE
    return None


def module_of(path: str) -> str:
    """``arbstr/wire/_sse.py`` -> ``arbstr.wire._sse``; a package's ``__init__`` is the package."""
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of all that a file imports; ``from arbstr import wire`` is ``arbstr.wire``."""
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(path, node)
            if base == "arbstr":
                yield from ((node.lineno, name_from_facade(alias.name)) for alias in node.names)
            else:
                yield node.lineno, base
        elif isinstance(node, ast.Call) and called_name(node) in ("import_module", "__import__"):
            yield node.lineno, constant_argument(node)


def absolute_base(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = list(Path(path).parent.parts)
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *([node.module] if node.module else [])])


def name_from_facade(name: str) -> str:
    """A dunder (``__version__``) is in the facade itself, all else is a room, known or not."""
    return FACADE if name.startswith("__") and name != "__main__" else f"arbstr.{name}"


def called_name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def constant_argument(node: ast.Call) -> str:
    """What a dynamic import names, at least up to its room; any other computed name counts as a room of its own."""
    argument = node.args[0] if node.args else None
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
        prefix = str(argument.values[0].value)
        if prefix.count(".") >= 2 and prefix.startswith("arbstr."):
            return prefix
    return "arbstr.<computed>"


def bad_arrows(path: str, source: str) -> list[str]:
    """What is wrong with the imports of one file; ``path`` is relative to the root, with slashes."""
    room = room_of(module_of(path))
    assert room is not None
    if room != FACADE and room not in LEVEL:
        return [f"{path}: {room} is not in the list of rooms"]
    return [
        f"{path}:{line}: {why}"
        for line, module in imported_modules(path, source)
        if (why := objection(room, module)) is not None and EXCEPTIONS.get(module_of(path)) != module
    ]


def objection(room: str, module: str) -> str | None:
    target = room_of(module)
    library = module.partition(".")[0]
    if room == "actors" and library not in ACTORS_MAY_IMPORT:
        return f"actors imports {module}; it may import the standard library, trio and pykka"
    if target is None:
        homes = LIBRARY_ROOMS.get(library)
        return f"{room} imports {module}; only {', '.join(sorted(homes))} may" if homes and room not in homes else None
    if room in WORDS or room == FACADE:
        return f"{room} imports {module}; it imports nothing of ours"
    if target in (room, FACADE):
        return None
    if target not in LEVEL:
        return f"{room} imports {module}, which is not in the list of rooms"
    return f"{room} imports {module}; the arrow points up" if LEVEL[target] >= LEVEL[room] else None


def our_files() -> list[str]:
    found = [path for package in ("actors", "arbstr") for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def test_no_arrow_points_up_when_all_files_of_the_project_are_read() -> None:
    files = our_files()
    assert "arbstr/units.py" in files
    assert [arrow for path in files for arrow in bad_arrows(path, (ROOT / path).read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("arbstr/wire/_chat.py", "from arbstr.config import Tier", id="room below"),
        pytest.param("arbstr/wire/_chat.py", "import arbstr.config", id="plain import"),
        pytest.param("arbstr/wire/_chat.py", "from arbstr import config", id="from the facade"),
        pytest.param("arbstr/wire/_chat.py", "from ..config import Tier", id="relative"),
        pytest.param("arbstr/wire/_chat.py", "from .. import config", id="relative from the facade"),
        pytest.param("arbstr/wire/__init__.py", "from ..config import Tier", id="relative in a package"),
        pytest.param("arbstr/wire/deep/_a.py", "from ...config import Tier", id="relative from deeper"),
        pytest.param("arbstr/wire/_chat.py", "def f():\n    from arbstr.config import Tier", id="inside a function"),
        pytest.param(
            "arbstr/wire/_chat.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import arbstr.config",
            id="for types only",
        ),
        pytest.param("arbstr/wire/_chat.py", "import importlib\nimportlib.import_module('arbstr.cli')", id="dynamic"),
        pytest.param("arbstr/wire/_chat.py", "import importlib\nimportlib.import_module(name)", id="computed"),
        pytest.param("arbstr/wire/_chat.py", "import_module(f'arbstr.{room}')", id="computed room"),
        pytest.param(
            "arbstr/wire/_chat.py", "import_module(f'arbstr.cli._{name}')", id="computed file of a room below"
        ),
        pytest.param("arbstr/store/_db.py", "from arbstr.accounts import Agent", id="store to accounts"),
        pytest.param("arbstr/requests/_request.py", "import arbstr.edge", id="requests to edge"),
        pytest.param("arbstr/edge/_routes.py", "import arbstr.assembly", id="edge to assembly"),
        pytest.param("arbstr/assembly.py", "import arbstr.cli", id="assembly to cli"),
        pytest.param("arbstr/units.py", "import arbstr.errors", id="units to errors"),
        pytest.param("arbstr/errors.py", "from . import units", id="errors to units"),
        pytest.param("arbstr/secrets.py", "import actors", id="secrets to actors"),
        pytest.param("arbstr/__init__.py", "from arbstr.wire import ModelCall", id="facade to a room"),
        pytest.param("actors/_ref.py", "import arbstr", id="actors to the facade"),
        pytest.param("actors/_ref.py", "from arbstr.units import Msat", id="actors to the words"),
        pytest.param("actors/_ref.py", "import attrs", id="actors to a library"),
        pytest.param("actors/testing/_rig.py", "import pytest", id="actors to pytest"),
        pytest.param("actors/testing/pytest_plugin.py", "import attrs", id="a plugin to another library"),
        pytest.param("arbstr/providers/_actor.py", "import pykka", id="pykka"),
        pytest.param("arbstr/cli/_serve.py", "import hypercorn.trio", id="hypercorn"),
        pytest.param("arbstr/edge/_server.py", "from httpx import Request", id="httpx"),
        pytest.param("arbstr/accounts/_rules.py", "import sqlite3", id="sqlite3"),
        pytest.param("arbstr/cli/_agents.py", "from sqlite_utils import Database", id="sqlite_utils"),
        pytest.param("arbstr/edge/_server.py", "import trio_websocket", id="trio_websocket"),
        pytest.param("arbstr/attic/_old.py", "", id="a room that is not in the list"),
        pytest.param("arbstr/cli/_main.py", "import arbstr.attic", id="import of an unlisted room"),
    ],
)
def test_an_arrow_is_reported_when_it_is_bad(path: str, source: str) -> None:
    assert len(bad_arrows(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("arbstr/config/_load.py", "from arbstr.wire import ModelCall", id="room above"),
        pytest.param("arbstr/wire/_chat.py", "from arbstr.wire._json import dumps", id="own room"),
        pytest.param("arbstr/wire/_chat.py", "from . import _json", id="own room, relative"),
        pytest.param("arbstr/wire/__init__.py", "from ._json import dumps", id="own package, relative"),
        pytest.param("arbstr/cli/_main.py", "from arbstr import __version__", id="version"),
        pytest.param("arbstr/__main__.py", "from arbstr.cli import main", id="module run"),
        pytest.param("arbstr/cli/_main.py", "import_module(f'arbstr.cli._{name}')", id="computed file of its own room"),
        pytest.param("arbstr/__init__.py", "from importlib.metadata import version", id="facade"),
        pytest.param("arbstr/assembly.py", "import actors\nimport arbstr.edge", id="assembly"),
        pytest.param("actors/_ref.py", "import trio\nimport pykka\nfrom actors._inbox import Inbox", id="actors"),
        pytest.param("actors/testing/pytest_plugin.py", "import pytest", id="a plugin to its host"),
        pytest.param("arbstr/store/_db.py", "import sqlite3, sqlite_utils", id="sqlite in store"),
        pytest.param("arbstr/market/_nostr.py", "import httpx, trio_websocket", id="libraries of market"),
        pytest.param("arbstr/edge/_server.py", "import hypercorn", id="hypercorn in edge"),
        pytest.param("arbstr/wire/_chat.py", "import attrs, json", id="libraries of no room"),
    ],
)
def test_nothing_is_reported_when_the_arrow_is_good(path: str, source: str) -> None:
    assert bad_arrows(path, source) == []
