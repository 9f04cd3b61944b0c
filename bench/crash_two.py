"""Does a SIGKILL of a proxy or of its vault lose or invent money, when the two are processes of their own?

Either is killed at a random moment under load and started again at once, while the other and the load go on. When the
proxy has told the vault all that it owes, both are stopped and their books are compared: what the proxy's receipts say
is what the vault has charged, to the millisatoshi.
"""

from __future__ import annotations

import random
import socket
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio
from attrs import define, evolve, field, frozen

from arbstr.store import Connection, RemoteHoldState, Store, read_open_holds
from bench import load, money
from bench.arbstr_server import Arbstr
from bench.client import Ask, Outcome, Target
from bench.crash import (
    BUDGET_SATS,
    HOSTS,
    KILL_AFTER_S,
    REQUESTS_PER_S,
    ROUND_S,
    SPEED,
    CrashReport,
    Round,
    draw_load,
    judge_round,
)
from bench.market import build_market, entries
from bench.prices import generate_prices
from bench.process import Child, ChildFailed

GO_ON_S = 6.0
"""Of load after a kill: the start of the program takes about one, and several on a busy machine."""
SWEEP_S = 15.0
"""After the end of a lease, for the vault to notice: it looks every five seconds, and not while it is down."""
DELIVERED_S = 40.0
"""For the proxy to tell the vault what it owes; its longest pause is 30 s."""
LOOK_S, QUIET_LOOKS = 0.1, 5
INTERNAL_TOKEN = "bench-internal-token-of-32-characters"


@frozen
class _Addresses:
    """Chosen once, so that whoever is started again is found again."""

    proxy: str
    vault: str


@define(eq=False)
class Pair:
    """A proxy and a vault in directories of their own. ``lease_s`` is how long the vault keeps a reservation."""

    proxy: Arbstr
    vault: Arbstr
    addresses: _Addresses
    lease_s: float
    _logs: int = field(default=0, init=False)

    async def create(self) -> None:
        """Write both configurations, and make the agent at the vault."""
        keeps = {"internal_token": f'"{INTERNAL_TOKEN}"', "reservation_lease_s": self.lease_s}
        asks = {"internal_token": f'"{INTERNAL_TOKEN}"', "url": f'"http://{self.addresses.vault}"'}
        await self.vault.create(BUDGET_SATS, vault=keeps)
        self.proxy.write(vault=asks)
        self.proxy.token = self.vault.token

    def start(self, which: str) -> Child:
        return (
            self.vault.server("vault", self.addresses.vault)
            if which == "vault"
            else self.proxy.server("serve", self.addresses.proxy)
        )


@frozen
class Books:
    """What both databases say once both programs have stopped. Amounts in msat."""

    vault: money.MoneyReport
    bought_msat: int
    """By the proxy's receipts."""
    problems: tuple[str, ...]


def run(
    times: int = 10,
    seed: int = 1,
    *,
    directory: Path | None = None,
    requests_per_s: float = REQUESTS_PER_S,
    lease_s: float = 60.0,
) -> CrashReport:
    """Kill ``times`` times and report; starts its own Trio program. Raises ChildFailed when a program does not start or
    stop as it should. The databases lie in ``directory`` (kept) or in a temporary one."""
    return trio.run(partial(crash, times, seed, directory=directory, requests_per_s=requests_per_s, lease_s=lease_s))


async def crash(
    times: int,
    seed: int,
    *,
    directory: Path | None = None,
    requests_per_s: float = REQUESTS_PER_S,
    lease_s: float = 60.0,
) -> CrashReport:
    """The same within a running Trio program."""
    if directory is not None:
        return await _rounds(directory, times, seed, requests_per_s, lease_s)
    with tempfile.TemporaryDirectory(prefix="arbstr-crash-") as temporary:
        return await _rounds(Path(temporary), times, seed, requests_per_s, lease_s)


async def _rounds(directory: Path, times: int, seed: int, requests_per_s: float, lease_s: float) -> CrashReport:
    draw = random.Random(seed)
    market = build_market(generate_prices(HOSTS, seed), speed=SPEED, seed=seed)
    pair = Pair(
        Arbstr(directory / "proxy", entries(market, speed=SPEED)),
        Arbstr(directory / "vault", ()),
        _Addresses(_free_address(), _free_address()),
        lease_s,
    )
    await pair.create()
    rounds: list[Round] = []
    told, charged = 0, 0
    for number in range(1, times + 1):
        asks, times_s = draw_load(draw.randrange(1 << 31), requests_per_s)
        kill_after_s, victim = draw.uniform(*KILL_AFTER_S), draw.choice(("proxy", "vault"))
        with trio.fail_after(ROUND_S + DELIVERED_S):
            outcomes = await _through_a_kill(pair, victim, asks, times_s, kill_after_s)
        told_now = sum(outcome.cost_msat or 0 for outcome in outcomes)
        told += told_now
        books = read_books(pair, told)
        judged = judge_round(number, kill_after_s, outcomes, told_now, books.vault, charged)
        rounds.append(evolve(judged, problems=(*judged.problems, *books.problems), victim=victim))
        charged = books.vault.charged_msat
    return CrashReport(seed, tuple(rounds))


