"""What is on the other side of the vault: wallets that do what a script says, and the operator's webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import trio
from attrs import define, field

from arbstr.accounts import WebhookTarget
from arbstr.secrets import Secret
from arbstr.sim._scripts import WalletScript
from arbstr.wallets import Behaviour, Invoice, PaymentOrder, Result, SimulatedWallet, WalletError

if TYPE_CHECKING:
    from arbstr.sim._process import Process
    from arbstr.sim._world import World

TARGET = WebhookTarget("http://operator.test/hook", Secret("a secret of both"))
EVENT_ID = "x-arbstrvault-event-id"


@define(eq=False)
class WayToWallet:
    """A process's way to one wallet. What is on its way arrives, whatever becomes of the process meanwhile."""

    world: World
    process: Process
    rail: str
    wallet: SimulatedWallet = field(init=False)
    _lost: dict[str, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.wallet = SimulatedWallet(self._behaviour, self.world.facts.wallets[self.rail])

    def _script(self, destination: str | None) -> WalletScript:
        return self.world.wallet_scripts[destination or ""][self.rail]

    def _behaviour(self, order: PaymentOrder) -> Behaviour:
        return self._script(order.destination).behaviour

    async def pay(self, order: PaymentOrder) -> Result:
        if self.process.dead:
            await trio.sleep_forever()
        self.world.ordered(self.rail, order)
        answers: list[Result] = []
        heard = trio.Event()

        async def carry() -> None:
            try:
                await trio.sleep(self._script(order.destination).travels_s)
                answers.append(await self.wallet.pay(order))
                self.world.happened("wallet answers")
            except WalletError:
                pass
            finally:
                heard.set()

        self.world.errands.start_soon(carry)
        await heard.wait()
        if not answers:
            raise WalletError("the answer was lost, says the script")
        return answers[0]

    async def lookup(self, key: str) -> Result:
        await trio.lowlevel.checkpoint()
        if self.process.dead:
            await trio.sleep_forever()
        payment = self.world.books.payments[key]
        lost = self._lost.get(key, 0)
        if lost < self._script(payment.destination).lost_lookups:
            self._lost[key] = lost + 1
            raise WalletError("the wallet does not answer, says the script")
        result = await self.wallet.lookup(key)
        self.world.count(f"lookup {result.state.value}")
        self.world.note(f"{self.rail} says of {key}: {result.state.value}")
        self.world.happened("wallet answers")
        return result

    async def invoice(self, amount_msat: int, memo: str, expiry_s: int) -> Invoice:
        return await self.wallet.invoice(amount_msat, memo, expiry_s)

    async def balance(self) -> int:
        return await self.wallet.balance()


@define(eq=False)
class WayToWebhook(httpx.AsyncBaseTransport):
    """A process's way to the operator's webhook."""

    world: World
    process: Process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.process.dead:
            await trio.sleep_forever()
        event_id, body = request.headers[EVENT_ID], (await request.aread()).decode()
        hearing = self.world.told_event(event_id, body)
        await trio.sleep(self.world.scenario.webhook.takes_s)
        match hearing:
            case "hangs":
                await trio.sleep_forever()
            case "breaks":
                raise httpx.ReadError("broken, says the script")
            case "refuses":
                return httpx.Response(503)
        self.world.heard_event(event_id, body)
        if hearing == "loses":
            raise httpx.ReadError("the answer was lost, says the script")
        return httpx.Response(204)

    async def aclose(self) -> None:
        pass
