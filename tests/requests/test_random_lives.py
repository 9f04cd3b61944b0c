"""Seeded lives of requests: providers that fail, hang and dribble, clients that leave and do not read, limits, retries,
heartbeats and drains, all at random. When each is over the books are right and everything is given back.
"""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from attrs import define, field

from arbstr.config import Limit, LimitsConfig
from arbstr.requests import ModelRequest, PlainAnswer
from arbstr.store import ReceiptRow
from tests.requests.rig import (
    CHEAP,
    DEAR,
    DONE,
    Answer,
    Client,
    World,
    event,
    piece,
    says,
    streams,
    usage,
    usage_event,
)

BATCHES = 10
SEEDS_PER_BATCH = 30
OUTCOMES = {"ok", "failed", "stream_incomplete", "client_disconnected", "budget_exhausted"}


@pytest.fixture
def deposited(batch: int) -> int:
    return 1_000_000 if batch % 2 else 60_000


@define
class Seen:
    """What the observer is told."""

    receipts: list[tuple[str, ReceiptRow]] = field(factory=list)

    def finished(self, request: ModelRequest, receipt: ReceiptRow) -> None:
        self.receipts.append((request.request_id, receipt))


@define
class Life:
    """One request, its client, and what came of it."""

    request: ModelRequest
    client: Client
    patience_s: float
    answer: PlainAnswer | None = None
    left: bool = False

    async def run(self, world: World) -> None:
        with trio.move_on_after(self.patience_s) as scope:
            self.answer = await world.requests.answer(self.request, self.client)
        self.left = scope.cancelled_caught

    @property
    def limited(self) -> bool:
        return self.answer is not None and b'"limited"' in self.answer.body


def fault(rng: random.Random) -> Any:
    status = rng.choice([400, 401, 404, 408, 429, 429, 500, 503])
    refusal = Answer([b'{"error":{"message":"no"}}'], status, rng.choice([{}, {"retry-after": str(rng.randrange(30))}]))
    return rng.choice(
        [
            refusal,
            refusal,
            httpx.ConnectError("x"),
            httpx.ReadError("x"),
            ...,
            Answer([b"{", 3.0, ...]),
            Answer([b"no"]),
        ]
    )


def some_answer(rng: random.Random, stream: bool) -> Any:
    if rng.random() < 0.3:
        return fault(rng)
    claimed = usage(rng.randrange(200), rng.randrange(400))
    if not stream:
        return Answer([rng.uniform(0.0, 4.0), *says("x" * rng.randrange(400), rng.choice([None, claimed])).parts])
    parts: list[Any] = [
        rng.choice([piece("x" * rng.randrange(1, 400)), b": wait\n\n", rng.uniform(0.0, 9.0), piece("y"), piece("z")])
        for _ in range(rng.randrange(8))
    ]
    if rng.random() < 0.5:
        parts.append(usage_event(*claimed.values()))
    ends = [[DONE], [DONE], [DONE], [DONE], [], [httpx.ReadError("x")], [...], [event({"error": {"message": "x"}})]]
    return streams(*parts, *rng.choice(ends))


def some_client(rng: random.Random) -> Client:
    if rng.random() < 0.2:
        return Client(leaves_after=rng.randrange(4))
    return Client()


def some_limits(rng: random.Random) -> LimitsConfig:
    if rng.random() < 0.5:
        return LimitsConfig()
    return LimitsConfig(
        Limit(rng.choice([None, 4]), rng.choice([None, 2_000]), rng.choice([None, 3])),
        Limit(rng.choice([None, 5]), None, rng.choice([None, 2])),
    )


def market(world: World, rng: random.Random, seed: int, stream: bool) -> None:
    for name in ("a", "b", "c")[: rng.randrange(1, 4)]:
        world.provider(
            f"{name}{seed}",
            *[some_answer(rng, stream) for _ in range(rng.randrange(1, 6))],
            models=(f"m{seed}",),
            price=rng.choice([CHEAP, DEAR]),
            first_byte_timeout_s=15.0,
            idle_timeout_s=8.0,
            max_concurrent=rng.choice([1, 2, 100]),
            breaker_failures=rng.choice([1, 3]),
            breaker_open_s=5.0,
            on_disconnect=rng.choice(["close", "drain"]),
        )


