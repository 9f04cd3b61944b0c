"""``arbstr replay``: the same tokens at the prices of this configuration, by hand and against a slow judge."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.cli._prices import serving
from arbstr.cli._replay import REST, Replay
from arbstr.config import Config, Model, ProviderConfig
from arbstr.store import RecordedUsage
from arbstr.units import Price

File = Callable[..., None]


def words(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_total_then_and_now_and_each_model_are_told(run: Callable, file: File) -> None:
    file("a", cost_msat=10_000)  # 1000 in, 100 out: alpha 3.5, beta 2 + 2 + 0.5
    file("b", cost_msat=1_000, model="small", prompt_tokens=500)  # alpha 0.25 + 0.1
    file("c", cost_msat=77, prompt_tokens=None)
    file("old", cost_msat=77, ago_s=8 * 86_400)
    result = run("replay")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[:3] == [
        "2 requests, 1500 tokens in, 200 out",
        "Then: 11 sats",
        "Now:  3.85 sats (-65.0 %)",
    ]
    assert ["big", "1", "1000", "100", "10", "3.5", "-65.0", "%", "0"] in words(result.out)
    assert ["small", "1", "500", "100", "1", "0.35", "-65.0", "%", "0"] in words(result.out)
    assert ["alpha", "2", "3.85", "2", "3.85"] in words(result.out)
    assert ["beta", "0", "0", "2", "8"] in words(result.out)


def test_cached_tokens_cost_what_they_cost_and_are_no_more_than_there_were(run: Callable, file: File) -> None:
    file("a", model="small", prompt_tokens=500, completion_tokens=0, cached_tokens=400)  # 0.05 + 0.04
    file("b", model="small", prompt_tokens=500, completion_tokens=0, cached_tokens=10_000)  # 0.05
    assert json.loads(run("replay", "--json").out)["now_msat"] == 90 + 50


def test_alias_is_priced_as_the_model_it_stands_for(run: Callable, file: File) -> None:
    file("a", model="fast", prompt_tokens=500)
    assert json.loads(run("replay", "--json").out)["now_msat"] == 350


def test_requests_that_nobody_would_serve_are_in_neither_sum(run: Callable, file: File) -> None:
    file("a", cost_msat=5_000)
    file("b", cost_msat=7_000, model="gone")
    result = run("replay")
    assert "Then: 5 sats" in result.out.splitlines()
    assert "Now:  3.5 sats (-30.0 %)" in result.out.splitlines()
    assert "Nobody would serve 1 of them; they are in neither sum. They cost 7 sats then." in result.out
    assert ["gone", "1", "1000", "100", "0", "0", "-", "1"] in words(result.out)
    body = json.loads(run("replay", "--json").out)
    assert (body["then_msat"], body["unserved"], body["unserved_then_msat"]) == (5_000, 1, 7_000)


@pytest.mark.parametrize(
    ("prompt", "completion", "provider"), [(901, 100, "beta"), (1, 101, "beta"), (900, 100, "alpha")]
)
def test_model_is_not_asked_for_more_than_it_can(
    run: Callable, file: File, prompt: int, completion: int, provider: str
) -> None:
    file("a", model="small", prompt_tokens=prompt, completion_tokens=completion)
    (first, *_) = json.loads(run("replay", "--json").out)["providers"]
    assert (first["provider"], first["requests"]) == (provider, 1)


def test_period_is_the_one_that_was_asked_for(run: Callable, file: File) -> None:
    file("a")
    file("old", ago_s=8 * 86_400)
    assert json.loads(run("replay", "--json", "--range", "last_30d").out)["requests"] == 2
    assert run("replay", "--until", "2020-01-01").out == "No requests with known tokens in this time.\n"


# Traces

TRACE = "t_s,input_tokens,output_tokens,label\n0.0,1000,100,x\n1.5,100,0,y\n\n"


@pytest.fixture
def trace(file: File) -> Callable[..., str]:
    def write(text: str | bytes, name: str = "trace.csv") -> str:
        data = text.encode() if isinstance(text, str) else text
        Path(name).write_bytes(gzip.compress(data) if name.endswith(".csv.gz") else data)
        return name

    return write


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_trace_is_priced_when_one_is_given(run: Callable, trace: Callable, name: str) -> None:
    result = run("replay", "--trace", trace(TRACE, name), "--model", "big")
    assert (result.code, result.err) == (0, "")
    # alpha 3.5 and 0.25; beta 4.5 and 0.7
    assert result.out.splitlines()[:2] == ["2 requests, 1100 tokens in, 100 out", "Now:  3.75 sats"]
    assert "THEN" not in result.out
    assert ["beta", "0", "0", "2", "5.2"] in words(result.out)
    body = json.loads(run("replay", "--json", "--trace", name, "--model", "big").out)
    assert (body["now_msat"], "then_msat" in body) == (3_750, False)


def test_trace_of_a_model_that_nobody_serves_is_told_so(run: Callable, trace: Callable) -> None:
    result = run("replay", "--trace", trace(TRACE), "--model", "gone")
    assert "Nobody would serve 2 of them; they are in neither sum.\n" in result.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "trace.csv:1: columns are missing; write t_s,input_tokens,output_tokens"),
        ("a,b\n1,2\n", "trace.csv:1: columns are a,b; write"),
        ("t_s,input_tokens,output_tokens\n0,1,2\n0,1,x\n", "trace.csv:3: 'x' is not a number of tokens"),
        ("t_s,input_tokens,output_tokens\n0,1\n", "trace.csv:2: '' is not a number of tokens"),
        ("t_s,input_tokens,output_tokens\n0,-1,2\n", "'-1' is not a number"),
        ("t_s,input_tokens,output_tokens\n0,1.5,2\n", "'1.5' is not a number"),
        ("t_s,input_tokens,output_tokens\n0,1000000000001,2\n", "is not a number"),
        (f"t_s,input_tokens,output_tokens\n0,{'9' * 10_000},2\n", "is not a number"),
        (b"t_s,input_tokens,output_tokens\n0,\xff,2\n", "trace.csv cannot be read: "),
        (f'input_tokens,output_tokens\n"{"x" * 200_000}",1\n', "trace.csv cannot be read: field larger"),
    ],
)
def test_trace_is_refused_with_its_line_when_it_is_none(
    run: Callable, trace: Callable, text: str | bytes, words: str
) -> None:
    result = run("replay", "--trace", trace(text), "--model", "big")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert words in result.err


@pytest.mark.parametrize(
    "data",
    [
        b"plain",
        gzip.compress(TRACE.encode())[:-9],
        b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 50,
    ],
    ids=["not at all", "cut", "damaged"],
)
def test_trace_is_refused_when_it_is_not_compressed_as_its_name_says(
    run: Callable, trace: Callable, data: bytes
) -> None:
    Path("trace.gz").write_bytes(data)
    result = run("replay", "--trace", "trace.gz", "--model", "big")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: trace.gz cannot be read: ")


def test_trace_is_refused_when_there_is_no_such_file(run: Callable, trace: Callable) -> None:
    assert "nowhere.csv" in run("replay", "--trace", "nowhere.csv", "--model", "big").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trace", "x.csv"], "write --model NAME"),
        (["--model", "big"], "write --trace FILE too"),
        (["--trace", "x.csv", "--model", "big", "--range", "last_1h"], "--range is for recorded requests"),
        (["--trace", "x.csv", "--model", "big", "--until", "2020-01-01"], "--until is for recorded requests"),
        (["--trace", "x.csv", "--model", "big", "--agent", "a"], "--agent is for recorded requests"),
    ],
)
def test_options_are_refused_when_they_do_not_go_together(
    run: Callable, trace: Callable, options: list[str], words: str
) -> None:
    trace(TRACE, "x.csv")
    result = run("replay", *options)
    assert result.code == 1
    assert words in result.err


# Against a slow judge

RATES = st.integers(0, 40).map(lambda number: Fraction(number, 8))
PRICES = st.builds(lambda i, o, f, c: Price.of(i, o, f, cached_input_rate=c), RATES, RATES, RATES, st.none() | RATES)
PROVIDERS = st.lists(st.tuples(st.none() | PRICES, st.booleans()), max_size=4)
USAGE = st.builds(
    RecordedUsage,
    st.sampled_from(["m", "alias", "gone"]),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
    st.integers(0, 10_000),
)


@given(PROVIDERS, st.lists(USAGE, max_size=8))
def test_each_request_costs_what_the_cheapest_asks(
    priced: list[tuple[Price | None, bool]], usages: list[RecordedUsage]
) -> None:
    providers = tuple(
        ProviderConfig(name=f"p{n}", url="mock://x", models=("m",), price=price, any_model=any_model)
        for n, (price, any_model) in enumerate(priced)
    )
    replay = Replay(Config(providers=providers, aliases={"alias": "m"})).run(usages)
    now = then = 0
    for usage in usages:
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        costs = [
            price.cost_msat(usage.prompt_tokens, usage.completion_tokens, cached)
            for price, any_model in priced
            if price is not None and (any_model or usage.model != "gone")
        ]
        if costs:
            now, then = now + min(costs), then + usage.cost_msat
    assert (replay.total.now_msat, replay.total.then_msat) == (now, then)
    assert sum(tally.now_msat for tally in replay.models.values()) == now
    assert sum(share.cost_msat for share in replay.providers.values()) == now
    assert sum(share.requests for share in replay.providers.values()) == replay.total.served


def test_names_are_bounded_when_clients_make_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.cli._replay.MAX_MODELS", 2)
    config = Config(providers=(ProviderConfig(name="p", url="mock://x", price=Price.of(1, 1)),))
    replay = Replay(config).run(RecordedUsage(f"m{n}", 1_000, 0, 0, 5) for n in range(5))
    assert {name: tally.requests for name, tally in replay.models.items()} == {"m0": 1, "m1": 1, REST: 3}
    assert replay.total.now_msat == 5_000


def test_model_that_must_not_be_bought_is_not_served() -> None:
    model = Model("m", price=Price.of(1, 1), excluded="stale")
    (one,) = serving(Config(providers=(ProviderConfig(name="p", url="mock://x", models=(model,)),)), "m")
    assert one.obstacle == "stale"
