"""Metrics of several processes as one text."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from arbstr.accounts import GaugeFamily, Gauges
from arbstr.config import ProviderConfig
from arbstr.providers import ProviderView
from arbstr.telemetry import ACCOUNTS, Metrics, OpenHolds, ProcessGauges, render_together
from tests.telemetry.conftest import receipt
from tests.telemetry.test_metrics import Around

VIEW = ProviderView(ProviderConfig("alpha", "mock://alpha"), in_flight=3)


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, "told twice"
            found[key] = sample.value
    return found


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def rendered(*processes: tuple[str, Gauges | None]) -> bytes:
    return render_together(Metrics(None).registry, processes)


def core(**around: object) -> Gauges:
    return ProcessGauges(Around(**around)).gauges()  # type: ignore[arg-type]


def test_what_adds_up_is_added_up_and_the_rest_is_told_for_each_worker() -> None:
    text = rendered(
        ("1", core(views=[VIEW], depths=[("RequestActor", 2)])),
        ("2", core(views=[VIEW], depths=[("RequestActor", 5), ("Catalog", 1)])),
    )
    assert value(text, "arbstr_requests_in_flight") == 14
    assert value(text, "arbstr_inbox_depth", actor="RequestActor") == 7
    assert value(text, "arbstr_inbox_depth", actor="Catalog") == 1
    assert value(text, "arbstr_provider_in_flight", provider="alpha") == 6
    for worker in ("1", "2"):
        assert value(text, "arbstr_provider_breaker_state", provider="alpha", state="closed", worker=worker) == 1
        assert value(text, "process_resident_memory_bytes", worker=worker) > 0
        assert value(text, "arbstr_worker_up", worker=worker) == 1


def test_holds_are_those_of_the_accounts() -> None:
    text = rendered((ACCOUNTS, core(holds=OpenHolds(2, 300, 4.5))), ("1", core()))
    assert value(text, "arbstr_holds_open") == 2
    assert value(text, "arbstr_held_msat") == 300


def test_a_worker_that_does_not_answer_is_down_and_the_others_are_told() -> None:
    text = rendered(("1", None), ("2", core()))
    assert value(text, "arbstr_worker_up", worker="1") == 0
    assert value(text, "arbstr_worker_up", worker="2") == 1
    assert value(text, "arbstr_requests_in_flight") == 7


def test_what_is_counted_from_receipts_is_told_once() -> None:
    metrics = Metrics(None)
    metrics.finished(None, receipt())
    text = render_together(metrics.registry, [("1", core()), ("2", core())])
    counted = [number for (name, _), number in samples(text).items() if name == "arbstr_requests_total"]
    assert counted == [1]


def test_names_and_help_are_the_same_as_those_of_one_process() -> None:
    together = samples(rendered((ACCOUNTS, core(holds=OpenHolds(0, 0, 0))), ("1", core(views=[VIEW]))))
    alone = samples(Metrics(Around(views=[VIEW], holds=OpenHolds(0, 0, 0))).render())
    assert {name for name, _ in alone} <= {name for name, _ in together}
    assert {name for name, _ in together} - {name for name, _ in alone} == {"arbstr_worker_up"}


def test_a_family_that_is_not_known_here_is_told_for_each() -> None:
    family = GaugeFamily("new_thing", "help", "gauge", (("new_thing", {"a": "b"}, 1.0),))
    text = rendered(("1", Gauges((family,))), ("2", Gauges((family,))))
    assert value(text, "new_thing", a="b", worker="2") == 1
