from __future__ import annotations

import pytest
from attrs import define, evolve, field
from prometheus_client.parser import text_string_to_metric_families

from arbstr.config import ProviderConfig
from arbstr.providers import BreakerState, ProviderView
from arbstr.telemetry import Metrics, OpenHolds, Settlements, _metrics
from tests.telemetry.conftest import attempt, receipt

VIEW = ProviderView(ProviderConfig("alpha", "mock://alpha"), in_flight=3)


@define
class Around:
    views: list[ProviderView] = field(factory=list)
    depths: list[tuple[str, int]] = field(factory=list)
    holds: OpenHolds | None = None
    owed: Settlements | None = None

    def providers(self) -> list[ProviderView]:
        return self.views

    def requests_in_flight(self) -> int:
        return 7

    def inbox_depths(self) -> list[tuple[str, int]]:
        return self.depths

    def tasks(self) -> int:
        return 5

    def writes_waiting(self) -> int:
        return 2

    def open_holds(self) -> OpenHolds | None:
        return self.holds

    def settlements(self) -> Settlements | None:
        return self.owed


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
def metrics(around: Around) -> Metrics:
    return Metrics(around)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_tokens_and_cost_count_under_provider_and_model_when_an_answer_is_paid(metrics: Metrics) -> None:
    metrics.finished(None, receipt(cached_tokens=4))
    metrics.finished(None, receipt())
    by = {"provider": "alpha", "model": "gpt-4o"}
    assert value(metrics, "arbstr_tokens_total", kind="prompt", **by) == 20
    assert value(metrics, "arbstr_tokens_total", kind="cached", **by) == 4
    assert value(metrics, "arbstr_tokens_total", kind="completion", **by) == 40
    assert value(metrics, "arbstr_cost_msat_total", **by) == 70
    assert value(metrics, "arbstr_saved_msat_total", against="dearest") == 18
    labels = {"endpoint": "chat/completions", "outcome": "ok", "stream": "false"}
    assert value(metrics, "arbstr_requests_total", **by, **labels) == 2
    assert value(metrics, "arbstr_request_duration_seconds_sum", endpoint="chat/completions", stream="false") == 0.1


def test_every_attempt_counts_when_one_failed_before(metrics: Metrics) -> None:
    failed = attempt("beta", "provider_fault", ttfb_us=None)
    metrics.finished(None, receipt(attempts=(failed, attempt())))
    assert value(metrics, "arbstr_attempts_total", provider="beta", outcome="provider_fault") == 1
    assert value(metrics, "arbstr_attempts_total", provider="alpha", outcome="success") == 1
    assert value(metrics, "arbstr_provider_first_byte_seconds_count", provider="beta") is None
    assert value(metrics, "arbstr_provider_first_byte_seconds_count", provider="alpha") == 1


def test_no_series_is_made_for_a_model_when_nobody_has_served_it(metrics: Metrics) -> None:
    for number in range(50):
        refused = receipt(model=f"invented-{number}", provider=None, outcome="failed", prompt_tokens=None, attempts=())
        metrics.finished(None, refused)
    assert b"invented" not in metrics.render()


def test_models_share_one_name_when_there_are_too_many(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_metrics, "MAX_MODELS", 2)
    for name in "abcda":
        metrics.finished(None, receipt(model=name))
    costs = {name: value(metrics, "arbstr_cost_msat_total", provider="alpha", model=name) for name in "abcd"}
    assert costs == {"a": 70, "b": 35, "c": None, "d": None}
    assert value(metrics, "arbstr_cost_msat_total", provider="alpha", model="other") == 70


def test_the_moment_is_told_when_somebody_scrapes(metrics: Metrics, around: Around) -> None:
    around.views = [
        VIEW,
        evolve(VIEW, config=ProviderConfig("beta", "mock://beta"), breaker_state=BreakerState.OPEN, ttfb_ms=250.0),
    ]
    around.depths = [("RequestActor", 1), ("RequestActor", 2), ("ProviderActor", 0)]
    around.holds = OpenHolds(3, 900, 1.5)
    assert value(metrics, "arbstr_provider_breaker_state", provider="beta", state="open") == 1
    assert value(metrics, "arbstr_provider_breaker_state", provider="beta", state="closed") == 0
    assert value(metrics, "arbstr_provider_in_flight", provider="alpha") == 3
    assert value(metrics, "arbstr_provider_ttfb_mean_seconds", provider="beta") == 0.25
    assert value(metrics, "arbstr_provider_ttfb_mean_seconds", provider="alpha") is None
    assert value(metrics, "arbstr_inbox_depth", actor="RequestActor") == 3
    assert value(metrics, "arbstr_actors", actor="RequestActor") == 2
    assert value(metrics, "arbstr_tasks") == 5
    assert value(metrics, "arbstr_requests_in_flight") == 7
    assert value(metrics, "arbstr_store_writes_waiting") == 2
    assert value(metrics, "arbstr_holds_open") == 3
    assert value(metrics, "arbstr_held_msat") == 900
    assert value(metrics, "arbstr_hold_age_seconds") == 1.5


def test_holds_are_not_told_of_when_there_are_no_accounts(metrics: Metrics) -> None:
    assert value(metrics, "arbstr_holds_open") is None
    assert value(metrics, "arbstr_settlements_waiting") is None


def test_what_a_vault_is_owed_is_told_when_there_is_one_in_another_process(metrics: Metrics, around: Around) -> None:
    around.owed = Settlements(waiting=3, searched=2, dead=1)
    names = ("arbstr_settlements_waiting", "arbstr_holds_searched", "arbstr_settlements_dead")
    assert [value(metrics, name) for name in names] == [3, 2, 1]


def test_the_text_is_what_a_scraper_reads(metrics: Metrics, around: Around) -> None:
    around.views = [VIEW]
    metrics.finished(None, receipt())
    families = {family.name for family in text_string_to_metric_families(metrics.render().decode())}
    assert {"arbstr_requests", "arbstr_cost_msat", "arbstr_provider_breaker_state", "python_info"} <= families
