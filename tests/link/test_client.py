"""A link that breaks: what is lost, what is repeated, and until when."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from arbstr.link import Link, LinkFull, LinkLost, Reply, Unsendable
from arbstr.link import _client as client_module
from tests.link.messages import CODEC, Heard, Hello, NotNow, Say, Side


class Service:
    """The other side, which can be away, and come back having forgotten everything."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.away = False
        self.mute = False
        """It takes connections and says nothing."""
        self.sides: list[Side] = []
        self._scopes: list[trio.CancelScope] = []

    async def connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise ConnectionRefusedError("away")
        ours, theirs = trio.testing.memory_stream_pair()
        side = Side(theirs)
        self.sides.append(side)
        if not self.mute:
            self._nursery.start_soon(self._run, side)
        return ours

    async def _run(self, side: Side) -> None:
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            await side.peer.run()

    @property
    def side(self) -> Side:
        return self.sides[-1]

    @property
    def asked(self) -> list[Any]:
        """On the newest connection, beside the hello."""
        return [message for message in self.side.heard if not isinstance(message, Hello)]

    def welcome(self) -> None:
        self.side.replies.pop(0)(Heard("welcome"))

    def die(self) -> None:
        self._scopes[-1].cancel()


class Talk:
    def __init__(self) -> None:
        self.welcomes: list[Any] = []
        self.heard: list[Any] = []

    def hello(self) -> Hello:
        return Hello("me")

    def welcomed(self, answer: Any) -> None:
        self.welcomes.append(answer)

    def handle(self, message: Any, reply: Reply | None) -> None:
        self.heard.append(message)

    def is_final(self, answer: Any) -> bool:
        return not isinstance(answer, NotNow)


class Rig:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.service = Service(nursery)
        self.talk = Talk()
        self.link = Link(self.service.connect, CODEC, self.talk)
        self.answers: list[Any] = []

    def done(self, answer: Any, error: Any) -> None:
        self.answers.append(answer if error is None else error)

    async def up(self) -> None:
        """The first time, and each time after."""
        if not self.service.sides:
            self.nursery.start_soon(self.link.run)
        await trio.sleep(1)
        self.service.welcome()
        await wait_all_tasks_blocked(0.0001)
        assert self.link.is_up


@pytest.fixture
def rig(nursery: trio.Nursery) -> Rig:
    return Rig(nursery)


async def test_nothing_can_be_asked_before_the_hello_is_answered(autojump_clock: Any, rig: Rig) -> None:
    rig.nursery.start_soon(rig.link.run)
    await trio.sleep(0.1)
    assert rig.service.side.heard == [Hello("me")]
    with pytest.raises(LinkLost):
        rig.link.ask(Say("a"), rig.done)
    rig.service.welcome()
    await trio.sleep(0.1)
    assert rig.talk.welcomes == [Heard("welcome")]
    rig.link.ask(Say("a"), rig.done)
    await trio.sleep(0.1)
    rig.service.side.replies[0](Heard("a"))
    await trio.sleep(0.1)
    assert rig.answers == [Heard("a")]


async def test_an_ask_is_lost_and_what_is_owed_is_repeated_when_the_other_side_dies(
    autojump_clock: Any, rig: Rig
) -> None:
    await rig.up()
    rig.link.ask(Say("an ask"), rig.done)
    rig.link.owe("k1", Say("owed"), rig.done)
    await trio.sleep(0.1)
    rig.service.die()
    await trio.sleep(0.01)
    assert [type(answer) for answer in rig.answers] == [LinkLost]
    assert not rig.link.is_up
    rig.link.owe("k2", Say("owed while it was away"), rig.done)
    await rig.up()
    await trio.sleep(0.1)
    assert rig.service.asked == [Say("owed"), Say("owed while it was away")]
    for reply in rig.service.side.replies:
        reply(Heard("at last"))
    await trio.sleep(0.1)
    assert rig.answers[1:] == [Heard("at last")] * 2
    assert rig.link.waiting == 0


