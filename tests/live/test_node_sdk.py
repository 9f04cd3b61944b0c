"""The official SDK for Node, through the program and at the provider itself: it must see the same.

Needs ``node`` and ``npm``, and fetches the SDK by the lock file in ``node/``; so it is a step of its own, by marker.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.live.program import Program
from tests.live.scripted import KEY, ScriptedServer

pytestmark = [pytest.mark.live, pytest.mark.node]

HERE = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json", ".npmrc", "sdk.mjs")
ADDED = {"arbstr_provider", "arbstr"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("node")
    for name in FILES:
        shutil.copy(HERE / name, path)
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts"], cwd=path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return path


def ask(installed: Path, url: str, token: str | None) -> dict[str, Any]:
    environment = {**os.environ, "BASE_URL": url, "API_KEY": token or ""}
    done = subprocess.run(
        ["node", "sdk.mjs"], cwd=installed, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def without_ours(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ours(one) for key, one in value.items() if key not in ADDED}
    return [without_ours(one) for one in value] if isinstance(value, list) else value


def test_the_sdk_for_node_sees_the_providers_own_answers(
    installed: Path, scripted: ScriptedServer, proxied: Program
) -> None:
    direct = ask(installed, scripted.url, KEY)
    through = ask(installed, f"{proxied.address}/v1", proxied.token)
    assert without_ours(through) == direct
    assert through["chat"]["arbstr_provider"] == "scripted"
    assert through["streamWithUsage"][-1]["usage"]["arbstr"]["cost_msat"] > 0


def test_the_lock_file_names_no_host() -> None:
    assert "resolved" not in (HERE / "package-lock.json").read_text()
