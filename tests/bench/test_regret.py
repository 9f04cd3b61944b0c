"""Rules of choice over lengths that are only known afterwards."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.routing import FixedEstimate, Offers, Router
from bench.prices import PriceListError, generate_prices
from bench.regret import FIXED, OURS, RegretOptions, call_of, is_least, main, measure, trace_name
from bench.regret_market import LIST_RULES, Family, Host, list_pick, read_families
from bench.trace import Arrival

HEADER = (
    "family,provider,kind,usd_in_per_m,usd_out_per_m,usd_cache_read_per_m,context,max_output,model_id,source,as_of,"
    "suspect\n"
)


def generated(count: int, hosts: int) -> list[Family]:
    """Families with prices drawn by seed."""
    return [
        Family(
            f"family-{seed}",
            tuple([Host(one.name, int(one.input_rate * 1_000), int(one.output_rate * 1_000)) for one in prices]),
        )
        for seed, prices in ((seed, generate_prices(hosts, seed)) for seed in range(count))
    ]


def two_services(count: int) -> list[Arrival]:
    """Long prompts with short answers, and short prompts with long ones, drawn by seed."""
    draw = random.Random(5)
    arrivals = []
    for number in range(count):
        prompt, completion = (4_000, 30) if draw.random() < 0.5 else (200, 900)
        spread = draw.lognormvariate(0.0, 0.5)
        arrivals.append(Arrival(float(number), prompt, max(1, round(completion * spread)), "two services"))
    return arrivals


def test_learning_comes_before_a_constant_and_that_before_price_lists_when_lengths_vary() -> None:
    result = measure("own", two_services(1_500), generated(6, 12))

    assert result.least < result.costs[OURS] < result.costs[FIXED]
    assert result.costs[FIXED] < min(result.costs[rule] for rule in LIST_RULES)
    assert (result.picks_wrong, result.picks_checked) == (0, 500 * 6)
    assert result.clean
    assert 0 < result.regret_percent[OURS] < 2 < result.regret_percent["output rate only"]


def test_it_is_a_finding_when_another_rule_is_as_good() -> None:
    as_expected = [Arrival(float(number), 300, 256, "constant") for number in range(20)]

    result = measure("constant", as_expected, generated(2, 5))

    assert result.costs[OURS] == result.costs[FIXED] == result.least
    assert not result.clean


def test_costs_are_those_of_the_tokens_when_there_is_one_host() -> None:
    family = Family("one", (Host("a", 2_000, 3_000),))

    result = measure("short", [Arrival(0.0, 10, 5, "x"), Arrival(1.0, 1, 1, "x")], [family])

    assert result.least == 11 * 2_000 + 6 * 3_000
    assert set(result.costs.values()) == {result.least}


def test_a_pick_is_wrong_when_it_is_quarantined_or_not_the_cheapest() -> None:
    family = Family("f", (Host("a", 5, 5), Host("b", 6, 6)), suspect=(Host("c", 1, 1),))
    router = Router(estimator=FixedEstimate())
    demand = router.demand(call_of(100), policy=None, complexity=None)
    offers = family.offers()

    assert is_least(router, demand, family, offers)
    assert demand.prompt_tokens == 100
    without_a = Offers.of([offer for offer in offers.all if offer.provider != "a"])
    assert not is_least(router, demand, family, without_a)
    trusting = Family("f", (*family.hosts, *family.suspect)).offers()
    assert not is_least(router, demand, family, trusting)


RATES = st.integers(0, 30)


@given(
    st.lists(st.tuples(RATES, RATES), min_size=1, max_size=9),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=9),
)
def test_the_frontier_holds_a_cheapest_host_when_tokens_are_mixed_any_way(
    rates: list[tuple[int, int]], mixes: list[tuple[int, int]]
) -> None:
    hosts = tuple([Host(f"h{number}", *pair) for number, pair in enumerate(rates)])
    frontier = Family("f", hosts).frontier()
    for mix in mixes:
        assert min(host.cost(*mix) for host in frontier) == min(host.cost(*mix) for host in hosts)
    for host in frontier:
        others = [other for other in frontier if other is not host]
        assert all(other.input_rate > host.input_rate or other.output_rate > host.output_rate for other in others)


def test_each_rule_picks_by_its_own_sum_when_hosts_differ() -> None:
    hosts = [Host("a", 10, 100), Host("b", 30, 70), Host("c", 58, 50), Host("d", 96, 45), Host("e", 40, 45)]

    picks = {rule: list_pick(rule, hosts).name for rule in LIST_RULES}

    assert picks == {
        "output rate only": "e",
        "input + output": "e",
        "3 input : 1 output": "a",
        "1 input : 3 output": "e",
    }
    assert list_pick("output rate only", hosts[:4]).name == "d"
    assert list_pick("input + output", hosts[:4]).name == "b"
    assert list_pick("1 input : 3 output", hosts[:4]).name == "c"


# The verb


def write_prices(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join(row + "\n" for row in rows))
    return path


def host_row(family: str, usd_in: str, usd_out: str, suspect: int = 0) -> str:
    return f"{family},host,direct,{usd_in},{usd_out},,1,1,id,src,2026-01-01,{suspect}"


def test_rows_become_hosts_when_a_list_is_read(tmp_path: Path) -> None:
    path = write_prices(
        tmp_path / "p.csv", host_row("b", "1", "2"), host_row("a", "0.1", "0.3"), host_row("b", "0.001", "0.001", 1)
    )

    first, second = read_families(path)

    assert first == Family("a", (Host("host-0", 121_957, 365_870),))
    assert first.hosts[0].price.cost_msat(1_000_000, 0) == 121_957
    assert ([host.name for host in second.hosts], [host.name for host in second.suspect]) == (["host-0"], ["host-1"])


@pytest.mark.parametrize(
    "row", ["a,host,direct,free,1,,1,1,id,src,2026-01-01,0", host_row("a", "-1", "1"), host_row("a", "1", "1", 1)]
)
def test_a_list_is_refused_when_a_family_cannot_be_used(tmp_path: Path, row: str) -> None:
    with pytest.raises(PriceListError, match="not a list of prices"):
        read_families(write_prices(tmp_path / "p.csv", row))
    with pytest.raises(PriceListError, match="cannot be read"):
        read_families(tmp_path / "missing.csv")


async def test_the_table_and_the_exit_code_tell_when_the_verb_has_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = write_prices(
        tmp_path / "p.csv", host_row("f", "0.1", "3"), host_row("f", "0.4", "0.4"), host_row("f", "0", "0", 1)
    )
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    lengths = {good: [(900, 5), (300, 4_000)], bad: [(300, 256)]}
    for path, rows in lengths.items():
        text = "".join(f"{t_s},{p},{c},x\n" for t_s, (p, c) in enumerate(rows * 200))
        path.write_text("t_s,input_tokens,output_tokens,label\n" + text)

    assert await main(RegretOptions(prices, [good]), tmp_path / "out.json") == 0
    shown = capsys.readouterr().out
    assert "1 families, 2 hosts, 1 quarantined" in shown
    assert all(rule in shown for rule in (OURS, FIXED, *LIST_RULES))
    document = json.loads((tmp_path / "out.json").read_text())
    assert (document["bench"], document["setup"]["trace"]) == ("regret", ["good.csv"])
    assert document["report"]["traces"][0]["picks_wrong"] == 0

    assert await main(RegretOptions(prices, [good, bad]), None) == 1
    assert "FINDING" in capsys.readouterr().out
    assert trace_name(Path("dir/trace.csv.gz")) == "trace"