async def test_what_was_answered_is_not_repeated_when_the_other_side_dies_later(autojump_clock: Any, rig: Rig) -> None:
    await rig.up()
    rig.link.owe("k", Say("owed"), rig.done)
    await trio.sleep(0.1)
    rig.service.side.replies[0](Heard("yes"))
    await trio.sleep(0.1)
    rig.service.die()
    await trio.sleep(0.01)
    await rig.up()
    await trio.sleep(0.1)
    assert rig.service.asked == []
    assert rig.answers == [Heard("yes")]


async def test_one_key_is_owed_once_and_everybody_hears_when_it_is_owed_again(autojump_clock: Any, rig: Rig) -> None:
    await rig.up()
    rig.link.owe("k", Say("first"), rig.done)
    rig.link.owe("k", Say("again"), rig.done)
    rig.link.owe("k", Say("and again"))
    await trio.sleep(0.1)
    assert rig.service.asked == [Say("first")]
    rig.service.side.replies[0](Heard("yes"))
    await trio.sleep(0.1)
    assert rig.answers == [Heard("yes")] * 2


async def test_what_is_owed_is_told_again_when_the_other_side_could_not_take_it(autojump_clock: Any, rig: Rig) -> None:
    await rig.up()
    rig.link.owe("k", Say("owed"), rig.done)
    await trio.sleep(0.1)
    rig.service.side.replies.pop()(NotNow())
    await trio.sleep(client_module.AGAIN_S + 0.1)
    assert rig.service.asked == [Say("owed")] * 2
    assert rig.answers == []
    rig.service.side.replies.pop()(Heard("now"))
    await trio.sleep(0.1)
    assert rig.answers == [Heard("now")]


async def test_no_more_is_owed_than_the_bound(autojump_clock: Any, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_OWED", 2)
    rig.link.owe("a", Say("a"))
    rig.link.owe("b", Say("b"))
    with pytest.raises(LinkFull):
        rig.link.owe("c", Say("c"))
    rig.link.owe("a", Say("a"), rig.done)  # it is owed already
    assert rig.link.waiting == 2


async def test_what_can_never_be_written_is_not_owed_for_ever(autojump_clock: Any, rig: Rig) -> None:
    await rig.up()
    rig.link.owe("k", Say("\ud800"), rig.done)
    await trio.sleep(0.1)
    assert [type(answer) for answer in rig.answers] == [Unsendable]
    assert rig.link.waiting == 0


async def test_it_goes_on_trying_when_nobody_is_there_or_nobody_answers_the_hello(
    autojump_clock: Any, rig: Rig
) -> None:
    rig.service.away = True
    rig.nursery.start_soon(rig.link.run)
    await trio.sleep(30)
    rig.service.away, rig.service.mute = False, True
    await trio.sleep(client_module.GREETING_S + 1)
    assert len(rig.service.sides) >= 2
    rig.service.mute = False
    await trio.sleep(client_module.GREETING_S + 1)
    rig.service.welcome()
    await trio.sleep(0.1)
    assert rig.link.is_up


async def test_drain_waits_for_what_is_owed_and_no_longer_than_it_is_told(autojump_clock: Any, rig: Rig) -> None:
    await rig.up()
    assert await rig.link.drain(1)
    rig.link.owe("k", Say("owed"))
    begun = trio.current_time()
    assert not await rig.link.drain(3)
    assert trio.current_time() - begun == pytest.approx(3, abs=0.1)

    async def answer() -> None:
        await trio.sleep(2)
        rig.service.side.replies[0](Heard("yes"))

    rig.nursery.start_soon(answer)
    assert await rig.link.drain(60)
    assert trio.current_time() - begun == pytest.approx(5, abs=0.1)


async def test_the_run_ends_when_the_link_is_closed(autojump_clock: Any, rig: Rig) -> None:
    ended = trio.Event()

    async def run() -> None:
        await rig.link.run()
        ended.set()

    rig.nursery.start_soon(run)
    await trio.sleep(1)
    rig.service.welcome()
    await trio.sleep(0.1)
    rig.link.tell(Say("goodbye"))
    rig.link.close_soon()
    with trio.fail_after(5):
        await ended.wait()
    await trio.sleep(0.1)
    assert rig.service.asked == [Say("goodbye")]
    assert len(rig.service.sides) == 1
