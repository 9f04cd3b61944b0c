"""A catalog with a scripted world around it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from attrs import define, field

from actors import ActorSystem, TrioActorRef
from arbstr.config import Config
from arbstr.market import CatalogActor, MarketBoard, MarketReport, WhenReady
from tests.market.rig import RecordingFleet, World


@define
class Rig:
    """Start the actor with ``start``; nothing is read before. A test that uses it names ``autojump_clock`` itself."""

    system: ActorSystem
    world: World = field(factory=World)
    fleet: RecordingFleet = field(factory=RecordingFleet)
    board: MarketBoard = field(factory=MarketBoard)
    unix: float = 1_782_864_000.0
    ref: TrioActorRef[CatalogActor] = field(init=False)

    def start(self, config: Config) -> TrioActorRef[CatalogActor]:
        begun = trio.current_time()
        self.ref = self.system.start(
            CatalogActor,
            config,
            self.fleet,
            self.board,
            transport=self.world,
            unix_now=lambda: self.unix + trio.current_time() - begun,
            chance=lambda: 0.0,
        )
        return self.ref

    async def ready(self, config: Config) -> MarketReport:
        return await self.start(config).request(WhenReady(), timeout_s=100)

    @property
    def report(self) -> MarketReport:
        return self.board.report


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with ActorSystem.run() as system:
        yield Rig(system)
        await system.stop_all()
