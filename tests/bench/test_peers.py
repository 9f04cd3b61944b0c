"""Peers are installed by package name, into folders of their own."""

from pathlib import Path

import pytest

from bench import programs
from bench.peers import found, install, steps
from bench.process import ChildFailed


@pytest.mark.parametrize("name", list(programs.PEERS))
def test_nothing_outside_of_its_folder_is_named_when_a_peer_is_installed(name: str, tmp_path: Path) -> None:
    commands = steps(name, tmp_path)

    assert commands
    for command in commands:
        absolute = [word for word in command[1:] if word.startswith("/")]
        assert all(word.startswith(str(tmp_path)) for word in absolute)
        assert "://" not in " ".join(command)


def test_what_is_not_there_has_no_version_when_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.nginx.BINARIES", ())

    assert {each.name: each.version for each in found(tmp_path).peers} == dict.fromkeys(programs.PEERS)


async def test_the_program_is_named_when_what_installs_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ChildFailed, match="npm is needed"):
        await install("portkey", tmp_path)
