"""Accounts in another process: the same answers, and whose the holds are when connections and processes end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

from actors import ActorSystem
from arbstr.accounts import (
    Accounts,
    AccountView,
    AskPage,
    Describe,
    Ended,
    Extend,
    GaugeFamily,
    Gauges,
    Held,
    Holder,
    IssueToken,
    LinkBank,
    LinkDesk,
    Page,
    Release,
    Renew,
    Reserve,
    RevokeToken,
    Settle,
)
from arbstr.accounts import _link_bank as bank_module
from arbstr.accounts import _link_desk as desk_module
from arbstr.accounts._link_shapes import FROM_ACCOUNTS, AskSettle, error_of, refused
from arbstr.errors import (
    AuthenticationFailed,
    BillingRefused,
    InternalError,
    LedgerUnavailable,
    NotAnswered,
    NotFound,
    ProviderFailed,
)
from arbstr.link import Peer
from arbstr.store import HoldState, ReceiptRow

MakeReceipt = Callable[..., ReceiptRow]


class Answers:
    """What a desk asks of the rest of its process."""

    def __init__(self) -> None:
        self.receipts: list[ReceiptRow] = []
        self.forgotten: list[int] = []

    async def page(self, asked: AskPage) -> Page:
        if asked.path == "/broken":
            raise RuntimeError("says the test")
        if asked.path == "/refused":
            raise NotFound("says the test")
        return Page(200, ((b"x", b"y"),), asked.body)

    def filed(self, receipt: ReceiptRow) -> None:
        self.receipts.append(receipt)

    def limit(self, session: Any, asked: Any) -> Any:
        raise AssertionError

    def place(self, session: Any, told: Any) -> None:
        raise AssertionError

    def forget(self, session: Any) -> None:
        self.forgotten.append(session.worker)


@define(eq=False)
class Side:
    """The process of the accounts: it can die, and another one can take its place on the same books."""

    world: Any
    system: ActorSystem
    accounts: Accounts
    desk: LinkDesk
    answers: Answers
    nursery: trio.Nursery
    scopes: list[trio.CancelScope] = field(factory=list)

    async def attend(self, stream: trio.abc.Stream) -> None:
        with trio.CancelScope() as scope:
            self.scopes.append(scope)
            await self.desk.attend(stream)

    def break_connections(self) -> None:
        for scope in self.scopes:
            scope.cancel()


class Rig:
    """One core and one process of the accounts, in one run."""

    def __init__(self, world: Any, system: ActorSystem, nursery: trio.Nursery) -> None:
        self.world, self.system, self.nursery = world, system, nursery
        self.side: Side | None = None
        self.bank = self.core(1)
        self.holder = Holder(world.agent_id, "agent")

    def core(self, worker: int) -> LinkBank:
        bank = LinkBank(worker, self.connect)
        bank.use(self.system)
        return bank

    async def connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.side is None:
            raise ConnectionRefusedError("away")
        ours, theirs = trio.testing.memory_stream_pair()
        self.side.nursery.start_soon(self.side.attend, theirs)
        return ours

    async def start_accounts(self) -> Side:
        """Waits for nothing: cores come when they like."""
        accounts, answers = self.world.accounts(self.system, hold_lease_s=100.0), Answers()
        desk = LinkDesk(accounts, self.world.store, answers)
        desk._nursery = self.nursery
        self.side = Side(self.world, self.system, accounts, desk, answers, self.nursery)
        return self.side

    async def kill_accounts(self) -> None:
        """As SIGKILL does: nothing more of it reaches the disk or a core."""
        side, self.side = self.side, None
        assert side is not None
        side.break_connections()
        for ref in list(side.accounts._refs.values()):
            ref.cancel()
            await ref.wait_stopped()

    async def up(self, bank: LinkBank | None = None) -> None:
        bank = bank or self.bank
        while not bank.is_up:  # noqa: ASYNC110 - on a virtual clock
            await trio.sleep(0.01)

    async def ask(self, message: Any) -> Any:
        return await self.bank.request(self.holder, message)


Start = Callable[[], AbstractAsyncContextManager[Rig]]


@pytest.fixture
def started(world: Any, clock_ns: None) -> Start:
    @asynccontextmanager
    async def start() -> Any:
        async with ActorSystem.run() as system, trio.open_nursery() as nursery:
            rig = Rig(world, system, nursery)
            await rig.start_accounts()
            nursery.start_soon(rig.bank.run)
            await rig.up()
            yield rig
            nursery.cancel_scope.cancel()

    return start


async def test_a_hold_is_made_extended_and_settled_when_the_account_is_in_another_process(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        assert await rig.ask(Reserve("a", 100, "m", "p")) == Held("a", 100, 900)
        assert await rig.ask(Extend("a", 150, "p")) == Held("a", 150, 850)
        assert world.hold("a").state is HoldState.OPEN
        assert await rig.ask(Settle("a", 120, receipt("a", 120))) == Ended("a", 120, 880, 0)
        assert world.hold("a").state is HoldState.SETTLED
        assert rig.bank.waiting == 0
        assert [row.request_id for row in rig.side.answers.receipts] == ["a"]  # type: ignore[union-attr]
    assert world.check().spent_msat == 120


async def test_a_refusal_comes_as_it_was_said(autojump_clock: Any, started: Start) -> None:
    async with started() as rig:
        with pytest.raises(BillingRefused) as caught:
            await rig.ask(Reserve("a", 5_000, "m", "p"))
        assert (caught.value.status, caught.value.reason) == (402, "insufficient_balance")
        assert caught.value.details == {"available_msat": 1000, "requested_msat": 5000}
        with pytest.raises(NotFound):
            await rig.bank.request(Holder("nobody", "nobody"), Reserve("b", 1, "m", "p"))


@pytest.mark.parametrize(
    "error",
    [
        BillingRefused("no", status=409, reason="key_used", details={"n": 1, "t": "x"}),
        LedgerUnavailable("no", retry_after_s=1.5),
        NotAnswered("no"),
        AuthenticationFailed("no", param="x"),
    ],
)
def test_an_error_is_the_same_on_the_other_side(error: Any) -> None:
    again = error_of(refused(error))
    assert type(again) is type(error)
    for name in ("message", "reason", "status", "param", "retry_after_s", "details"):
        assert getattr(again, name) == getattr(error, name)


def test_an_error_that_is_not_of_accounts_is_a_defect_on_the_other_side() -> None:
    assert type(error_of(refused(ProviderFailed("no")))) is InternalError


async def test_nothing_is_held_and_it_is_said_at_once_when_the_accounts_are_away(
    autojump_clock: Any, started: Start
) -> None:
    async with started() as rig:
        await rig.kill_accounts()
        await trio.sleep(0.01)
        begun = trio.current_time()
        with pytest.raises(LedgerUnavailable) as caught:
            await rig.ask(Reserve("a", 1, "m", "p"))
        assert type(caught.value) is LedgerUnavailable  # and not NotAnswered: nothing came of it
        assert trio.current_time() == begun


async def test_a_settlement_that_was_not_confirmed_is_charged_once_when_the_accounts_come_back(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        await rig.ask(Reserve("a", 100, "m", "p"))
        await rig.ask(Reserve("b", 100, "m", "p"))
        await rig.ask(Reserve("c", 100, "m", "p"))
        world.disk.mode = "held"
        answers: dict[str, Any] = {}

        async def settle(key: str) -> None:
            answers[key] = await rig.ask(Settle(key, 70, receipt(key, 70)))

        rig.nursery.start_soon(settle, "a")
        await trio.sleep(0.1)
        world.disk.write()  # on disk, and the answer is lost
        rig.side.break_connections()  # type: ignore[union-attr]
        await rig.kill_accounts()
        rig.nursery.start_soon(settle, "b")  # while they are away
        await trio.sleep(1)
        world.disk.mode = "soon"
        await rig.start_accounts()
        await trio.sleep(2)
        assert {key: answer.charged_msat for key, answer in answers.items()} == {"a": 70, "b": 70}
        assert world.hold("c").state is HoldState.OPEN
        await rig.ask(Release("c", "enough", None))
    assert world.check().spent_msat == 140


async def test_an_end_arrives_when_its_asker_is_cancelled(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        await rig.ask(Reserve("a", 100, "m", "p"))
        with trio.move_on_after(0):
            await rig.ask(Settle("a", 50, receipt("a", 50)))
        rig.bank.tell(rig.holder, Settle("a", 50, receipt("a", 50)))  # as the purse does then
        await trio.sleep(0.1)
        assert rig.bank.waiting == 0
    assert world.check().spent_msat == 50


async def test_nothing_stays_held_when_an_asker_is_cancelled_and_releases(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        for delay_s in (0.0, 0.001):
            key = f"k{delay_s}"
            with trio.move_on_after(delay_s):
                await rig.ask(Reserve(key, 100, "m", "p"))
            rig.bank.tell(rig.holder, Release(key, "cancelled", receipt(key)))
        await trio.sleep(1)
        assert (await rig.side.accounts.ask(world.agent_id, Describe())).holds == ()  # type: ignore[union-attr]
    assert world.check().open_holds == 0


async def test_a_hold_stays_when_the_connection_breaks_and_its_core_comes_back(
    autojump_clock: Any, started: Start, world: Any
) -> None:
    async with started() as rig:
        await rig.ask(Reserve("a", 100, "m", "p"))
        rig.side.break_connections()  # type: ignore[union-attr]
        await trio.sleep(desk_module.RETURN_S + 10)
        assert rig.bank.is_up
        rig.side.accounts.sweep()  # type: ignore[union-attr]
        await trio.sleep(1_000)  # its core owns it, whatever the lease
        rig.side.accounts.sweep()  # type: ignore[union-attr]
        await trio.sleep(1)
        assert world.hold("a").state is HoldState.OPEN


async def test_holds_are_charged_by_the_evidence_when_their_core_dies(
    autojump_clock: Any, started: Start, world: Any
) -> None:
    async with started() as rig:
        other = rig.core(2)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(other.run)
                await other.request(rig.holder, Reserve("a", 100, "m", "p"))
                await other.request(rig.holder, Reserve("b", 100, "m", "p"))
                other.tell(rig.holder, Renew("a", 30))
                await rig.ask(Reserve("mine", 100, "m", "p"))
                await trio.sleep(0.1)
                scope.cancel()
        await trio.sleep(desk_module.RETURN_S / 2)
        assert world.hold("a").state is HoldState.OPEN  # it may come back
        await trio.sleep(desk_module.RETURN_S)
        assert (world.hold("a").state, world.hold("a").charged_msat) == (HoldState.SETTLED, 30)
        assert world.hold("b").state is HoldState.RELEASED
        assert world.hold("mine").state is HoldState.OPEN
        assert [session.worker for session in rig.side.desk.sessions] == [1]  # type: ignore[union-attr]
        assert rig.side.answers.forgotten == [2]  # type: ignore[union-attr]
        await rig.ask(Release("mine", "enough", None))
    report = world.check()
    assert (report.spent_msat, report.open_holds) == (30, 0)


async def test_a_core_that_says_goodbye_is_gone_at_once(autojump_clock: Any, started: Start, world: Any) -> None:
    async with started() as rig:
        assert await rig.bank.aclose()
        await trio.sleep(0.1)
        assert rig.side.desk.sessions == []  # type: ignore[union-attr]


async def test_holds_of_cores_that_live_outlast_the_accounts_and_the_others_end_with_their_lease(
    autojump_clock: Any, started: Start, world: Any
) -> None:
    async with started() as rig:
        await rig.ask(Reserve("lives", 100, "m", "p"))
        await rig.ask(Reserve("dies with the accounts", 100, "m", "p"))
        await rig.kill_accounts()
        side = await rig.start_accounts()
        side.accounts.ref(world.agent_id)
        await rig.up()
        for _ in range(30):
            rig.bank.tell(rig.holder, Renew("lives", 10))
            side.accounts.sweep()
            await trio.sleep(5)
        assert world.hold("dies with the accounts").state is HoldState.RELEASED
        assert world.hold("lives").state is HoldState.OPEN
        await rig.ask(Release("lives", "enough", None))
    assert world.check().open_holds == 0


async def test_receipts_are_filed_once_however_often_they_are_sent(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        filed: list[str] = []
        rig.bank.file(receipt("a"), lambda: filed.append("a"))
        await trio.sleep(0.1)
        rig.bank.file(receipt("a"), lambda: filed.append("again"))
        await rig.kill_accounts()
        rig.bank.file(receipt("b"), lambda: filed.append("b"))
        await trio.sleep(1)
        assert filed[0] == "a"
        assert "b" not in filed
        await rig.start_accounts()
        await trio.sleep(2)
        assert sorted(filed) == ["a", "again", "b"]
        assert rig.bank.waiting == 0
    assert world.rows("SELECT request_id FROM receipts ORDER BY 1") == [("a",), ("b",)]


async def test_an_end_waits_when_the_disk_fails_and_a_receipt_is_told_again(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        await rig.ask(Reserve("a", 100, "m", "p"))
        world.disk.broken = True
        rig.bank.tell(rig.holder, Settle("a", 40, receipt("a", 40)))
        rig.bank.file(receipt("b"))
        await trio.sleep(5)
        assert rig.bank.waiting == 2
        world.disk.broken = False
        await trio.sleep(10)
        assert rig.bank.waiting == 0
    assert world.check().spent_msat == 40


async def test_every_core_knows_a_token_when_its_change_is_seen_by_all(
    autojump_clock: Any, started: Start, world: Any
) -> None:
    async with started() as rig:
        other = rig.core(2)
        rig.nursery.start_soon(other.run)
        await rig.up(other)
        side = rig.side
        assert side is not None
        issued = await side.accounts.ask(world.agent_id, IssueToken("t"))
        await side.desk.all_seen()
        for bank in (rig.bank, other):
            holder = bank.holder_of(issued.token)
            assert holder is not None
            assert holder.agent_id == world.agent_id
        await side.accounts.ask(world.agent_id, RevokeToken(issued.row.token_id))
        await side.desk.all_seen()
        assert [bank.holder_of(issued.token) for bank in (rig.bank, other)] == [None, None]


async def test_a_core_has_all_tokens_when_it_comes_back(autojump_clock: Any, started: Start, world: Any) -> None:
    async with started() as rig:
        issued = await rig.side.accounts.ask(world.agent_id, IssueToken("t"))  # type: ignore[union-attr]
        await rig.kill_accounts()
        side = await rig.start_accounts()
        await side.accounts.ask(world.agent_id, RevokeToken(issued.row.token_id))
        await rig.up()
        assert rig.bank.holder_of(issued.token) is None


async def test_all_seen_waits_no_longer_than_it_may_when_a_core_is_stuck(
    autojump_clock: Any, started: Start, world: Any
) -> None:
    async with started() as rig:
        rig.bank.handle = lambda message, reply: None  # type: ignore[method-assign]
        for session in rig.side.desk.sessions:  # type: ignore[union-attr]
            assert session.peer is not None
        rig.bank._link._peer._handle = lambda message, reply: None  # type: ignore[union-attr]
        await rig.side.accounts.ask(world.agent_id, IssueToken("t"))  # type: ignore[union-attr]
        begun = trio.current_time()
        await rig.side.desk.all_seen()  # type: ignore[union-attr]
        assert trio.current_time() - begun == pytest.approx(desk_module.PUBLISH_S, abs=0.1)


async def test_a_page_is_answered_refused_or_a_defect(autojump_clock: Any, started: Start) -> None:
    def asked(path: str) -> AskPage:
        return AskPage("GET", path, b"", (), b"body", "127.0.0.1")

    async with started() as rig:
        assert await rig.bank.page(asked("/agents"), 5) == Page(200, ((b"x", b"y"),), b"body")
        with pytest.raises(NotFound, match="says the test"):
            await rig.bank.page(asked("/refused"), 5)
        with pytest.raises(InternalError):
            await rig.bank.page(asked("/broken"), 5)


async def test_gauges_are_those_of_every_core_that_answers(autojump_clock: Any, started: Start) -> None:
    class Watched:
        def gauges(self) -> Gauges:
            return Gauges((GaugeFamily("n", "h", "gauge", (("n", {}, 3.0),)),))

    async with started() as rig:
        rig.bank.watched = Watched()
        other = rig.core(2)
        rig.nursery.start_soon(other.run)
        await rig.up(other)
        other._link._peer._handle = lambda message, reply: None  # type: ignore[union-attr]
        assert await rig.side.desk.gauges() == [(1, Watched().gauges()), (2, None)]  # type: ignore[union-attr]


async def test_a_stranger_is_cut_off_when_it_does_not_say_hello(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        stream = await rig.connect()
        peer = Peer(stream, FROM_ACCOUNTS, lambda message, reply: None)
        answers: list[Any] = []
        peer.ask(AskSettle(world.agent_id, Settle("a", 1, receipt("a"))), lambda answer, error: answers.append(error))
        with trio.fail_after(5):
            await peer.run()
        assert len(answers) == 1
        assert rig.side.answers.receipts == []  # type: ignore[union-attr]


async def test_an_ask_that_gets_no_answer_may_have_been_done_and_says_so(
    autojump_clock: Any, started: Start, receipt: MakeReceipt, world: Any
) -> None:
    async with started() as rig:
        world.disk.mode = "held"
        with trio.fail_after(bank_module.ASK_DEADLINE_S + 1), pytest.raises(NotAnswered):
            await rig.ask(Reserve("a", 100, "m", "p"))
        world.disk.mode = "soon"
        world.disk.write()
        await rig.ask(Release("a", "not wanted", receipt("a")))
        view: AccountView = await rig.side.accounts.ask(world.agent_id, Describe())  # type: ignore[union-attr]
        assert view.holds == ()