async def live(world: World, clock: trio.testing.MockClock, seed: int) -> list[Life]:
    """One seed: a few requests at once, until the last of them has ended."""
    rng = random.Random(seed)
    stream = rng.random() < 0.7
    market(world, rng, seed, stream)
    world.configure(retries=rng.randrange(3), backoff_s=1.0, deadline_s=rng.choice([10.0, 60.0]))
    world.context.heartbeat_s = rng.choice([0.0, 2.0])
    world.context.limits.configure(some_limits(rng), rate_limit_rps=rng.choice([0, 0, 3]))
    lives = [
        Life(
            world.request(stream=stream, model=f"m{seed}", **rng.choice([{}, {}, {"max_tokens": 50}])),
            some_client(rng),
            rng.choice([1e6, 1e6, rng.uniform(0, 20)]),
        )
        for _ in range(rng.randrange(1, 9))
    ]
    slow = [life.client for life in lives if rng.random() < 0.2]
    for client in slow:
        client.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        for life in lives:
            nursery.start_soon(life.run, world)
        for turn in range(400):
            await world.flush()
            await trio.testing.wait_all_tasks_blocked()
            if not world.requests.in_flight:
                break
            if turn == 5:
                for client in slow:
                    assert client.reads is not None
                    client.reads.set()
            # The disk has said all it has to; and no jump is as long as anybody waits for it.
            clock.jump(rng.uniform(0.1, 3.0))
        else:
            pytest.fail("a request does not end")
    return lives


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_the_books_are_right_and_all_is_given_back_whatever_happens(
    world: World, clock: trio.testing.MockClock, batch: int
) -> None:
    seen = Seen()
    world.context.observers = (seen,)
    outcomes: dict[str, int] = {}
    for seed in range(batch * SEEDS_PER_BATCH, (batch + 1) * SEEDS_PER_BATCH):
        lives = await live(world, clock, seed)
        await world.flush()
        assert world.context.limits.in_flight == 0, seed
        for life in lives:
            outcome = check(world, life, seen, seed)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    spent = sum(row["cost_msat"] for row in await world.receipts())
    await world.check_closed(spent=spent)
    assert outcomes["ok"] > 5
    assert outcomes["client_disconnected"] > 3
    assert outcomes["failed"] > 3


def check(world: World, life: Life, seen: Seen, seed: int) -> str:
    """What is left of one life fits together. Gives its outcome."""
    request, client = life.request, life.client
    rows = world.rows("SELECT * FROM receipts WHERE request_id = ?", request.request_id)
    told = [receipt for request_id, receipt in seen.receipts if request_id == request.request_id]
    assert len(rows) == len(told) == (0 if life.limited else 1), seed
    if life.limited:
        assert (client.status, life.left) == (None, False)
        return "limited"
    [row], [receipt] = rows, told
    assert row["outcome"] in OUTCOMES, seed
    assert (row["outcome"], row["cost_msat"]) == (receipt.outcome, receipt.cost_msat)
    left = life.left or client.leaves_after is not None
    if row["outcome"] == "client_disconnected":
        assert left, seed
    if DONE in client.got:
        assert row["outcome"] == "ok", seed
    elif client.finished:
        assert "error" in client.events[-1], seed
        assert row["outcome"] != "ok", seed
    elif life.answer is None:
        assert left, seed
    if life.answer is not None:
        assert client.status is None, seed
        assert (life.answer.status == 200) == (row["outcome"] == "ok"), seed
        assert json.loads(life.answer.body), seed
    if row["outcome"] == "failed":
        assert row["cost_msat"] == 0, seed
    return str(row["outcome"])
