"""Pictures: drawn when there is something to draw with, refused with a reason before anything is measured when not."""

from pathlib import Path

import pytest

from bench import gateway, plots
from bench.client import Ask, Outcome
from bench.process import ChildFailed
from tests.bench.test_gateway import ARBSTR, DIRECT
from tests.bench.test_soak import memory, report

PNG = b"\x89PNG\r\n\x1a\n"


async def test_the_group_is_named_when_matplotlib_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)

    with pytest.raises(ChildFailed, match="dependency group `bench`"):
        await gateway.main(gateway.GatewayOptions(), None, tmp_path / "x.png")


def test_a_picture_is_written_when_there_is_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the dependency group bench is not installed")
    rows = (DIRECT, ARBSTR)
    outcome = Outcome(Ask(0, 1, 1, True), "ok", total_s=0.2, ttft_s=0.1)

    plots.gateway(tmp_path / "g.png", gateway.GatewayReport(rows, gateway.added(rows), ()))
    plots.soak(tmp_path / "s.png", report(memory(*range(60, 80))))
    plots.replay(tmp_path / "r.png", [outcome])

    for name in "gsr":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
