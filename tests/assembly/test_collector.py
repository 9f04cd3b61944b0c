"""Garbage is looked for seldom while the program runs, and as before afterwards."""

import gc

from arbstr.assembly import relaxed_collector


class Cycle:
    alive = 0

    def __init__(self) -> None:
        Cycle.alive += 1
        self.itself = self

    def __del__(self) -> None:
        Cycle.alive -= 1


def test_cycles_are_collected_all_the_same() -> None:
    with relaxed_collector():
        made = 2 * gc.get_threshold()[0]
        for _ in range(made):
            Cycle()
        assert Cycle.alive < made
    gc.collect()
    assert Cycle.alive == 0


def test_python_collects_as_before_when_the_program_has_ended() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with relaxed_collector():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