async def _through_a_kill(
    pair: Pair, victim: str, asks: Sequence[Ask], times_s: Sequence[float], kill_after_s: float
) -> tuple[Outcome, ...]:
    """Offer load, kill one of the two in the middle and start it again; stop both once nothing is owed any more."""
    other = "vault" if victim == "proxy" else "proxy"
    async with pair.start(other) as survivor, pair.start(victim) as child, trio.open_nursery() as nursery:
        for one in (survivor, child):
            await one.address()
        begun: list[Child] = []
        nursery.start_soon(_replace, pair, victim, child, kill_after_s, begun, nursery)
        target = Target.of(f"http://{pair.addresses.proxy}", pair.proxy.model, pair.proxy.token)
        bound_s = kill_after_s + GO_ON_S
        result = await load.open_loop(target, asks, times_s, bound_s=bound_s)
        await _until_nothing_is_owed(pair)
        for one in reversed(begun):  # before the survivor: a proxy that stops has a last word for its vault
            await one.stop()
        nursery.cancel_scope.cancel()
    return tuple(outcome for outcome, at in zip(result.outcomes, times_s, strict=False) if at <= bound_s)


async def _replace(
    pair: Pair, victim: str, child: Child, after_s: float, begun: list[Child], nursery: trio.Nursery
) -> None:
    await trio.sleep(after_s)
    if child.process.poll() is not None:
        raise ChildFailed(f"ended by itself with {child.process.returncode} before the kill{child.tail()}")
    await child.kill()
    again = pair.start(victim)
    begun.append(again)
    async with again:
        await again.address()
        await trio.sleep_forever()


async def _until_nothing_is_owed(pair: Pair) -> None:
    """The proxy's database says what the vault has still to hear, and what is open. Raises ChildFailed when it takes
    too long. Looks until it has been so for a while: what is being granted at this moment is not in there yet."""
    with trio.move_on_after(DELIVERED_S):
        quiet = 0
        while quiet < QUIET_LOOKS:
            owed = await trio.to_thread.run_sync(Store.read_from, pair.proxy.database, _owed)
            quiet = 0 if owed else quiet + 1
            await trio.sleep(LOOK_S)
        return
    raise ChildFailed(f"the vault was not told all within {DELIVERED_S:g} s")


def _owed(db: Connection) -> int:
    counted = db.execute("SELECT count(*) FROM remote_holds WHERE state != ?", (RemoteHoldState.DEAD.value,))
    return int(counted.fetchone()[0])


def read_books(pair: Pair, told_msat: int) -> Books:
    """Audit both databases, which no program has open, and compare them."""
    audit, now_ns = Store.check(pair.vault.database), time.time_ns()
    problems = [f"proxy: {problem}" for problem in Store.check(pair.proxy.database).problems]
    for hold in Store.read_from(pair.vault.database, read_open_holds):
        late_s = (now_ns - hold.lease_ns) / 1e9
        if late_s > SWEEP_S:
            problems.append(f"hold {hold.hold_id} is open, and its lease ran out {late_s:.1f} s ago")
    # What is leased is as good as available; the audit has compared what is held with the holds.
    agents = [
        evolve(agent, available_msat=agent.available_msat + agent.held_msat, held_msat=0) for agent in audit.agents
    ]
    vault = money.judge(evolve(audit, agents=tuple(agents), open_holds=0), told_msat)
    bought, dead = Store.read_from(pair.proxy.database, _bought)
    if bought != vault.charged_msat:
        problems.append(f"the proxy's receipts say {bought} msat, the vault has charged {vault.charged_msat}")
    if dead:
        problems.append(f"the vault has refused {dead} ends of holds")
    return Books(vault, bought, tuple(problems))


def _bought(db: Connection) -> tuple[int, int]:
    (msat,) = db.execute("SELECT coalesce(sum(cost_msat), 0) FROM receipts").fetchone()
    (dead,) = db.execute("SELECT count(*) FROM remote_holds").fetchone()
    return int(msat), int(dead)


def _free_address() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
