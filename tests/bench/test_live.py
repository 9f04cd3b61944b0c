"""The bench against the real program: a short replay, and kills with SIGKILL, ten of each kind."""

from pathlib import Path

import pytest

from bench import crash, crash_two
from bench.replay import ReplayOptions, replay


@pytest.mark.live
async def test_books_are_right_and_nothing_avoidable_fails_when_a_trace_is_replayed() -> None:
    report = await replay(ReplayOptions(limit=60, speed=120.0, durability="process", bound_s=60.0))

    assert report.money is not None
    assert report.money.problems == ()
    assert report.avoidable_failures == 0
    assert report.ok + sum(report.failures.values()) == report.requests == 60
    assert report.failures.get("unfinished", 0) == 0
    assert 0 < report.told_msat <= report.money.charged_msat
    assert report.compared_requests == report.ok
    assert report.server_cpu_ms_per_request is not None


@pytest.mark.crash
def test_nothing_is_lost_or_invented_when_the_program_is_killed_ten_times(tmp_path: Path) -> None:
    report = crash.run(times=10, seed=1, directory=tmp_path)

    assert report.problems == ()
    assert len(report.rounds) == 10
    assert all(each.answered > 0 for each in report.rounds)
    assert any(each.in_flight > 0 for each in report.rounds)


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lease_s", [60.0, 1.0])
def test_nothing_is_lost_or_invented_when_proxy_or_vault_is_killed_five_times(tmp_path: Path, lease_s: float) -> None:
    """With a lease of a second, what is settled after a restart has been given back before that."""
    report = crash_two.run(times=5, seed=7 if lease_s == 60.0 else 4, directory=tmp_path, lease_s=lease_s)

    assert report.problems == ()
    assert {each.victim for each in report.rounds} == {"proxy", "vault"}
    assert all(each.answered > 0 for each in report.rounds)
