"""One connection: asks and answers in any order, batches, bounds, and ends of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from arbstr.link import LinkFull, LinkLost, Malformed, Unsendable, frame
from arbstr.link import _peer as peer_module
from tests.link.messages import CODEC, Heard, Say, Side, pair


async def test_each_ask_gets_its_own_answer_when_they_are_answered_in_another_order(
    nursery: trio.Nursery,
) -> None:
    here, there = pair()
    nursery.start_soon(here.peer.run)
    nursery.start_soon(there.peer.run)
    for text in ("a", "b", "c"):
        here.ask(Say(text))
    await wait_all_tasks_blocked()
    assert there.heard == [Say("a"), Say("b"), Say("c")]
    for index in (2, 0, 1):
        there.replies[index](Heard(there.heard[index].text))
    await wait_all_tasks_blocked()
    assert here.answers == [Heard("c"), Heard("a"), Heard("b")]
    assert here.peer.pending == 0


async def test_what_is_said_in_one_turn_is_one_write_in_both_directions(nursery: trio.Nursery) -> None:
    here, there = pair()
    there.at_once = Heard("x")
    writes: list[int] = []
    for side in (here, there):
        stream = side.peer._stream
        assert isinstance(stream, trio.StapledStream)
        send = stream.send_stream.send_all

        async def counted(data: bytes, send: object = send) -> None:
            writes.append(len(data))
            await send(data)  # type: ignore[operator]

        stream.send_stream.send_all = counted  # type: ignore[method-assign]
        nursery.start_soon(side.peer.run)
    await wait_all_tasks_blocked()
    for number in range(20):
        here.ask(Say("a", number))
    await wait_all_tasks_blocked()
    assert here.answers == [Heard("x")] * 20
    assert len(writes) == 2


async def test_what_nobody_waits_for_goes_with_what_is_said_next_or_a_moment_later(
    autojump_clock: Any, nursery: trio.Nursery
) -> None:
    here, there = pair()
    nursery.start_soon(here.peer.run)
    nursery.start_soon(there.peer.run)
    await trio.sleep(1)

    def answered(answer: object, error: object) -> None: ...

    here.peer.ask(Say("lazy"), answered, lazily=True)
    await trio.sleep(peer_module.LAZY_S / 2)
    assert there.heard == []
    await trio.sleep(peer_module.LAZY_S)
    assert there.heard == [Say("lazy")]
    here.peer.ask(Say("lazy"), answered, lazily=True)
    here.peer.ask(Say("now"), answered)
    await wait_all_tasks_blocked()
    assert there.heard == [Say("lazy"), Say("lazy"), Say("now")]
    there.replies[0](Heard("a"), lazily=True)
    there.replies[1](Heard("b"), lazily=True)
    await trio.sleep(peer_module.LAZY_S / 2)
    assert here.peer.pending == 3
    await trio.sleep(peer_module.LAZY_S)
    assert here.peer.pending == 1


async def test_what_is_told_is_heard_and_not_answered(nursery: trio.Nursery) -> None:
    here, there = pair()
    nursery.start_soon(here.peer.run)
    nursery.start_soon(there.peer.run)
    here.peer.tell(Say("by the way"))
    await wait_all_tasks_blocked()
    assert (there.heard, there.replies) == ([Say("by the way")], [])


async def test_open_asks_are_lost_and_new_ones_refused_when_the_other_side_ends_the_connection(
    nursery: trio.Nursery,
) -> None:
    here, there = pair()
    nursery.start_soon(here.peer.run)
    there_running = trio.CancelScope()

    async def run_there() -> None:
        with there_running:
            await there.peer.run()

    nursery.start_soon(run_there)
    here.ask(Say("a"))
    await wait_all_tasks_blocked()
    there_running.cancel()
    await wait_all_tasks_blocked()
    assert [type(answer) for answer in here.answers] == [LinkLost]
    with pytest.raises(LinkLost):
        here.ask(Say("b"))
    with pytest.raises(LinkLost):
        here.peer.tell(Say("c"))
    there.replies[0](Heard("too late"))  # nobody is there: nothing happens
    assert not here.peer.is_open


async def test_what_was_said_arrives_when_the_connection_is_closed_soon(nursery: trio.Nursery) -> None:
    here, there = pair()
    nursery.start_soon(there.peer.run)
    for number in range(1_500):
        here.peer.tell(Say("last words", number))
    here.peer.close_soon()
    await here.peer.run()
    await wait_all_tasks_blocked()
    assert len(there.heard) == 1_500
    assert not there.peer.is_open


async def test_asks_are_refused_when_too_many_wait_already(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "MAX_PENDING", 3)
    here, there = pair()
    nursery.start_soon(there.peer.run)
    nursery.start_soon(here.peer.run)
    for _ in range(3):
        here.ask(Say("a"))
    with pytest.raises(LinkFull):
        here.ask(Say("one too many"))
    await wait_all_tasks_blocked()
    with pytest.raises(LinkFull):  # written, and not answered
        here.ask(Say("one too many"))
    there.replies[0](Heard("a"))
    await wait_all_tasks_blocked()
    here.ask(Say("now"))


async def test_nothing_more_is_read_when_too_many_asks_wait_for_an_answer(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "MAX_OWED", 4)
    monkeypatch.setattr(peer_module, "MAX_BATCH", 1)
    monkeypatch.setattr(peer_module, "RECEIVE_BYTES", 10)
    here, there = pair()
    nursery.start_soon(there.peer.run)
    nursery.start_soon(here.peer.run)
    for number in range(20):
        here.ask(Say("a", number))
    await wait_all_tasks_blocked()
    assert 4 <= len(there.heard) < 8
    while there.replies:
        there.replies.pop()(Heard("a"))
        await wait_all_tasks_blocked()
    assert len(there.heard) == len(here.answers) == 20


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(frame(b"\xc1"), id="no MessagePack"),
        pytest.param(frame(CODEC.encode([(0, [99, "x"])])), id="a kind that nobody knows"),
        pytest.param(frame(CODEC.encode([(0, [2, 5])])), id="a number for a text"),
        pytest.param(frame(CODEC.encode([[0]])), id="half a message"),
        pytest.param(b"\xff\xff\xff\xff", id="an endless frame"),
    ],
)
async def test_the_connection_ends_when_the_other_side_does_not_speak_as_agreed(junk: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    side = Side(ours)
    side.ask(Say("a"))
    await theirs.send_all(junk)
    with trio.fail_after(5):
        broken = await side.peer.run()
    assert broken is not None
    assert [type(answer) for answer in side.answers] == [LinkLost]
    assert side.heard == []


async def test_its_neighbours_arrive_when_one_message_cannot_be_written(nursery: trio.Nursery) -> None:
    here, there = pair()
    there.at_once = Heard("yes")
    nursery.start_soon(here.peer.run)
    nursery.start_soon(there.peer.run)
    for text in ("before", "half a \ud800 character", "after"):
        here.ask(Say(text))
    await wait_all_tasks_blocked()
    assert there.heard == [Say("before"), Say("after")]
    assert [type(answer) for answer in here.answers] == [Unsendable, Heard, Heard]


async def test_nothing_is_sent_any_more_when_the_connection_is_aborted(nursery: trio.Nursery) -> None:
    here, there = pair()
    nursery.start_soon(there.peer.run)
    here.peer.tell(Say("never"))
    here.peer.abort()
    with trio.fail_after(5):
        await here.peer.run()
    await wait_all_tasks_blocked()
    assert there.heard == []


def test_a_message_of_the_wrong_shape_is_named_when_it_is_decoded() -> None:
    with pytest.raises(Malformed, match="str"):
        CODEC.decode(CODEC.encode([(1, [2, 5])]))
