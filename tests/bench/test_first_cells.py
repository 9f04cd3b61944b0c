"""The table of first numbers, from samples made up by hand."""

from bench.first import DIRECT, PROXY, FirstOptions, FirstReport, Sample, asks, cells_of

OPTIONS = FirstOptions(requests=400, rounds=3)


def samples(*cpu_ms: float | None, failed: int = 0) -> list[Sample]:
    return [Sample(each, p50_ms=1.0, p99_ms=2.0, requests_per_s=100.0, failed=failed, told_msat=0) for each in cpu_ms]


def test_takes_medians_and_leaves_the_warm_up_out_when_rounds_are_summed_up() -> None:
    proxy, ours = cells_of(
        {(PROXY, "plain", 1): samples(9.0, 1.0, 2.0, 3.0), ("arbstr", "plain", 1): samples(9.0, 0.5, 0.6, 5.0)}, OPTIONS
    )

    assert (proxy.cpu_ms, proxy.ratio) == (2.0, 1.0)
    assert (ours.cpu_ms, ours.cpu_ms_least, ours.cpu_ms_most, ours.ratio) == (0.6, 0.5, 5.0, 0.3)


def test_compares_within_mode_and_connections_when_there_are_several() -> None:
    cells = cells_of(
        {
            (PROXY, "plain", 1): samples(0.0, 1.0),
            (PROXY, "plain", 32): samples(0.0, 4.0),
            ("arbstr", "plain", 32): samples(0.0, 2.0),
        },
        OPTIONS,
    )

    assert cells[2].ratio == 0.5


def test_has_no_ratio_when_there_is_no_process_to_measure() -> None:
    (cell,) = cells_of({(DIRECT, "plain", 1): samples(None, None)}, OPTIONS)

    assert (cell.cpu_ms, cell.cpu_ms_least, cell.ratio, cell.p50_ms) == (None, None, None, 1.0)


def test_is_not_clean_when_a_request_failed_or_books_are_wrong() -> None:
    good = cells_of({(PROXY, "plain", 1): samples(1.0, 1.0)}, OPTIONS)
    bad = cells_of({(PROXY, "plain", 1): samples(1.0, 1.0, failed=1)}, OPTIONS)

    assert FirstReport(good).clean
    assert not FirstReport(bad).clean
    assert not FirstReport(good, ("arbstr: 1 holds are still open",)).clean


def test_asks_for_streams_only_when_streams_are_measured() -> None:
    assert not any(ask.stream for ask in asks("plain", 3))
    assert all(ask.stream for ask in asks("stream", 3))
