"""``arbstr serve``: which configuration the assembly is handed, and what comes of its answer."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from arbstr.config import Config

PROVIDER = '[[providers]]\nname = "a"\nurl = "mock://a"\ninput_rate = 0\noutput_rate = 0\n'


class Assembly:
    """Stands in for ``arbstr.assembly``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Config, bool]] = []
        self.reads: list[Callable[[], Config] | None] = []
        self.answer = 0
        self.directory_existed = False

    def serve(self, config: Config, *, mock: bool, read: Callable[[], Config] | None) -> int:
        self.calls.append((config, mock))
        self.reads.append(read)
        self.directory_existed = config.database.path.absolute().parent.is_dir()
        return self.answer


@pytest.fixture
def assembly(monkeypatch: pytest.MonkeyPatch) -> Assembly:
    made = Assembly()
    module = ModuleType("arbstr.assembly")
    module.serve = made.serve  # type: ignore[attr-defined]  # a module made up on the spot
    monkeypatch.setitem(sys.modules, "arbstr.assembly", module)
    return made


def test_exit_code_of_the_assembly_is_returned_when_it_ends(run: Callable, write: Callable, assembly: Assembly) -> None:
    write(PROVIDER)
    assembly.answer = 3
    assert run("serve").code == 3
    ((config, mock),) = assembly.calls
    assert config.providers[0].name == "a"
    assert mock is False


def test_listen_option_wins_when_the_file_names_another_address(
    run: Callable, write: Callable, assembly: Assembly
) -> None:
    write('[server]\nlisten = "127.0.0.1:1"\n' + PROVIDER)
    run("serve", "--listen", "127.0.0.1:2")
    assert assembly.calls[0][0].server.listen == "127.0.0.1:2"
    result = run("serve", "-l", "nowhere")
    assert (result.code, len(assembly.calls)) == (1, 1)
    assert result.err.startswith('Error: --listen: "nowhere" is not host:port')


def test_no_file_is_opened_and_the_database_is_temporary_when_mocked(run: Callable, assembly: Assembly) -> None:
    result = run("serve", "--mock", "-l", "127.0.0.1:0", "-c", "missing.toml")
    assert (result.code, result.err) == (0, "")
    ((config, mock),) = assembly.calls
    assert mock is True
    assert config.server.listen == "127.0.0.1:0"
    assert assembly.directory_existed
    assert not config.database.path.parent.exists()
    assert config.database.path.is_absolute()


def test_configuration_carries_its_warnings_when_the_option_exposes_it(
    run: Callable, write: Callable, assembly: Assembly
) -> None:
    write(PROVIDER)
    assert run("serve", "-l", "0.0.0.0:1").err == ""
    (warning,) = assembly.calls[0][0].warnings
    assert warning.startswith("listens on 0.0.0.0:1")


def test_assembly_is_not_reached_when_the_configuration_is_wrong(
    run: Callable, write: Callable, assembly: Assembly
) -> None:
    write("[server]\nlisten = 3")
    assert run("serve").code == 1
    assert assembly.calls == []


@pytest.mark.live
def test_reason_is_given_when_the_address_is_taken(run: Callable, write: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        write(PROVIDER)
        done = subprocess.run(
            [sys.executable, "-m", "arbstr", "serve", "-l", address], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert address.rpartition(":")[2] in done.stderr


def test_the_file_is_read_again_with_the_same_options_when_the_assembly_asks(
    run: Callable, write: Callable, assembly: Assembly
) -> None:
    write(PROVIDER)
    run("serve", "--listen", "127.0.0.1:2")
    write(PROVIDER.replace('"a"', '"b"', 1))
    read = assembly.reads[0]
    assert read is not None
    again = read()
    assert (again.providers[0].name, again.server.listen) == ("b", "127.0.0.1:2")


def test_there_is_nothing_to_read_again_when_mocked(run: Callable, assembly: Assembly) -> None:
    run("serve", "--mock")
    assert assembly.reads == [None]


def test_workers_option_wins_and_is_checked(run: Callable, write: Callable, assembly: Assembly) -> None:
    write("[server]\nworkers = 3\n" + PROVIDER)
    run("serve")
    run("serve", "--workers", "2")
    assert [config.server.workers for config, _ in assembly.calls] == [3, 2]
    result = run("serve", "--workers", "0")
    assert (result.code, len(assembly.calls)) == (1, 2)
    assert result.err.startswith("Error: --workers: 0 is out of range")


def test_the_file_is_read_again_with_the_options_when_the_assembly_asks(
    run: Callable, write: Callable, assembly: Assembly
) -> None:
    write(PROVIDER)
    run("serve", "--workers", "2")
    (source,) = assembly.reads
    write(PROVIDER.replace('"a"', '"b"', 1))
    config = source.parse(source.text())
    assert (config.providers[0].name, config.server.workers) == ("b", 2)
    assert source() == config
