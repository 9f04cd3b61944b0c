"""List prices in USD become exact rates in sats."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.prices import PriceListError, cheapest_per_host, generate_prices, read_prices, sats_per_1m, spread

HEADER = (
    "family,provider,kind,usd_in_per_m,usd_out_per_m,usd_cache_read_per_m,context,max_output,model_id,source,as_of,"
    "suspect\n"
)


def row(provider: str, usd_in: str, usd_out: str, suspect: str = "0") -> dict[str, str]:
    return {"provider": provider, "usd_in_per_m": usd_in, "usd_out_per_m": usd_out, "suspect": suspect}


def test_converts_exactly_when_the_price_of_bitcoin_is_round() -> None:
    # 0.72 USD at 100,000 USD per 100,000,000 sats.
    assert sats_per_1m(Decimal("0.72"), Decimal(100_000)) == Decimal("720")
    assert sats_per_1m(Decimal("0.50001"), Decimal(100_000)) == Decimal("500.010")


def test_rounds_half_to_even_when_a_rate_falls_between_steps() -> None:
    assert sats_per_1m(Decimal("0.0000005"), Decimal(100_000)) == Decimal("0.000")
    assert sats_per_1m(Decimal("0.0000015"), Decimal(100_000)) == Decimal("0.002")


@given(st.decimals(min_value=0, max_value=100, places=5))
def test_stays_within_half_a_step_of_the_true_rate_when_converted(usd: Decimal) -> None:
    rate = sats_per_1m(usd)

    assert abs(rate * Decimal("81996.44") - usd * 100_000_000) <= Decimal("0.0005") * Decimal("81996.44")


def test_price_is_the_rate_that_the_configuration_says_when_a_host_is_priced() -> None:
    (host,) = cheapest_per_host([row("a", "0.1", "0.3")])

    assert str(host.input_rate) == "121.957"
    assert host.price.cost_msat(1_000_000, 0) == 121_957
    assert host.price.cost_msat(0, 1_000_000) == 365_870


def test_takes_the_cheapest_row_when_a_host_lists_several() -> None:
    (host,) = cheapest_per_host([row("a", "0.5", "0.5"), row("a", "0.1", "0.3"), row("a", "0.2", "0.3")])

    assert host.input_rate == sats_per_1m(Decimal("0.1"))


def test_leaves_a_row_out_when_it_is_suspect() -> None:
    hosts = cheapest_per_host([row("a", "0.5", "0.5"), row("a", "0.001", "0.001", "1"), row("b", "0.0", "0.0", "1")])

    assert [(host.name, host.input_rate) for host in hosts] == [("a", sats_per_1m(Decimal("0.5")))]


def test_orders_hosts_by_price_when_a_family_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    rows = [("d.x", "4"), ("b", "2"), ("A B", "1"), ("c", "3")]
    path.write_text(
        HEADER
        + "".join(f"fam,{name},direct,{usd},{usd},,1,1,id,src,2026-01-01,0\n" for name, usd in rows)
        + "other,z,direct,0.1,0.1,,1,1,id,src,2026-01-01,0\n"
    )

    assert [host.name for host in read_prices(path, "fam")] == ["a-b", "b", "c", "d-x"]
    with pytest.raises(PriceListError, match="has 1 usable hosts"):
        read_prices(path, "other")
    with pytest.raises(PriceListError, match="no rows of family 'none'"):
        read_prices(path, "none")


@pytest.mark.parametrize("usd", ["", "free", "-1", "inf"])
def test_refuses_a_list_when_a_price_is_not_one(usd: str) -> None:
    with pytest.raises(PriceListError, match="a price"):
        cheapest_per_host([row("a", usd, "1")])


def test_generates_the_same_prices_when_the_seed_is_the_same() -> None:
    hosts = generate_prices(8, seed=1)

    assert hosts == generate_prices(8, seed=1)
    assert hosts != generate_prices(8, seed=2)
    assert len({host.name for host in hosts}) == 8
    assert [host.blended for host in hosts] == sorted(host.blended for host in hosts)


def test_keeps_cheapest_and_dearest_when_hosts_are_spread() -> None:
    hosts = generate_prices(10, seed=1)

    assert spread(hosts, 4) == [hosts[0], hosts[3], hosts[6], hosts[9]]
    assert spread(hosts, 99) == hosts
