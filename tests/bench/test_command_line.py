"""The command line of the bench."""

from functools import partial
from pathlib import Path

import pytest

from bench.__main__ import leaves, parser, verb_of
from bench.actors import ActorsOptions
from bench.check import CheckOptions
from bench.gateway import PEERS_FOLDER, GatewayOptions
from bench.profile import ProfileOptions
from bench.regret import RegretOptions
from bench.replay import ReplayOptions
from bench.soak import SoakOptions


def options(*words: str) -> tuple[object, ...]:
    verb = verb_of(parser().parse_args(words))
    assert isinstance(verb, partial)
    return verb.args


def test_uses_the_defaults_when_nothing_is_said() -> None:
    assert options("replay") == (ReplayOptions(), None, None)
    assert options("gateway") == (GatewayOptions(), None, None)
    assert options("soak") == (SoakOptions(), None, None)
    assert options("check") == (CheckOptions(), None)
    assert options("profile") == (ProfileOptions(), None)
    assert options("peers") == ([], PEERS_FOLDER, None)
    assert options("crash") == (10, 1, None)
    assert options("actors") == (ActorsOptions(), None)
    assert options("price-history", "--history", "h.csv.gz") == (Path("h.csv.gz"), None)


def test_passes_on_what_is_said_when_replaying() -> None:
    words = "--trace t.csv.gz --speed 30 --limit 5 --stream-share 0.25 --durability process --budget-sats 7 --json out"

    replay, json_file, plot = options("replay", *words.split())

    assert (json_file, plot) == (Path("out"), None)
    assert replay == ReplayOptions(
        trace=Path("t.csv.gz"), speed=30.0, limit=5, stream_share=0.25, durability="process", budget_sats=7
    )


def test_passes_on_programs_and_cells_when_measuring_gateways() -> None:
    words = "gateway --programs direct arbstr --cells plain gaps --rounds 2 --peers p --plot x.png"

    asked, json_file, plot = options(*words.split())

    assert asked == GatewayOptions(("direct", "arbstr"), ("plain", "gaps"), Path("p"), rounds=2)
    assert (json_file, plot) == (None, Path("x.png"))


def test_takes_several_traces_when_asked_for_regret() -> None:
    words = "regret --prices p.csv --trace a.csv --trace b.csv.gz"

    asked, json_file = options(*words.split())

    assert json_file is None
    assert asked == RegretOptions(Path("p.csv"), (Path("a.csv"), Path("b.csv.gz")))


@pytest.mark.parametrize(
    "words",
    [
        "replay --speed 0",
        "replay --stream-share 2",
        "replay --limit 0",
        "replay --hosts 3",
        "crash --times x",
        "actors --rounds 0",
        "gateway --programs vapour",
        "gateway --cells all",
        "soak --requests 0",
        "profile --load idle",
        "peers --install apache",
        "first",
        "price-history",
        "regret --prices p.csv",
        "regret --trace t.csv",
        "",
        "fly",
    ],
)
def test_ends_with_2_when_the_command_line_makes_no_sense(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(words.split())

    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_finds_every_error_when_groups_are_nested() -> None:
    one, other = ValueError("one"), ValueError("other")

    assert leaves(ExceptionGroup("a", [ExceptionGroup("b", [one]), other])) == [one, other]
